"""The tensors of a run that one rank holds: weights, moments and loss scale; first values, saving, restoring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.config import RunConfig
from ms_codegeex.formats.checkpoint import Checkpoint
from ms_codegeex.formats.checkpoint_writing import Slice
from ms_codegeex.formats.tensors import LazyTensor
from ms_codegeex.parallel.sharding import Placement
from ms_codegeex.training.build import Built
from ms_codegeex.training.initialise import starting_weight


class RankState:
    """This rank's part of a run's tensors, where `Placement` says that it lies."""

    def __init__(self, config: RunConfig, built: Built, place: Placement):
        self._config, self.place = config, place
        self._step, self._optimizer = built.step, built.optimizer

    def initialise(self, weights: Mapping[str, LazyTensor]) -> None:
        """Set weights from `weights`, or from seed and name; moments and buffers that the engine left empty to zero."""
        sizes, place = self._config.model.sizes, self.place
        names = {*(p.name for p in self._optimizer.parameters), *sizes.parameter_shapes()}
        for parameter in self._step.get_parameters():
            name = parameter.name
            if name in names:
                if place.here(name):
                    shape, window = place.shape(name, tuple(parameter.shape)), place.window(name)
                    stored = place.stored_name(name)
                    std = sizes.initial_std(stored)
                    _set(parameter, starting_weight(stored, shape, std, self._config.seed, window, weights))
            elif self._config.partitioned and parameter.has_init:
                _set(parameter, np.zeros(parameter.shape, np.float32))

    def tensors(self) -> dict[str, ms.Parameter]:
        """Weights and moments that this rank holds, by parameter name."""
        return {parameter.name: parameter for parameter in self._all() if self.place.here(parameter.name)}

    def slices(self) -> dict[str, Slice]:
        """The slices of weights and moments that this rank saves; those of all ranks make a checkpoint."""
        slices = {}
        for name, parameter in self.tensors().items():
            if self.place.writes(name):
                shape, window = self.place.shape(name, tuple(parameter.shape)), self.place.window(name)
                offset = tuple(part.start for part in window) if window else (0,) * len(shape)
                slices[name] = Slice(shape, offset, parameter.asnumpy())
        return slices

    def state(self) -> dict[str, Any]:
        """The scalars as JSON values."""
        return {
            "optimizer_step": int(self._optimizer.step.asnumpy()),
            "loss_scale": {
                "scale": float(self._step.scale.asnumpy()),
                "good_steps": int(self._step.good_steps.asnumpy()),
            },
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Read tensors and scalars. `UserError` if its tensors are not those of this model; then nothing is read."""
        self._check(checkpoint)
        for name, parameter in self.tensors().items():
            _set(parameter, checkpoint.tensor(self.place.stored_name(name), self.place.window(name)))
        state = checkpoint.state
        self._optimizer.step.set_data(Tensor(state["optimizer_step"], ms.int32))
        # an FP32 run has no loss scale to continue with
        if self._step.scaled and state["config"]["training"]["precision"] == "fp16":
            self._step.scale.set_data(Tensor(state["loss_scale"]["scale"], ms.float32))
            self._step.good_steps.set_data(Tensor(state["loss_scale"]["good_steps"], ms.int32))

    def _all(self) -> tuple[ms.Parameter, ...]:
        return (*self._optimizer.parameters, *self._optimizer.m, *self._optimizer.v)

    def _check(self, checkpoint: Checkpoint) -> None:
        place = self.place
        names = {place.stored_name(parameter.name) for parameter in self._all()}
        if names != set(checkpoint.names):
            odd = sorted(names ^ set(checkpoint.names))[0]
            raise UserError(
                f"{checkpoint.path}: tensor {odd} is missing from the checkpoint or from the model; this checkpoint "
                "is of another model, choose another output or checkpoint.resume=null"
            )
        for name, parameter in self.tensors().items():
            shape, stored = place.shape(name, tuple(parameter.shape)), place.stored_name(name)
            if shape != checkpoint.shape(stored):
                raise UserError(
                    f"{checkpoint.path}: tensor {stored} is {checkpoint.shape(stored)}, the model has {shape}; use "
                    "the model settings of the run, or another output"
                )


def _set(parameter: ms.Parameter, value: np.ndarray) -> None:
    if value.shape != tuple(parameter.shape):
        raise RunFailure(
            f"{parameter.name}: the engine made it {tuple(parameter.shape)}, the plan says {value.shape}; "
            "check the configuration with `ms-codegeex rehearse`"
        )
    parameter.set_data(Tensor(np.ascontiguousarray(value)), slice_shape=True)
