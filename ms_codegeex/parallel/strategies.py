"""Strategies of the shared cells: how each operator is cut, set from outside on a built model.

Activations are [rows, width] with rows = batch·seq; `data` cuts rows, `tensor` cuts heads, columns or vocabulary. With
sequence parallelism the rows between the tensor-parallel parts are cut by data·tensor: what leaves a row-parallel
product is then reduce-scattered, what enters a column-parallel one gathered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mindspore.ops import Primitive

    from ms_codegeex.models.layers import AttentionCore, CausalMask, Dropout, Embedding, FastGelu, LayerNorm, Linear
    from ms_codegeex.models.losses import CrossEntropy, Sums


@dataclass(frozen=True)
class Cuts:
    """In how many parts a stage cuts rows (`data`), matrices (`tensor`), vocabulary, and rows of the residual
    stream (`rows`)."""

    data: int
    tensor: int
    vocabulary: int
    rows: int

    def column(self, linear: Linear) -> None:
        """[rows, in] -> [rows, out / tensor]"""
        dp, tp = self.data, self.tensor
        linear.cast_weight.shard(((tp, 1),))
        linear.cast_bias.shard(((tp,),))
        linear.matmul.shard(((dp, 1), (tp, 1)))
        linear.add.shard(((dp, tp), (tp,)))

    def row(self, linear: Linear) -> None:
        """[rows, in / tensor] -> [rows, out], partial sums reduced"""
        dp, tp = self.data, self.tensor
        linear.cast_weight.shard(((1, tp),))
        linear.cast_bias.shard(((1,),))
        if self.rows > dp:
            linear.matmul.shard(((dp, tp), (1, tp)), out_strategy=((self.rows, 1),))
        else:
            linear.matmul.shard(((dp, tp), (1, tp)))
        linear.add.shard(((self.rows, 1), (1,)))

    def norm(self, norm: LayerNorm) -> None:
        """[rows, hidden], whole along hidden"""
        full = (self.rows, 1)
        for operator in (norm.up, norm.down):
            operator.shard((full,))
        if hasattr(norm, "kernel"):
            norm.kernel.shard((full, (1,), (1,)))
            return
        for operator in (norm.mean, norm.variance, norm.square, norm.rsqrt):
            operator.shard((full,))
        norm.subtract.shard((full, full))
        norm.normalise.shard((full, full))
        norm.add_epsilon.shard((full, ()))
        norm.scale.shard((full, (1,)))
        norm.shift.shard((full, (1,)))

    def residual(self, add: Primitive) -> None:
        """[rows, hidden] twice"""
        add.shard(((self.rows, 1), (self.rows, 1)))

    def activation(self, activation: FastGelu) -> None:
        """[rows, intermediate / tensor]"""
        full = (self.data, self.tensor)
        activation.scale.shard((full, ()))
        activation.sigmoid.shard((full,))
        activation.multiply.shard((full, full))

    def dropout(self, dropout: Dropout, strategy: tuple[int, ...]) -> None:
        """an engine's dropout; ours has no strategy and is only used on one device"""
        if dropout.active:
            dropout.kernel.shard((strategy,))

    def attention(self, core: AttentionCore, batched_mask: bool) -> None:
        """heads are cut by tensor; `batched_mask`: the mask has a row per sample"""
        dp, tp = self.data, self.tensor
        heads = (dp, tp, 1, 1)
        mask = (dp, 1, 1, 1) if batched_mask else (1, 1)
        core.split.shard(((dp, 1, tp, 1),))
        core.merge.shard((heads,))
        core.cast_mask.shard((mask,))
        if hasattr(core, "kernel"):
            core.kernel.shard((heads, heads, heads, mask))
            core.hide.shard((mask, ()))
            return
        for operator in (core.scale_query, core.scale_key):
            operator.shard((heads, ()))
        for operator in (core.scores, core.context):
            operator.shard((heads, heads))
        for operator in (core.up, core.down, core.softmax):
            operator.shard((heads,))
        core.add_mask.shard((heads, mask))
        self.dropout(core.dropout, heads)

    def causal_mask(self, mask: CausalMask) -> None:
        """ids [batch, seq], cut by samples"""
        dp = self.data
        ids, square = (dp, 1), (dp, 1, 1)
        if not mask.reset:
            mask.nothing.shard((ids, ()))
            mask.spread.shard((ids, (1, 1)))
            return
        mask.is_eos.shard((ids, ()))
        for operator in (mask.eos_to_float, mask.segments, mask.as_rows, mask.as_columns, mask.to_int):
            operator.shard((ids,))
        mask.from_zero.shard((ids, ()))
        mask.same.shard((square, square))
        mask.visible.shard((square, (1, 1, 1)))
        for operator in (mask.same_to_float, mask.count, mask.over_heads):
            operator.shard((square,))
        for operator in (mask.hidden, mask.penalty):
            operator.shard((square, ()))

    def embedding(self, embedding: Embedding, vocabulary: int = 1) -> None:
        """a table cut by rows, looked up by [batch, seq]"""
        embedding.gather.shard(((vocabulary, 1), (self.data, 1)))

    def loss(self, loss: CrossEntropy) -> None:
        """logits [rows, vocabulary]; the reductions over a cut vocabulary become all-reduces"""
        dp, vp = self.data, self.vocabulary
        full, narrow = (dp, vp), (dp, 1)
        loss.cast_table.shard(((vp, 1),))
        loss.matmul.shard((narrow, (vp, 1)))
        for operator in (loss.up, loss.max, loss.exp, loss.sum_exp, loss.sum_picked):
            operator.shard((full,))
        for operator in (loss.subtract, loss.subtract_log):
            operator.shard((full, narrow))
        loss.log.shard((narrow,))
        loss.one_hot.shard((full, (), ()))
        loss.pick.shard((full, full))
        loss.weight.shard(((dp,), (dp,)))
        loss.sum.shard(((dp,),))
        loss.negate.shard(((1,),))

    def sums(self, sums: Sums) -> None:
        """two sums over all rows"""
        sums.count.shard(((self.data,),))
        sums.join.shard(((1,), (1,), (1,)))
