"""A chip that only saturates (`training/overflow.py`), emulated on a CPU: FP16 operators whose infinite results are the
largest number and whose NaN are 0, in both directions, and a register that counts them.

The register is a parameter whose gradient is the count: a backward pass may have no other effects.

Started with JOB_DIRECTORY LAUNCHER_PID, it trains a job on each of `EMULATED`; a line on standard output tells of each
that is done.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.parameter import ParameterTuple

from ms_codegeex.base.host import available_cores
from ms_codegeex.base.printing import print_out
from ms_codegeex.base.processes import ForkSpec, run_processes
from ms_codegeex.data.datasets.batches import Batch
from ms_codegeex.extras.cluster.rehearsal.emulation import EMULATED, SHOWN
from ms_codegeex.extras.cluster.rehearsal.execution_program import answered, main
from ms_codegeex.extras.cluster.rehearsal.job import RehearsalJob, batches, initial_value
from ms_codegeex.parallel.sharding import layouts_of
from ms_codegeex.training.build import build
from ms_codegeex.training.overflow import OVERFLOWED
from ms_codegeex.training.step import StepSettings, TrainStep

LARGEST = 65504.0
REGISTER = "rehearsal.register"
CONSTANT = {"drop": 1, "add_mask": 1}  # operators with an operand that no weight is in: no graph has its gradient


class Saturation(nn.Cell):
    """FP16 as the chip stores it, at most `largest`. The gradient of `register` counts what overflowed in the value and
    its gradient. With an infinite `largest` infinities stay."""

    def __init__(self, largest: float):
        super().__init__()
        self.saturates, self.largest = math.isfinite(largest), largest
        self.up, self.down, self.finite, self.is_nan = ops.Cast(), ops.Cast(), ops.IsFinite(), ops.IsNan()
        self.zeros, self.sum = ops.ZerosLike(), ops.ReduceSum()

    def _stored(self, x: Tensor) -> Tensor:
        wide = self.up(x, ms.float32)
        if self.saturates:
            wide = ops.select(self.is_nan(wide), self.zeros(wide), wide)
        return self.down(ops.clip(wide, -self.largest, self.largest), ms.float16)

    def _count(self, x: Tensor) -> Tensor:
        return self.sum(self.up(ops.logical_not(self.finite(x)), ms.float32))

    def construct(self, x: Tensor, register: Tensor) -> Tensor:
        """elementwise"""
        return self._stored(x)

    def bprop(self, x: Tensor, register: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        """Of `x` and of `register`."""
        return self._stored(dout), self._count(x) + self._count(dout)


class SaturatedOperator(nn.Cell):
    """An operator with operands and result in FP16. There is no gradient of operand number `constant`."""

    def __init__(self, operator: ops.Primitive, register: Parameter, largest: float, constant: int | None = None):
        super().__init__(auto_prefix=False)
        self.operator, self.register, self.constant = operator, register, constant
        self.operand, self.result = Saturation(largest), Saturation(largest)

    def construct(self, *operands: Tensor | float) -> Tensor:
        """as the operator"""
        stored = ()
        for number, operand in enumerate(operands):
            if isinstance(operand, Tensor) and operand.dtype == ms.float16:
                operand = self.operand(operand, self.register)
            if number == self.constant:  # its wrapper would make MindSpore compute one
                operand = ops.stop_gradient(operand)
            stored += (operand,)
        result = self.operator(*stored)
        return self.result(result, self.register) if result.dtype == ms.float16 else result


def saturate(network: nn.Cell, largest: float = LARGEST) -> Parameter:
    """Let the FP16 operators of a network saturate at `largest`. Returns the register."""
    register = Parameter(Tensor(0.0, ms.float32), name=REGISTER, requires_grad=False)
    for _, cell in list(network.cells_and_names()):
        for name in getattr(cell, "computed_in_dtype", ()):
            operator = getattr(cell, name)
            delattr(cell, name)
            setattr(cell, name, SaturatedOperator(operator, register, largest, CONSTANT.get(name)))
    return register


class SaturatingStep(TrainStep):
    """A step on the emulated chip, which reads the register instead of looking for infinities."""

    def __init__(self, network: nn.Cell, optimizer: nn.Cell, settings: StepSettings):
        super().__init__(network, optimizer, settings)
        self.weights_and_register = ParameterTuple((*self.weights, saturate(network)))

    def sums_and_gradients(
        self, scale: Tensor, inputs: Tensor, labels: Tensor, loss_mask: Tensor, samples: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As in the base class, with the register's mark in the sums."""
        sums = self.network(inputs, labels, loss_mask, samples)
        sensitivity = self.direction * (scale / self.slots)
        gradients = self.grad(self.network, self.weights_and_register)(inputs, labels, loss_mask, samples, sensitivity)
        mark = ops.select(gradients[-1] > 0, Tensor(OVERFLOWED, ms.float32), Tensor(0.0, ms.float32))
        return sums + self.square_place * mark, gradients[:-1]


class StepWithInfinities(TrainStep):
    """As a chip with infinities computes, with operators of the same form, which MindSpore does not fuse."""

    def __init__(self, network: nn.Cell, optimizer: nn.Cell, settings: StepSettings):
        super().__init__(network, optimizer, settings)
        saturate(network, math.inf)


CELLS = dict(zip(EMULATED, (StepWithInfinities, SaturatingStep), strict=True))


def trained(
    step: TrainStep, accumulate: nn.Cell | None, steps: Iterable[Sequence[Batch]], weights: Sequence[Parameter]
) -> dict[str, np.ndarray]:
    """The figures of the steps, [steps, 6], under `SHOWN`, and the final weights by name. `accumulate` takes all
    micro-batches of a step but the last."""
    shown = []
    for *others, last in steps:
        for part in others:
            accumulate(*map(Tensor, part.arrays()))
        shown.append(step(*map(Tensor, last.arrays())).asnumpy())
    return {SHOWN: np.array(shown), **{p.name: p.asnumpy().copy() for p in weights}}


def trained_small(
    job: RehearsalJob, step: Callable[[nn.Cell, nn.Cell, StepSettings], TrainStep]
) -> dict[str, np.ndarray]:
    """What `trained` returns for a job on one device, with such a step."""
    names = {layout.name for layout in layouts_of(job.config)}
    built = build(job.config, step=step)
    weights = [p for p in built.network.get_parameters() if p.name in names]
    for p in weights:
        p.set_data(Tensor(initial_value(p.name, tuple(p.shape))))
    data = batches(job.config, job.steps)
    parts = (Batch(*[a[number] for a in data]).parts(job.config.accumulation) for number in range(job.steps))
    return trained(built.step.set_train(True), built.accumulate_step, parts, weights)


def train_on(job: RehearsalJob, chip: str) -> None:
    """Train on one of `EMULATED`; write what it shows and the weights."""
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    np.savez(job.directory / f"{chip}.npz", **trained_small(job, CELLS[chip]))


def play(job: RehearsalJob) -> None:
    """Train on all of `EMULATED`, each in a process of its own."""
    specs = [ForkSpec(chip, partial(answered, train_on, job, chip), job.directory) for chip in EMULATED]
    run_processes(specs, min(available_cores(), len(specs)), lambda done: print_out(done.label))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], play))
