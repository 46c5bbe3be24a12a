"""Strategies of the shared cells: how each operator is sharded, set from outside on a built model.

Activations are [rows, width] with rows = batch·seq; `data` splits rows, `tensor` splits heads, columns or vocabulary.
With sequence parallelism, rows are split by data·tensor outside the tensor-parallel regions: the result of a
row-parallel product is then reduce-scattered, the input of a column-parallel one gathered.

MindSpore partitions the forward graph and differentiates it afterwards. A cell's own gradient gets the tensors of a
device, so its operators need no strategies. But MindSpore sums a parameter's gradient where the first operator reads
the parameter: inside such a cell that sum would be lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mindspore import nn
from mindspore.ops import Primitive

from ms_codegeex.models import flat
from ms_codegeex.models.causal import Head, InputEmbedding, QueryEmbedding
from ms_codegeex.models.documents import DocumentAttention, DocumentEnds
from ms_codegeex.models.layers import (
    AttentionCore,
    CausalMask,
    Dropout,
    DropoutBits,
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
from ms_codegeex.models.lora import LoraLinear, NarrowProduct
from ms_codegeex.models.losses import CrossEntropy, Sums
from ms_codegeex.models.parameters import COLUMN, KEY_VALUE, LAYER_NORM, RMS_NORM, ROW, TABLE, VOCABULARY, Role

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig


@dataclass(frozen=True)
class Strategies:
    """Sets strategies on the cells of a stage. Fields are numbers of shards: of rows (`data`), matrices (`tensor`),
    keys and values (`groups`), the vocabulary, and the rows of the residual stream (`rows`)."""

    data: int
    tensor: int
    groups: int
    vocabulary: int
    rows: int

    @staticmethod
    def of(config: RunConfig) -> Strategies:
        mesh, parallel = config.mesh, config.parallel
        return Strategies(
            data=mesh.data,
            tensor=mesh.tensor,
            groups=mesh.tensor if config.model.sizes.num_kv_groups % mesh.tensor == 0 else 1,
            vocabulary=mesh.tensor if parallel.vocabulary else 1,
            rows=mesh.data * (mesh.tensor if parallel.sequence else 1),
        )

    def layer(self, role: Role, cell: nn.Cell) -> None:
        """Shard the operators of a layer from a family's table, by its role."""
        if isinstance(cell, Head):
            return  # its operators belong to the loss
        if isinstance(cell, LoraLinear):
            self.layer(role, cell.base)
            self.adapter(role, cell)
            return
        by_role = {
            COLUMN: self.column,
            KEY_VALUE: lambda linear: self._outputs(linear, self.groups),
            ROW: self.row,
            LAYER_NORM: self.norm,
            RMS_NORM: self.norm,
            VOCABULARY: lambda table: _shard(table, "gather", (self.vocabulary, 1), (self.data, 1)),
            TABLE: self.embedding,
        }
        by_role[role](cell)

    def column(self, linear: Linear) -> None:
        """[rows, in] -> [rows, out / tensor]"""
        self._outputs(linear, self.tensor)

    def _outputs(self, linear: Linear, parts: int) -> None:
        _shard(linear, "cast_weight", (parts, 1))
        _shard(linear, "matmul", (self.data, 1), (parts, 1))
        if linear.has_bias:
            _shard(linear, "cast_bias", (parts,))
            self.add_bias(linear.add, (self.data, parts))

    def row(self, linear: Linear) -> None:
        """[rows, in / tensor] -> [rows, out], partial sums reduced"""
        dp, tp = self.data, self.tensor
        linear.cast_weight.shard(((1, tp),))
        linear.matmul.shard(((dp, tp), (1, tp)), **self._scattered(self.rows))
        if linear.has_bias:
            linear.cast_bias.shard(((1,),))
            self.add_bias(linear.add, (self.rows, 1))

    def add_bias(self, add: Primitive | flat.FlatBias, full: tuple[int, int]) -> None:
        """[rows, n] and [n]"""
        if isinstance(add, flat.FlatBias):
            _shard(add, "as_row", full[1:])
            add = add.core.add
        add.shard((full, full[1:]))

    def _scattered(self, rows: int) -> dict[str, tuple]:
        return {"out_strategy": ((rows, 1),)} if rows > self.data else {}

    def adapter(self, role: Role, linear: LoraLinear) -> None:
        """A is split as the columns of its matrix, B as its rows: [rows, in] -> [rows, rank] -> [rows, out]"""
        into, out, rows = 1, 1, self.data
        if role is ROW:
            into, rows = self.tensor, self.rows
        else:
            out = self.groups if role is KEY_VALUE else self.tensor
        if linear.narrow is not None:
            self.narrow(linear.narrow, into, rows)
        linear.cast_b.shard(((out, 1),))
        linear.up.shard(((rows, 1), (out, 1)))
        linear.add.shard(((rows, out), (rows, out)))

    def narrow(self, narrow: NarrowProduct, into: int, rows: int) -> None:
        """[rows, in] -> [rows, rank]; of column-parallel layers that share it, `into` is 1 and `rows` are those of data
        parallelism"""
        self.dropout(narrow.dropout, (self.data, into))
        narrow.cast_a.shard(((1, into),))
        narrow.down.shard(((self.data, into), (1, into)), **self._scattered(rows))
        narrow.multiply.shard(((rows, 1), ()))

    def norm(self, norm: LayerNorm | RMSNorm) -> None:
        """[rows, hidden], whole along hidden"""
        full, layer_norm = (self.rows, 1), isinstance(norm, LayerNorm)
        _shard(norm, "up down", full)
        if hasattr(norm, "kernel"):
            _shard(norm, "kernel", full, (1,), *([(1,)] if layer_norm else []))
            return
        if isinstance(norm, flat.FlatRMSNorm):
            _shard(norm, "rsqrt", full)
            _shard(norm, "add_epsilon", full, ())
            _shard(norm, "scale", full, full)
            _shard(norm, "mean outer", full, (1, 1))
            _shard(norm, "as_row", (1,))
            return
        _shard(norm, "mean square rsqrt", full)
        _shard(norm, "add_epsilon", full, ())
        _shard(norm, "normalise", full, full)
        _shard(norm, "scale", full, (1,))
        if layer_norm:
            _shard(norm, "variance", full)
            _shard(norm, "subtract", full, full)
            _shard(norm, "shift", full, (1,))

    def residuals(self, block: nn.Cell) -> None:
        """The additions of a block to the residual stream, [rows, hidden], and their dropouts."""
        full = (self.rows, 1)
        _shard(block, "add_attention add_feed_forward", full, full)
        self.dropout(block.attention_dropout, full)
        self.dropout(block.feed_forward_dropout, full)

    def activation(self, activation: nn.Cell | Primitive) -> None:
        """[rows, intermediate / tensor]; of a feed-forward part, a single operator or one of the composed ones"""
        full = (self.data, self.tensor)
        if isinstance(activation, FastGelu):
            _shard(activation, "scale", full, ())
            _shard(activation, "sigmoid", full)
            _shard(activation, "multiply", full, full)
        elif isinstance(activation, SwiGlu):
            _shard(activation, "sigmoid", full)
            _shard(activation, "silu multiply", full, full)
        else:
            activation.shard((full,))

    def rotary_table(self, table: RotaryTable) -> None:
        """positions [batch, seq], split by samples; every device has all angles"""
        _shard(table, "gather_cos gather_sin", (1, 1), (self.data, 1))
        _shard(table, "cos_over_heads sin_over_heads", (self.data, 1, 1))
        if isinstance(table, flat.FlatRotaryTable):
            _shard(table, "repeat", (self.data, 1, 1, 1), (1,))

    def rotary(self, rotary: Rotary | None, heads: tuple[int, ...]) -> None:
        """`heads`: of [batch, heads, seq, d], or of [batch, seq, heads, d]"""
        if rotary is None:
            return
        angles = (self.data, 1, 1, 1)
        rotary.swap.shard(((*heads, 1),) if rotary.order is None else (heads, (1,)))
        _shard(rotary, "times_cos times_sin", heads, angles)
        _shard(rotary, "add", heads, heads)
        _shard(rotary, "up down", heads)

    def sample_keys(self, keys: SampleKeys) -> None:
        """numbers of samples [batch]"""
        _shard(keys, "shift multiply odd", (self.data,), ())
        _shard(keys, "xor", (self.data,), (self.data,))

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
        if isinstance(dropout, DropoutBits):
            self.bits(dropout, strategy)
            return
        _shard(dropout, "product", (*strategy[:-1], 1), strategy[-1:])
        _shard(dropout, "compare scale", strategy, ())
        _shard(dropout, "cast", strategy)
        _shard(dropout, "drop", strategy, strategy)
        for operator in (dropout.product, dropout.compare, dropout.cast, dropout.scale):
            operator.recompute()

    def bits(self, dropout: DropoutBits, strategy: tuple[int, ...]) -> None:
        """the operators of each bit; the bits are kept for the backward pass, since they take little"""
        for operators, *inputs in (
            (dropout.products, (*strategy[:-1], 1), strategy[-1:]),
            (dropout.compares, strategy, ()),
            (dropout.casts, strategy),
            (dropout.shifts, strategy, ()),
            (dropout.adds, strategy, strategy),
            ([dropout.narrow], strategy),
        ):
            for operator in operators:
                operator.shard(tuple(inputs))

    def attention(self, core: AttentionCore, batched_mask: bool) -> None:
        """heads are split by tensor; `batched_mask`: the mask has a row per sample"""
        dp, tp, kv = self.data, self.tensor, self.groups
        heads, shared = (dp, tp, 1, 1), (dp, kv, 1, 1)
        mask = (dp, 1, 1, 1) if batched_mask else (1, 1)
        by_token, shared_by_token = (dp, 1, tp, 1), (dp, 1, kv, 1)
        _shard(core, "split", by_token)
        _shard(core, "split_shared", shared_by_token)
        packed = isinstance(core, DocumentAttention)
        self.rotary(core.turn_query, by_token if packed else heads)
        self.rotary(core.turn_key, shared_by_token if packed else shared)
        _shard(core, "merge", heads)
        _shard(core, "cast_mask", mask)
        _shard(core, "repeat_key repeat_value", shared)
        if packed:
            core.repeats = kv < tp
            _shard(core, "kernel", *((dp, tp, 1),) * 3, (1, 1), (dp,), (dp,))
            return
        if hasattr(core, "kernel"):
            core.repeats = kv < tp
            _shard(core, "kernel", heads, heads, heads, mask)
            _shard(core, "hide", mask, ())
            if core.drops:
                _shard(core, "dropping", heads, heads, heads, heads, mask)
            self.dropout(core.dropout, heads)
            return
        if isinstance(core, flat.FlatAttention):
            _shard(core, "scale_key scale_value", (dp, 1), (1, 1))
            _shard(core.core, "by_columns plain add", heads, heads)
            _shard(core.core, "softmax cast", heads)
            self.dropout(core.core.dropout, heads)
            return
        _shard(core, "scale_query", heads, ())
        _shard(core, "scale_key", shared, ())
        _shard(core, "scores context", heads, heads)
        _shard(core, "up down softmax", heads)
        _shard(core, "add_mask", heads, mask)
        self.dropout(core.dropout, heads)

    def causal_mask(self, mask: CausalMask | DocumentEnds) -> None:
        """ids [batch, seq], split by samples"""
        ids, square = (self.data, 1), (self.data, 1, 1)
        if isinstance(mask, DocumentEnds):
            _shard(mask, "is_eos", ids, ())
            _shard(mask, "eos_to_float segments as_rows as_columns to_int", ids)
            _shard(mask, "later add", square, (1, 1, 1))
            _shard(mask, "later_to_float count begin", square)
            _shard(mask, "rest", (), ids)
            _shard(mask, "before", square, square)
            _shard(mask, "from_begin", (1, 1), ids)
            _shard(mask, "to_long", (self.data,))
            return
        if isinstance(mask, flat.FlatMask):
            _shard(mask, "narrow", (self.data, 1, 1, 1) if mask.reset else (1, 1))
            _shard(mask, "for_samples", (1, 1, 1, 1), (self.data,))
            _shard(mask, "repeat", (self.data, 1, 1, 1), (1,))
        if not mask.reset:
            _shard(mask, "nothing", ids, ())
            _shard(mask, "spread", ids, (1, 1))
            return
        _shard(mask, "is_eos from_zero", ids, ())
        _shard(mask, "eos_to_float segments as_rows as_columns to_int", ids)
        _shard(mask, "same", square, square)
        _shard(mask, "visible", square, (1, 1, 1))
        _shard(mask, "same_to_float count over_heads", square)
        _shard(mask, "hidden penalty", square, ())

    def embedding(self, embedding: Embedding) -> None:
        """a table that is not split, looked up by [batch, seq]"""
        _shard(embedding, "gather", (1, 1), (self.data, 1))
        if isinstance(embedding, QueryEmbedding):
            _shard(embedding, "cast", (self.data, 1, 1))

    def input_embedding(self, embedding: InputEmbedding) -> None:
        """[batch, seq, hidden]: what follows the lookups"""
        cube = (self.data, 1, 1)
        if embedding.position is not None:
            _shard(embedding, "add", cube, cube)
        self.dropout(embedding.dropout, cube)
        _shard(embedding, "cast", cube)

    def loss(self, loss: CrossEntropy) -> None:
        """logits [rows, vocabulary]; the reductions over a split vocabulary become all-reduces"""
        dp, vp = self.data, self.vocabulary
        full, narrow = (dp, vp), (dp, 1)
        _shard(loss, "cast_table", (vp, 1))
        _shard(loss, "matmul", narrow, (vp, 1))
        if isinstance(loss, flat.FlatCrossEntropy):
            _shard(loss, "up log_softmax sum widen", narrow)
            _shard(loss, "pick pick_logit", narrow, narrow)
            if loss.add_bias is not None:
                self.add_bias(loss.add_bias, narrow)
            return
        _shard(loss, "up max exp sum_exp sum_picked", full)
        _shard(loss, "add_bias", full, (vp,))
        _shard(loss, "subtract subtract_log", full, narrow)
        _shard(loss, "log square drop_axis", narrow)
        _shard(loss, "one_hot", full, (), ())
        _shard(loss, "pick", full, full)
        _shard(loss, "add_max", narrow, narrow)
        _shard(loss, "scale", narrow, ())
        _shard(loss, "subtract_penalty weight", (dp,), (dp,))
        _shard(loss, "sum", (dp,))
        _shard(loss, "negate", (1,))

    def sums(self, sums: Sums) -> None:
        _shard(sums, "count", (self.data,))
        _shard(sums, "join", (1,), (1,), (1,))


def _shard(cell: nn.Cell, operators: str, *strategy: tuple[int, ...]) -> None:
    for name in operators.split():
        getattr(cell, name).shard(strategy)
