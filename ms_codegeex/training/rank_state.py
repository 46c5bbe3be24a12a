"""The content of a run's checkpoint: each rank's tensors (weights, moments, loss scale) and their initial values, and
the run's provenance: data, tokenizer, description of the model, and the model to which its adapters belong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.config import RunConfig
from ms_codegeex.data.description import taught_by
from ms_codegeex.formats.checkpoint import Checkpoint, fingerprint, untied
from ms_codegeex.formats.checkpoint_writing import Slice
from ms_codegeex.formats.tensors import LazyTensor, overlap, window_ranges
from ms_codegeex.models.parameters import LORA_A, NUMBERS
from ms_codegeex.parallel.sharding import Placement
from ms_codegeex.training.build import TrainingCells
from ms_codegeex.training.first_values import initial_weight
from ms_codegeex.training.start import RunData, RunStart


class RankState:
    """This rank's part of a run's tensors, as `Placement` divides them."""

    def __init__(self, config: RunConfig, built: TrainingCells, placement: Placement):
        self._config, self.place = config, placement
        self._step, self._optimizer = built.step, built.optimizer

    def initialise(self, weights: Mapping[str, LazyTensor]) -> None:
        """Set weights from `weights`, or else from seed and name. Set moments and buffers that MindSpore left empty to
        zero."""
        sizes, placement = self._config.model.sizes, self.place
        names = {*(p.name for p in self._optimizer.parameters), *sizes.parameter_shapes()}
        for parameter in self._step.get_parameters():
            name = parameter.name
            if name in names:
                if placement.here(name):
                    if not parameter.requires_grad and _held_as_stored(parameter, weights.get(name)):
                        continue
                    if rounded := weights.get(name + NUMBERS):
                        _set(parameter, rounded.array())
                        continue
                    shape, window = placement.shape(name, tuple(parameter.shape)), placement.window(name)
                    stored = placement.stored_name(name)
                    std = sizes.initial_std(stored)
                    _set(parameter, starting_weight(stored, shape, std, self._config.seed, window, weights))
            elif name in weights:  # scales
                _set(parameter, weights[name].array())
            # MindSpore does not shard what belongs to other stages: whole moments would fill the host's memory.
            elif parameter.has_init and not placement.elsewhere(name):
                # unwritten pages take no memory, and moments and sums of gradients are larger than the weights
                _set(parameter, np.zeros(parameter.shape, np.float32), Tensor.from_numpy)

    def tensors(self) -> dict[str, ms.Parameter]:
        return {parameter.name: parameter for parameter in self._all() if self.place.here(parameter.name)}

    def slices(self) -> dict[str, Slice]:
        """Return the slices of weights and moments that this rank saves. Those of all ranks form a checkpoint."""
        slices = {}
        for name, parameter in self.tensors().items():
            if self.place.writes(name):
                shape, window = self.place.shape(name, tuple(parameter.shape)), self.place.window(name)
                offset = tuple(part.start for part in window) if window else (0,) * len(shape)
                slices[name] = Slice(shape, offset, parameter.asnumpy())
        return slices

    def state(self) -> dict[str, Any]:
        """Return the scalars of a checkpoint as JSON values."""
        scale, good_steps = float(self._step.scale.asnumpy()), int(self._step.good_steps.asnumpy())
        scaling = {"scale": scale, "good_steps": good_steps}
        return {"optimizer_step": int(self._optimizer.step.asnumpy()), "loss_scale": scaling}

    def restore(self, checkpoint: Checkpoint, beat: Callable[[], None] = lambda: None) -> None:
        """Read tensors and scalars, calling `beat` before each tensor. Raises `UserError`, before anything is read, if
        the tensors are not those of this model."""
        self._check(checkpoint)
        for name, parameter in self.tensors().items():
            beat()
            _set(parameter, checkpoint.tensor(self.place.stored_name(name), self.place.window(name)))
        state = checkpoint.state
        self._optimizer.step.set_data(Tensor(state["optimizer_step"], ms.int32))
        # a checkpoint of an FP32 run has no loss scale
        if self._step.scaled and state["config"]["training"]["precision"] == "fp16":
            self._step.scale.set_data(Tensor(state["loss_scale"]["scale"], ms.float32))
            self._step.good_steps.set_data(Tensor(state["loss_scale"]["good_steps"], ms.int32))

    def _all(self) -> tuple[ms.Parameter, ...]:
        return (*self._optimizer.parameters, *self._optimizer.m, *self._optimizer.v)

    def _check(self, checkpoint: Checkpoint) -> None:
        placement = self.place
        names = {placement.stored_name(parameter.name) for parameter in self._all()}
        if names != set(checkpoint.names):
            odd = sorted(names ^ set(checkpoint.names))[0]
            if odd.endswith(f".{LORA_A}") and names < set(checkpoint.names):
                raise untied(str(checkpoint.path), odd.removesuffix(f".{LORA_A}"))
            wrong = f"tensor {odd} is missing from the checkpoint or from the model"
            raise UserError(f"{checkpoint.path}: {wrong}; choose another output without --resume")
        for name, parameter in self.tensors().items():
            shape, stored = placement.shape(name, tuple(parameter.shape)), placement.stored_name(name)
            if shape != checkpoint.shape(stored):
                wrong = f"tensor {stored} is {checkpoint.shape(stored)}, the model has {shape}"
                raise UserError(f"{checkpoint.path}: {wrong}; use the run's model, or another output without --resume")


def _held_as_stored(parameter: ms.Parameter, tensor: LazyTensor | None) -> bool:
    """Let a frozen parameter be a read-only view of the file, if the file holds its exact bytes, and return whether it
    does. It takes no memory of this process, and processes that read the same file share its pages."""
    kinds = {ms.float32: "float32", ms.float16: "float16"}
    if tensor is None or tensor.dtype != kinds.get(parameter.dtype) or tensor.shape != tuple(parameter.shape):
        return False
    _check_finite(parameter.name, tensor.array())  # in a separate map, so that the pages read here are released
    parameter.set_data(Tensor.from_numpy(tensor.array()), slice_shape=True)
    return True


def _set(parameter: ms.Parameter, value: np.ndarray, tensor_of: Callable[[np.ndarray], Tensor] = Tensor) -> None:
    if value.shape != tuple(parameter.shape):
        wrong = f"the engine made it {tuple(parameter.shape)}, the plan says {value.shape}"
        raise RunFailure(f"{parameter.name}: {wrong}; check the configuration with `ms-codegeex rehearse`")
    if parameter.dtype == ms.float16:
        with np.errstate(over="ignore"):
            value = value.astype(np.float16)
        _check_finite(parameter.name, value, " in 16 bits")
    tensor = tensor_of(np.ascontiguousarray(value))
    parameter.set_data(tensor.astype(parameter.dtype) if parameter.dtype == ms.bfloat16 else tensor, slice_shape=True)


def _check_finite(name: str, value: np.ndarray, how: str = "") -> None:
    if not np.isfinite(value).all():
        remedy = "set lora.frozen=fp32" if how else "start from another model"
        raise UserError(f"model.weights: tensor {name} holds numbers that are not finite{how}; {remedy}")


def starting_weight(
    name: str,
    shape: tuple[int, ...],
    std: float,
    seed: int,
    window: tuple[slice, ...] | None,
    weights: Mapping[str, LazyTensor],
) -> np.ndarray:
    """Return FP32 values: those of `weights[name]`, and of `initial_weight` for rows of `shape` beyond them or without
    such a tensor. Only the part in `window` is read. Raises `UserError` if a value is not finite."""
    tensor, ranges = weights.get(name), window_ranges(shape, window)
    common = tensor and overlap(ranges, {"offset": (0,) * len(shape), "shape": tensor.shape})
    if common is None:
        return initial_weight(name, shape, std, seed, window)
    there, here = common
    value = tensor.window(there).float32()
    _check_finite(name, value)
    if value.shape == tuple(stop - start for start, stop in ranges):
        return value
    whole = initial_weight(name, shape, std, seed, window)
    whole[here] = value
    return whole


class Provenance:
    """What a run was made from. It is computed before training, since a path may hold other data later, and by rank 0,
    whose state alone is saved. `description`: that of the model the run starts from, updated by what the data teach."""

    def __init__(self, config: RunConfig, data: RunData, start: RunStart, rank: int):
        self._config, self._rank, self._datasets = config, rank, dict(data.hashes)
        info, infilling = data.training.info, data.training.infilling
        self._tokenizer = info.get("tokenizer")
        marks = None if infilling is None else infilling.sentinels
        self.description = replace(taught_by(info), infill=marks).over(start.description)
        # only adapters are saved, so their model is identified
        model = set(config.model.sizes.parameter_shapes())
        base = {name: tensor for name, tensor in start.weights.items() if name in model}
        self._base = fingerprint(base) if config.lora.rank and rank == 0 else None

    def state(self) -> dict[str, Any]:
        return {
            "datasets": self._datasets,
            "base": self._base,
            "rng": {"seed": self._config.seed},
            "config": self._config.to_dict(),
            "tokenizer": self._tokenizer,
            "description": self.description.to_json(),
        }

    def check(self, checkpoint: Checkpoint) -> None:
        """Raise `UserError` if the adapters of a checkpoint belong to another model."""
        if self._rank == 0 and checkpoint.state.get("base") != self._base:
            wrong = f"its adapters belong to another model than {self._config.model.weights}"
            raise UserError(f"{checkpoint.path}: {wrong}; restore that model, or set another output without --resume")
