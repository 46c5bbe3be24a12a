"""A chip that only saturates (`training/overflow.py`), emulated on a CPU: FP16 operators whose infinite results are the
largest number and whose NaN are 0, in both directions, and a register that counts them.

The register is a parameter whose gradient is the count: a backward pass may have no other effects.
"""

from __future__ import annotations

import math

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.parameter import ParameterTuple

from ms_codegeex.training.overflow import OVERFLOWED
from ms_codegeex.training.step import StepSettings, TrainStep

LARGEST = 65504.0
REGISTER = "rehearsal.register"


class Saturated(nn.Cell):
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
    """An operator with operands and result in FP16."""

    def __init__(self, operator: ops.Primitive, register: Parameter, largest: float):
        super().__init__(auto_prefix=False)
        self.operator, self.register = operator, register
        self.operand, self.result = Saturated(largest), Saturated(largest)

    def construct(self, *operands: Tensor | float) -> Tensor:
        """as the operator"""
        stored = ()
        for operand in operands:
            if isinstance(operand, Tensor) and operand.dtype == ms.float16:
                operand = self.operand(operand, self.register)
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
            setattr(cell, name, SaturatedOperator(operator, register, largest))
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
