"""Strategies of the shared cells: how each operator is sharded, set from outside on a built model.

Activations are [rows, width] with rows = batch·seq; `data` splits rows, `tensor` splits heads, columns or vocabulary.
With sequence parallelism, rows are split by data·tensor outside the tensor-parallel regions: the result of a
row-parallel product is then reduce-scattered, the input of a column-parallel one gathered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mindspore import nn
from mindspore.ops import Primitive

from ms_codegeex.models.causal import Head, InputEmbedding, QueryEmbedding
from ms_codegeex.models.layers import (
    AttentionCore,
    CausalMask,
    Dropout,
    Embedding,
    FastGelu,
    LayerNorm,
    Linear,
    RMSNorm,
    Rotary,
    RotaryTable,
    SampleKeys,
    SwiGlu,
)
from ms_codegeex.models.lora import LoraLinear
from ms_codegeex.models.losses import CrossEntropy, Sums
from ms_codegeex.models.parameters import COLUMN, KEY_VALUE, LAYER_NORM, RMS_NORM, ROW, TABLE, VOCABULARY, Role

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig


@dataclass(frozen=True)
class Strategies:
    """Into how many shards a stage splits rows (`data`), matrices (`tensor`), keys and values (`groups`), the
    vocabulary, and the rows of the residual stream (`rows`)."""

    data: int
    tensor: int
    groups: int
    vocabulary: int
    rows: int

    @staticmethod
    def of(config: RunConfig) -> Strategies:
        """The strategies of a run. Keys and values are not split if `tensor` does not divide their number of heads."""
        mesh, parallel = config.mesh, config.parallel
        return Strategies(
            data=mesh.data,
            tensor=mesh.tensor,
            groups=mesh.tensor if config.model.sizes.num_kv_groups % mesh.tensor == 0 else 1,
            vocabulary=mesh.tensor if parallel.vocabulary else 1,
            rows=mesh.data * (mesh.tensor if parallel.sequence else 1),
        )

    def layer(self, role: Role, cell: nn.Cell) -> None:
        """The operators of a layer from a family's table, by its role."""
        if isinstance(cell, Head):
            return  # the loss has its operators
        if isinstance(cell, LoraLinear):
            self.layer(role, cell.base)
            self.adapter(role, cell)
            return
        by_role = {
            COLUMN: self.column,
            KEY_VALUE: self.key_value,
            ROW: self.row,
            LAYER_NORM: self.norm,
            RMS_NORM: self.rms_norm,
            VOCABULARY: self.vocabulary_embedding,
            TABLE: self.embedding,
        }
        by_role[role](cell)

    def column(self, linear: Linear) -> None:
        """[rows, in] -> [rows, out / tensor]"""
        self._outputs(linear, self.tensor)

    def key_value(self, linear: Linear) -> None:
        """[rows, in] -> [rows, out / groups]"""
        self._outputs(linear, self.groups)

    def _outputs(self, linear: Linear, tp: int) -> None:
        dp = self.data
        linear.cast_weight.shard(((tp, 1),))
        linear.matmul.shard(((dp, 1), (tp, 1)))
        if linear.has_bias:
            linear.cast_bias.shard(((tp,),))
            linear.add.shard(((dp, tp), (tp,)))

    def row(self, linear: Linear) -> None:
        """[rows, in / tensor] -> [rows, out], partial sums reduced"""
        dp, tp = self.data, self.tensor
        linear.cast_weight.shard(((1, tp),))
        if self.rows > dp:
            linear.matmul.shard(((dp, tp), (1, tp)), out_strategy=((self.rows, 1),))
        else:
            linear.matmul.shard(((dp, tp), (1, tp)))
        if linear.has_bias:
            linear.cast_bias.shard(((1,),))
            linear.add.shard(((self.rows, 1), (1,)))

    def adapter(self, role: Role, linear: LoraLinear) -> None:
        """A is split as the columns of its matrix, B as its rows: [rows, in] -> [rows, rank] -> [rows, out]"""
        dp, into, out, rows = self.data, 1, 1, self.data
        if role is ROW:
            into, rows = self.tensor, self.rows
        else:
            out = self.groups if role is KEY_VALUE else self.tensor
        self.dropout(linear.dropout, (dp, into))
        linear.cast_a.shard(((1, into),))
        if rows > dp:
            linear.down.shard(((dp, into), (1, into)), out_strategy=((rows, 1),))
        else:
            linear.down.shard(((dp, into), (1, into)))
        linear.multiply.shard(((rows, 1), ()))
        linear.cast_b.shard(((out, 1),))
        linear.up.shard(((rows, 1), (out, 1)))
        linear.add.shard(((rows, out), (rows, out)))

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

    def rms_norm(self, norm: RMSNorm) -> None:
        """[rows, hidden], whole along hidden"""
        full = (self.rows, 1)
        for operator in (norm.up, norm.down):
            operator.shard((full,))
        if hasattr(norm, "kernel"):
            norm.kernel.shard((full, (1,)))
            return
        for operator in (norm.square, norm.mean, norm.rsqrt):
            operator.shard((full,))
        norm.add_epsilon.shard((full, ()))
        norm.normalise.shard((full, full))
        norm.scale.shard((full, (1,)))

    def residuals(self, block: nn.Cell) -> None:
        """What a block adds to the residual stream, [rows, hidden], and its dropouts."""
        full = (self.rows, 1)
        for add in (block.add_attention, block.add_feed_forward):
            add.shard((full, full))
        for dropout in (block.attention_dropout, block.feed_forward_dropout):
            self.dropout(dropout, full)

    def activation(self, activation: nn.Cell | Primitive) -> None:
        """[rows, intermediate / tensor]; of a feed-forward part, a single operator or one of the composed ones"""
        composed = {FastGelu: self.fast_gelu, SwiGlu: self.swiglu}
        composed.get(type(activation), self.elementwise)(activation)

    def fast_gelu(self, activation: FastGelu) -> None:
        """[rows, intermediate / tensor]"""
        full = (self.data, self.tensor)
        activation.scale.shard((full, ()))
        activation.sigmoid.shard((full,))
        activation.multiply.shard((full, full))

    def elementwise(self, operator: Primitive) -> None:
        """[rows, intermediate / tensor]"""
        operator.shard(((self.data, self.tensor),))

    def swiglu(self, activation: SwiGlu) -> None:
        """[rows, intermediate / tensor]"""
        full = (self.data, self.tensor)
        activation.sigmoid.shard((full,))
        activation.silu.shard((full, full))
        activation.multiply.shard((full, full))

    def rotary_table(self, table: RotaryTable) -> None:
        """positions [batch, seq], split by samples; every device has all angles"""
        for operator in (table.gather_cos, table.gather_sin):
            operator.shard(((1, 1), (self.data, 1)))
        for operator in (table.cos_over_heads, table.sin_over_heads):
            operator.shard(((self.data, 1, 1),))

    def rotary(self, rotary: Rotary | None, parts: int) -> None:
        """[batch, heads / parts, seq, d]"""
        if rotary is None:
            return
        heads, angles = (self.data, parts, 1, 1), (self.data, 1, 1, 1)
        rotary.swap.shard(((*heads, 1),) if rotary.order is None else (heads, (1,)))
        for operator in (rotary.times_cos, rotary.times_sin):
            operator.shard((heads, angles))
        rotary.add.shard((heads, heads))
        for operator in (rotary.up, rotary.down):
            operator.shard((heads,))

    def sample_keys(self, keys: SampleKeys) -> None:
        """numbers of samples [batch]"""
        for operator in (keys.shift, keys.multiply, keys.odd):
            operator.shard(((self.data,), ()))
        keys.xor.shard(((self.data,), (self.data,)))

    def dropout(self, dropout: Dropout, strategy: tuple[int, ...]) -> None:
        """`strategy`: of the activation. The backward pass recomputes the mask, which costs less than keeping it."""
        if not dropout.active:
            return
        dp, axes = self.data, len(dropout.shape)
        # rows of a sample are not split until the batch is folded into the rows
        parts = strategy[1:] if len(strategy) > axes else (1,) * axes
        for i, operator in enumerate(dropout.combine):
            ones = (1,) * (axes - i - 1)
            operator.shard(((dp, *parts[:i], 1, *ones), (parts[i], *ones)))
        dropout.product.shard(((*strategy[:-1], 1), strategy[-1:]))
        for operator in (dropout.compare, dropout.scale):
            operator.shard((strategy, ()))
        dropout.cast.shard((strategy,))
        dropout.drop.shard((strategy, strategy))
        for operator in (dropout.product, dropout.compare, dropout.cast, dropout.scale):
            operator.recompute()

    def attention(self, core: AttentionCore, batched_mask: bool) -> None:
        """heads are split by tensor; `batched_mask`: the mask has a row per sample"""
        dp, tp, kv = self.data, self.tensor, self.groups
        heads, shared = (dp, tp, 1, 1), (dp, kv, 1, 1)
        mask = (dp, 1, 1, 1) if batched_mask else (1, 1)
        core.split.shard(((dp, 1, tp, 1),))
        core.split_shared.shard(((dp, 1, kv, 1),))
        self.rotary(core.turn_query, tp)
        self.rotary(core.turn_key, kv)
        core.merge.shard((heads,))
        core.cast_mask.shard((mask,))
        for operator in (core.repeat_key, core.repeat_value):
            operator.shard((shared,))
        if hasattr(core, "kernel"):
            core.repeats = kv < tp
            core.kernel.shard((heads, heads, heads, mask))
            core.hide.shard((mask, ()))
            return
        core.scale_query.shard((heads, ()))
        core.scale_key.shard((shared, ()))
        for operator in (core.scores, core.context):
            operator.shard((heads, heads))
        for operator in (core.up, core.down, core.softmax):
            operator.shard((heads,))
        core.add_mask.shard((heads, mask))
        self.dropout(core.dropout, heads)

    def causal_mask(self, mask: CausalMask) -> None:
        """ids [batch, seq], split by samples"""
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

    def vocabulary_embedding(self, embedding: Embedding) -> None:
        """a table split by rows, looked up by [batch, seq]"""
        embedding.gather.shard(((self.vocabulary, 1), (self.data, 1)))

    def embedding(self, embedding: Embedding) -> None:
        """a table that is not split, looked up by [batch, seq]"""
        embedding.gather.shard(((1, 1), (self.data, 1)))
        if isinstance(embedding, QueryEmbedding):
            embedding.cast.shard(((self.data, 1, 1),))

    def input_embedding(self, embedding: InputEmbedding) -> None:
        """[batch, seq, hidden]: what follows the lookups"""
        cube = (self.data, 1, 1)
        if embedding.position is not None:
            embedding.add.shard((cube, cube))
        self.dropout(embedding.dropout, cube)
        embedding.cast.shard((cube,))

    def loss(self, loss: CrossEntropy) -> None:
        """logits [rows, vocabulary]; the reductions over a split vocabulary become all-reduces"""
        dp, vp = self.data, self.vocabulary
        full, narrow = (dp, vp), (dp, 1)
        loss.cast_table.shard(((vp, 1),))
        loss.matmul.shard((narrow, (vp, 1)))
        for operator in (loss.up, loss.max, loss.exp, loss.sum_exp, loss.sum_picked):
            operator.shard((full,))
        loss.add_bias.shard((full, (vp,)))
        for operator in (loss.subtract, loss.subtract_log):
            operator.shard((full, narrow))
        loss.log.shard((narrow,))
        loss.one_hot.shard((full, (), ()))
        loss.pick.shard((full, full))
        loss.add_max.shard((narrow, narrow))
        for operator in (loss.square, loss.drop_axis):
            operator.shard((narrow,))
        loss.scale.shard((narrow, ()))
        loss.subtract_penalty.shard(((dp,), (dp,)))
        loss.weight.shard(((dp,), (dp,)))
        loss.sum.shard(((dp,),))
        loss.negate.shard(((1,),))

    def sums(self, sums: Sums) -> None:
        """two sums over all rows"""
        sums.count.shard(((self.data,),))
        sums.join.shard(((1,), (1,), (1,)))
