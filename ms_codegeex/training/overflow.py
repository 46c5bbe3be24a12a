"""Overflow on chips that only saturate, where no result shows it: an infinite one becomes the largest number, NaN 0.

Ascend 910: CANN, `aclrtFloatOverflowMode` ("Atlas training products"). Such a chip has a register that the first
overflow of any operator sets. Each device has its own. Later chips compute infinities and NaN, and have no such
operators.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops.operations.math_ops import NPUClearFloatStatusV2, NPUGetFloatStatusV2

OVERFLOWED = -3e38  # in place of a squared norm; infinity would spoil its neighbours in a tensor that is reduced


class OverflowRegister(nn.Cell):
    """The register of this device. Whatever may set it clears it at its end: at its beginning, a stage of a pipeline
    has nothing that all its computations wait for."""

    def __init__(self):
        super().__init__(auto_prefix=False)
        # whole on each device: MindSpore shards what it has no strategy for, in graphs without gradients
        self.clear = NPUClearFloatStatusV2().add_prim_attr("StandAlone", True)
        self.read = NPUGetFloatStatusV2()
        self.status, self.zero = Tensor(np.zeros(8, np.int32)), Tensor(0, ms.int32)

    def cleared(self, last: Tensor) -> Tensor:
        return ops.depend(last, self.clear(ops.depend(self.status, last)))

    def overflowed(self, last: Tensor) -> Tensor:
        return ops.sum(ops.abs(self.read(ops.depend(self.status, last)))) > self.zero
