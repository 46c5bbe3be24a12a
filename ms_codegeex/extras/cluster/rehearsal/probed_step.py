"""What an executed step adds to a run's own: an optimizer that hides no error, and an overflow in one gradient.

The weights follow plain gradient descent, because Adam would hide a wrong scale of the gradients. The run's own AdamW
updates copies of the weights from the same gradients, and so does NumPy.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.parameter import ParameterTuple

from ms_codegeex.config import RunConfig
from ms_codegeex.config.sections import OptimizerConfig
from ms_codegeex.parallel.sharding import layouts_of
from ms_codegeex.training.build import TrainingCells, adamw, build
from ms_codegeex.training.step import StepSettings, TrainStep

GRADIENT, COPY = "rehearsal.gradient.", "rehearsal.adamw."
CLIP, OVERFLOW = "rehearsal.clip", "rehearsal.overflow"
NORM_LIMIT = "faults.norm_limit"  # a parameter of the step, if it has a policy for faults


def _follow(weight: Parameter, gradient: Tensor) -> Tensor:
    return ops.depend(gradient, weight)


def _descend(kernel: ops.Primitive, rate: Tensor, weight: Parameter, kept: Parameter, gradient: Tensor) -> Tensor:
    return kernel(weight, kept, rate, gradient, 0.0)  # without momentum, what it keeps is the gradient


class Descent(nn.Cell):
    """Gradient descent, w -= lr·g, that keeps g; and the run's AdamW on copies of the weights."""

    def __init__(self, config: RunConfig, parameters: list[Parameter]):
        super().__init__(auto_prefix=False)
        self.parameters = ParameterTuple(parameters)
        self.gradients = self.parameters.clone(prefix=GRADIENT[:-1], init="zeros")
        self.adamw = adamw(config, parameters, newer=False)
        self.adamw.parameters = self.parameters.clone(prefix=COPY[:-1], init="zeros")
        self.kernel, self.map = ops.ApplyMomentum(), ops.HyperMap()

    def construct(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """FP32 gradients in the parameters' order -> the learning rate used; updates in place."""
        gradients = self.map(_follow, self.parameters, gradients)
        rate = self.adamw(gradients)
        done = self.map(ops.partial(_descend, self.kernel, rate), self.parameters, self.gradients, gradients)
        return ops.depend(rate, done)


def _overflow(value: Tensor, marked: bool, gradient: Tensor) -> Tensor:
    if marked:
        return gradient + value
    return gradient


class ProbedStep(TrainStep):
    """A step whose clipping can be changed between steps, and that adds `rehearsal.overflow` to one gradient. A CPU,
    which executes it, has infinities and no register."""

    def __init__(self, network: nn.Cell, optimizer: nn.Cell, settings: StepSettings, marked: str):
        super().__init__(network, optimizer, replace(settings, saturates=False))
        self.clip = Parameter(Tensor(settings.clip_norm, ms.float32), name=CLIP, requires_grad=False)
        self.overflow = Parameter(Tensor(0.0, ms.float32), name=OVERFLOW, requires_grad=False)
        self.marked = tuple(weight.name == marked for weight in self.weights)

    def probe(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return self.map(ops.partial(_overflow, self.overflow), self.marked, gradients)


def marked_parameter(config: RunConfig) -> str:
    """The parameter whose gradient overflows on the last rank: the one of its stage that is sharded most."""
    mesh = config.mesh
    mine = [layout for layout in layouts_of(config) if layout.stage == mesh.pipeline - 1 and layout.trained]
    mine = [layout for layout in mine if not layout.copy_of]
    return min(mine, key=lambda layout: layout.local_size(mesh) / layout.size).name


def build_probed(config: RunConfig, marked: str, tied_group: str | None = None) -> TrainingCells:
    """Everything a run builds, with the step and the optimizer of a rehearsal.

    Its graphs are inlined, because a pipeline's crash otherwise. Micro-batches without a pipeline are called, as in
    training: in an inlined graph MindSpore looks for the gradient of the first operator that has a parameter, which
    with adapters is frozen and has none.
    """
    called = config.mesh.pipeline == 1
    return build(config, tied_group, called, Descent, partial(ProbedStep, marked=marked), partitioned=True)


class AdamWFormula:
    """AdamW in float64 NumPy, the reference for `optimizer.AdamW`. Matrices and tables decay, vectors do not."""

    def __init__(self, config: OptimizerConfig, weights: dict[str, np.ndarray]):
        self.config, self.updates = config, 0
        self.weights = {name: value.astype(np.float64) for name, value in weights.items()}
        self.first = {name: value.copy() for name, value in self.weights.items()}
        self.m = {name: np.zeros_like(value) for name, value in self.weights.items()}
        self.v = {name: np.zeros_like(value) for name, value in self.weights.items()}

    def update(self, rate: float, gradients: dict[str, np.ndarray]) -> None:
        """One update from gradients after clipping."""
        c, self.updates = self.config, self.updates + 1
        corrections = [1 - beta**self.updates if c.bias_correction else 1.0 for beta in (c.beta1, c.beta2)]
        for name, w in self.weights.items():
            g = gradients[name].astype(np.float64)
            m = self.m[name] = c.beta1 * self.m[name] + (1 - c.beta1) * g
            v = self.v[name] = c.beta2 * self.v[name] + (1 - c.beta2) * g * g
            direction = m / corrections[0] / (np.sqrt(v / corrections[1]) + c.epsilon)
            decay = c.weight_decay if w.ndim > 1 else 0.0
            self.weights[name] = w - rate * (direction + decay * w)

    def errors(self, actual: dict[str, np.ndarray]) -> dict[str, float]:
        """Largest deviation of each weight, relative to its movement by the formula."""
        result = {}
        for name, expected in self.weights.items():
            moved, error = (float(np.max(np.abs(x - expected))) for x in (self.first[name], actual[name]))
            relative = error / moved if moved else 0.0 if error == 0 else math.inf
            result[name] = relative if math.isfinite(relative) else math.inf
        return result


def parameters_of(parameters: dict[str, Any], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): p.asnumpy() for name, p in parameters.items() if name.startswith(prefix)}
