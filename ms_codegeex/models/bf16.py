"""BF16 on devices without BF16 kernels: FP32 operators whose operands, results and gradients are BF16 numbers.
MindSpore's CPU kernels do not take BF16, not even in a reshape. A model that is built for BF16 runs in FP32 there, and
rounds around every operator that a device would run in BF16. Its cells name these operators in `computed_in_dtype`."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops


class RoundToBf16(nn.Cell):
    """Rounds to the nearest BF16 numbers, ties to even, held in FP32, and the gradient in the same way. It replaces a
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
        """Return the operator's result, rounded."""
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
