"""Overflow on chips that saturate: results do not show it, as infinity becomes the largest number and NaN becomes 0.

Ascend 910: CANN, `aclrtFloatOverflowMode` ("Atlas training products"). Such a chip has a register that the first
overflow of any operator sets. Each device has its own. Later chips compute infinities and NaN, and have no such
operators.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops.operations.math_ops import NPUClearFloatStatusV2, NPUGetFloatStatusV2

OVERFLOWED = -3e38  # replaces a squared norm; infinity would spoil its neighbours when the tensor is reduced


class OverflowRegister(nn.Cell):
    """This device's overflow register. Whatever may set it clears it at the end. It cannot be cleared at the beginning,
    because a pipeline stage has no operation there on which all its computations depend."""

    def __init__(self):
        super().__init__(auto_prefix=False)
        # not sharded: in graphs without gradients, MindSpore shards operators that have no strategy
        self.clear = NPUClearFloatStatusV2().add_prim_attr("StandAlone", True)
        self.read = NPUGetFloatStatusV2()
        self.status, self.zero = Tensor(np.zeros(8, np.int32)), Tensor(0, ms.int32)

    def cleared(self, last: Tensor) -> Tensor:
        return ops.depend(last, self.clear(ops.depend(self.status, last)))

    def overflowed(self, last: Tensor) -> Tensor:
        return ops.sum(ops.abs(self.read(ops.depend(self.status, last)))) > self.zero
