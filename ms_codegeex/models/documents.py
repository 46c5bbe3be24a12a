"""Fused attention by the ends of documents (layout TND): no mask, and a document costs its own length squared. The rows
of a micro-batch lie end to end, and the kernel takes the numbers of tokens up to the end of each document."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops.operations.nn_ops import FlashAttentionScore

from ms_codegeex.models.fused import FusedAttention

TRIANGLE_SIDE = 2048  # the kernel takes a triangle of this size for any causal mask


class DocumentEnds(nn.Cell):
    """In place of `CausalMask`: the ends of documents, `most` in each of a device's `rows`; positions as there. The
    last of the ends is the row's. So a row with fewer documents has empty ones, which the kernel takes (CANN's
    aclnnFlashAttentionVarLenScore), and in one with more the last of them are one document."""

    def __init__(self, seq_length: int, eos_token_id: int, reset_at_eos: bool, rows: int, most: int):
        super().__init__()
        self.reset, self.eos, self.seq_length, self.most = reset_at_eos, eos_token_id, seq_length, most
        numbers = np.arange(most, dtype=np.float32)
        numbers[-1] = seq_length  # no document has a higher number than that
        self.numbers, self.steps = Tensor(numbers[None, None]), Tensor(np.arange(seq_length, dtype=np.int32)[None])
        self.starts = Tensor(seq_length * np.arange(rows, dtype=np.float32)[None, :, None])
        self.is_eos, self.eos_to_float, self.segments = ops.Equal(), ops.Cast(), ops.CumSum(exclusive=True)
        self.as_rows, self.later, self.later_to_float = ops.ExpandDims(), ops.Greater(), ops.Cast()
        self.count, self.rest, self.as_columns = ops.ReduceSum(), ops.Sub(), ops.ExpandDims()
        self.before, self.begin, self.to_int, self.from_begin = ops.Mul(), ops.ReduceMax(), ops.Cast(), ops.Sub()
        self.add, self.to_long = ops.Add(), ops.Cast()

    def construct(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """int32 [batch, seq] -> ends int64 [batch * most] from the start of a device's rows, positions [batch, seq]"""
        segment = self.segments(self.eos_to_float(self.is_eos(ids, self.eos), ms.float32), 1)
        later = self.later_to_float(self.later(self.as_rows(segment, 2), self.numbers), ms.float32)
        ends = self.rest(float(self.seq_length), self.count(later, 1))
        begin = self.to_int(self.begin(self.before(later, self.as_columns(ends, 1)), 2), ms.int32)
        ends = self.add(ops.reshape(ends, (-1, self.starts.shape[1], self.most)), self.starts)
        return self.to_long(ops.reshape(ends, (-1,)), ms.int64), self.from_begin(self.steps, begin)


class DocumentAttention(FusedAttention):
    """`FusedAttention` that takes ends of documents as its mask. Heads stay where the products have them."""

    def __init__(self, seq_length: int, triangle: Tensor, *arguments: Any):
        super().__init__(*arguments)
        self.seq_length, self.hidden = seq_length, triangle
        # in this mode all earlier tokens of a document count; `pre_tokens` tells readers of the graph a row's length
        layout = {"pre_tokens": seq_length, "next_tokens": 0, "input_layout": "TND", "sparse_mode": 3}
        self.kernel = FlashAttentionScore(self.heads.count, scale_value=self.scale**2, **layout)

    def construct(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor,
        sample_keys: Tensor,
        cos: Tensor | None = None,
        sin: Tensor | None = None,
    ) -> Tensor:
        """as `AttentionCore.construct`; `mask`: what `DocumentEnds` returns"""
        heads, groups, size = self.heads.count, self.heads.groups, self.heads.size
        if self.turn_query is not None:
            rows, angles = (-1, self.seq_length), (-1, self.seq_length, 1, size)
            cos, sin = ops.reshape(cos, angles), ops.reshape(sin, angles)
            query = self.turn_query(ops.reshape(query, (*rows, heads, size)), cos, sin)
            key = self.turn_key(ops.reshape(key, (*rows, groups, size)), cos, sin)
        if self.repeats:
            flat = (-1, groups, 1, size)
            key = self._repeated(self.repeat_key, ops.reshape(key, flat))
            value, groups = self._repeated(self.repeat_value, ops.reshape(value, flat)), heads
        q, k, v = (ops.reshape(x, (-1, n, size)) for x, n in ((query, heads), (key, groups), (value, groups)))
        context = self.kernel(q, k, v, None, None, None, self.hidden, None, mask, mask)[3]
        return ops.reshape(context, self.merged)
