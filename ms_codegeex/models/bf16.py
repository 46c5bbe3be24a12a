"""BF16 where no kernel computes it: FP32 operators whose operands, results and gradients are BF16 numbers. MindSpore's
CPU kernels take no BF16, neither in products nor in a reshape. A model that is built for BF16 then runs in FP32, with a
rounding around every operator that would be BF16 on a device. Its cells name these operators in `computed_in_dtype`."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops


class RoundToBf16(nn.Cell):
    """The nearest BF16 numbers, ties to even, as FP32. The gradient is rounded in the same way. It takes the place of a
    cast to or from BF16."""

    def __init__(self):
        super().__init__()
        self.to_bf16, self.to_fp32 = ops.Cast(), ops.Cast()

    def construct(self, x: Tensor | float, dtype: ms.Type | None = None) -> Tensor:
        return self.to_fp32(self.to_bf16(x, ms.bfloat16), ms.float32)


class RoundedOperator(nn.Cell):
    """An operator as a BF16 device computes it: products and sums in FP32, operands and result rounded, and in the
    backward pass the gradients of the result and of each operand."""

    def __init__(self, operator: ops.Primitive):
        super().__init__()
        self.operator, self.round = operator, RoundToBf16()

    def construct(self, *operands: Tensor | float) -> Tensor:
        """as the operator"""
        rounded = ()
        for operand in operands:
            rounded += (self.round(operand),)
        return self.round(self.operator(*rounded))


def round_to_bf16(network: nn.Cell) -> None:
    """Let a network that was built with dtype BF16 run in FP32 with BF16's rounding."""
    for _, cell in list(network.cells_and_names()):
        for name in getattr(cell, "computed_in_dtype", ()):
            operator = getattr(cell, name)
            delattr(cell, name)
            setattr(cell, name, RoundToBf16() if isinstance(operator, ops.Cast) else RoundedOperator(operator))
