"""Cells for GPUs, where an operator whose operands differ in shape takes five times as long as one on equal shapes
(MindSpore 2.9; see docs/hardware.md). What would be a broadcast is part of a matrix product here, or made once for
all layers. Parameters and `construct` match those of the composed cells, so neither models nor checkpoints depend on
the choice, which `training/build.py` makes. Several GPUs may share the batch, but no matrix."""

from __future__ import annotations

import math
from functools import partial

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ms_codegeex.models.causal import Build
from ms_codegeex.models.decoder_config import SPARE, DecoderConfig
from ms_codegeex.models.layers import (
    AttentionCore,
    CausalMask,
    Dropout,
    FastGelu,
    Heads,
    Linear,
    RMSNorm,
    Rotary,
    RotaryTable,
)


class _AddBias(nn.Cell):
    """x + b with b [1, n]. The gradient of b is a product with ones: the one that MindSpore derives takes a hundred
    times as long on a GPU."""

    def __init__(self):
        super().__init__(auto_prefix=False)
        self.add, self.sum = ops.BiasAdd(), ops.MatMul()

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        """[rows, n], [1, n] -> [rows, n]"""
        return self.add(x, ops.reshape(bias, (-1,)))

    def bprop(self, x: Tensor, bias: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        return dout, self.sum(ops.ones((1, dout.shape[0]), dout.dtype), dout)


class FlatBias(nn.Cell):
    """x + b of a linear layer. Where devices share a batch, MindSpore sums the gradient of b before `as_row`; inside
    `core`, which has its own gradient, the sum would be lost."""

    def __init__(self):
        super().__init__(auto_prefix=False)
        self.as_row, self.core = ops.ExpandDims(), _AddBias()

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        """[rows, n], [n] -> [rows, n]"""
        return self.core(x, self.as_row(bias, 0))


class FlatRMSNorm(RMSNorm):
    """RMSNorm in FP32, result in `dtype`: products sum over a row, and spread its number and the weight."""

    def __init__(self, hidden_size: int, epsilon: float, dtype: ms.Type):
        super().__init__(hidden_size, epsilon, dtype)
        self.mean, self.as_row, self.outer = ops.MatMul(), ops.ExpandDims(), ops.MatMul()
        self.shares = Tensor(np.full((hidden_size, 1), 1.0 / hidden_size, np.float32))

    def construct(self, x: Tensor) -> Tensor:
        x = self.up(x, ms.float32)
        inverse = self.rsqrt(self.add_epsilon(self.mean(x * x, self.shares), self.epsilon))
        return self.down(self.scale(x, self.outer(inverse, self.as_row(self.weight, 0))), self.dtype)


class FlatMask(CausalMask):
    """`CausalMask` in `dtype`, repeated for each sample and head, once for all layers."""

    def __init__(self, heads: int, dtype: ms.Type, seq_length: int, eos_token_id: int, reset_at_eos: bool):
        super().__init__(seq_length, eos_token_id, reset_at_eos)
        self.dtype, self.heads = dtype, Tensor(np.zeros(heads, np.int32))
        self.narrow, self.repeat, self.for_samples = ops.Cast(), ops.Gather(), ops.Gather()

    def construct(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """int32 [batch, seq] -> additive mask [batch, heads, seq, seq], positions int32 [batch, seq]"""
        mask, positions = super().construct(ids)
        mask = ops.reshape(self.narrow(mask, self.dtype), (-1, 1, self.seq_length, self.seq_length))
        if not self.reset:
            mask = self.for_samples(mask, ops.zeros((ids.shape[0],), ms.int32), 0)
        return self.repeat(mask, self.heads, 1), positions


class FlatRotaryTable(RotaryTable):
    """`RotaryTable` repeated for each head, once for all layers."""

    def __init__(self, heads: int, positions: int, head_dim: int, rotary_dim: int, precision: str, base: float):
        super().__init__(positions, head_dim, rotary_dim, precision, base)
        self.heads, self.repeat = Tensor(np.zeros(heads, np.int32)), ops.Gather()

    def construct(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """int32 [batch, seq] -> cos, sin FP32 [batch, heads, seq, head_dim]"""
        cos, sin = super().construct(positions)
        return self.repeat(cos, self.heads, 1), self.repeat(sin, self.heads, 1)


class _RotaryOfGroups(Rotary):
    """`Rotary` for fewer heads than the angles are repeated for."""

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return super().construct(x, cos[:, : x.shape[1]], sin[:, : x.shape[1]])


class _Attend(nn.Cell):
    """dropout(softmax(q kᵀ + mask)) v, with weights in `dtype`. Query heads that share keys and values are rows of one
    product, so that nothing is repeated."""

    def __init__(self, size: int, dtype: ms.Type, dropout: nn.Cell):
        super().__init__(auto_prefix=False)
        self.dtype, self.dropout, self.softmax, self.add = dtype, dropout, ops.Softmax(-1), ops.Add()
        self.plain, self.transposed = ops.BatchMatMul(), ops.BatchMatMul(transpose_a=True)
        self.by_columns, self.cast, self.join = ops.BatchMatMul(transpose_b=True), ops.Cast(), ops.Concat(-1)
        first = np.zeros((size, SPARE), np.float32)
        first[:, 0] = -1
        self.minus_sum, self.first = ops.MatMul(), Tensor(first, dtype)

    def construct(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, sample_keys: Tensor) -> tuple[Tensor, ...]:
        """q [batch, groups, shared·seq, d], k and v [batch, groups, seq, d], mask [batch, heads, seq, seq] -> as q, and
        the weights before and after the dropout, as mask"""
        scores = self.add(ops.reshape(self.by_columns(q, k), mask.shape), mask)
        weights = self.cast(self.softmax(scores), self.dtype)
        dropped = self.dropout(weights, sample_keys)
        return self.plain(ops.reshape(dropped, (*q.shape[:3], -1)), v), weights, dropped

    def bprop(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, sample_keys: Tensor, out: tuple, dout: tuple
    ) -> tuple[Tensor, ...]:
        """With weights w, dropped to w', and output o: ds = w'·(do vᵀ) - w·Σ(do·o). The sum of each row is a channel
        beside those of do, and meets ones beside v."""
        context, weights, dropped = out
        to_out, grouped = dout[0], (*q.shape[:3], -1)
        weights, dropped = ops.reshape(weights, grouped), ops.reshape(dropped, grouped)
        share = self.minus_sum(ops.reshape(to_out * context, (-1, q.shape[3])), self.first)
        share, ones = ops.reshape(share, grouped), ops.ones((*v.shape[:3], SPARE), self.dtype)
        if self.dropout.active and self.training:
            to_scores = dropped * self.by_columns(to_out, v) + weights * self.by_columns(share, ones)
            to_scores = self.cast(to_scores, q.dtype)
        else:
            difference = self.by_columns(self.join((to_out, share)), self.join((v, ones)))
            # where scores are wider, MindSpore would make all layers' wide weights beforehand
            to_scores = self.cast(ops.depend(weights, to_out), q.dtype) * self.cast(difference, q.dtype)
        to_q, to_k = self.plain(to_scores, k), self.transposed(to_scores, q)
        return to_q, to_k, self.transposed(dropped, to_out), ops.zeros_like(mask), ops.zeros_like(sample_keys)


class _KeptWeights(Dropout):
    """`Dropout` that leaves the scale of what it keeps to another place."""

    def construct(self, x: Tensor, sample_keys: Tensor) -> Tensor:
        """as `Dropout.construct`, without the scale"""
        if not (self.active and self.training):
            return x
        return self.drop(x, ops.stop_gradient(self.kept(x, sample_keys)))


class FlatAttention(AttentionCore):
    """Attention with what `FlatMask` and `FlatRotaryTable` return. Softmax is FP32 inside its kernel. Only keys are
    scaled, by a product with a diagonal matrix: there are never more of them than of queries. So are the values, by
    what a dropout scales the weights that it keeps with."""

    constants = ()

    def __init__(self, heads: Heads, dtype: ms.Type, scores_dtype: ms.Type, dropout: nn.Cell, rotary: bool):
        super().__init__(heads, dtype, scores_dtype, dropout, rotary, scores_dtype)
        one = np.eye(heads.size, dtype=np.float32)
        self.diagonal = Tensor(one / math.sqrt(heads.size), scores_dtype)
        self.scale_key, self.core = ops.MatMul(), _Attend(heads.size, dtype, dropout)
        self.scales_values, self.scale_value = isinstance(dropout, _KeptWeights) and dropout.active, ops.MatMul()
        if self.scales_values:
            self.of_kept = Tensor(one * dropout.scale_of_kept, dtype)
        if self.turn_key is not None and self.shared > 1:
            self.turn_key = _RotaryOfGroups(self.turn_key.out_dtype, heads.size)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, sample_keys: Tensor) -> Tensor:
        """as `AttentionCore.attend`, with a mask [batch, heads, seq, seq]"""
        rows = ops.reshape(q, (*k.shape[:2], -1, self.heads.size))
        scaled = ops.reshape(self.scale_key(ops.reshape(k, (-1, self.heads.size)), self.diagonal), k.shape)
        if self.scales_values and self.training:
            v = ops.reshape(self.scale_value(ops.reshape(v, (-1, self.heads.size)), self.of_kept), v.shape)
        context = self.core(rows, scaled, v, mask, sample_keys)[0]
        return ops.reshape(context, q.shape)


class FlatCrossEntropy(nn.Cell):
    """`CrossEntropy` without broadcasts over the logits, in either direction: the gradient of a gathered logarithm is a
    row with one number, which has the weight of the row and the scale of the loss, so that FP16 numbers stay large.
    Training keeps the logarithms in `dtype`: the kernel computes in FP32 inside, and FP16 rounds them as it has rounded
    the logits. An evaluation keeps them in FP32."""

    def __init__(self, vocab_size: int, dtype: ms.Type, bias: bool = False, z_loss: float = 0.0):
        super().__init__()
        self.dtype, self.z_loss, self.add_bias = dtype, z_loss, FlatBias() if bias else None
        self.cast_table, self.matmul, self.up = ops.Cast(), ops.MatMul(transpose_b=True), ops.Cast()
        self.log_softmax, self.sum, self.widen = ops.LogSoftmax(), ops.ReduceSum(), ops.Cast()
        self.pick, self.pick_logit = ops.GatherD(), ops.GatherD()

    def construct(
        self, hidden: Tensor, table: Tensor, labels: Tensor, mask: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """as `CrossEntropy.construct`"""
        kept = self.dtype if self.training else ms.float32
        logits = self.up(self.matmul(hidden, self.cast_table(table, self.dtype)), kept)
        if self.add_bias is not None:
            logits = self.add_bias(logits, self.up(bias, kept))
        column = ops.expand_dims(labels, 1)
        picked = self.widen(self.pick(self.log_softmax(logits), 1, column), ms.float32)
        term = -picked
        if self.z_loss and self.training:
            log_z = self.widen(self.pick_logit(logits, 1, column), ms.float32) - picked
            term = term + self.z_loss * log_z * log_z
        return self.sum(term * ops.expand_dims(mask, 1), 0)


class FlatBuild(Build):
    """A `Build` whose layers are these cells."""

    def linear(self, config: DecoderConfig, name: str) -> Linear:
        layer = super().linear(config, name)
        if layer.has_bias:
            del layer.add
            layer.add = FlatBias()
        return layer

    def norm(self, config: DecoderConfig) -> nn.Cell:
        if config.rms_norm:
            return FlatRMSNorm(config.hidden_size, config.norm_epsilon, self.dtype)
        return super().norm(config)

    def attention(self, config: DecoderConfig, site: int) -> FlatAttention:
        heads, scores = Heads(config.num_heads, config.head_dim, config.num_kv_groups), self.scores(config)
        shape = heads.count, self.seq_length, self.seq_length
        rate = self.attention_dropout
        own = "dropout" in self.kernels
        dropout = self._drop(rate, shape, site) if own else _KeptWeights(rate, shape, site, self.seed)
        return FlatAttention(heads, self.dtype, scores, dropout, config.rotary_dim > 0)

    def mask(self, config: DecoderConfig) -> FlatMask:
        settings = self.seq_length, config.eos_token_id, self.reset_at_eos
        return FlatMask(config.num_heads, self.scores(config), *settings)

    def rotary_table(self, config: DecoderConfig) -> RotaryTable:
        return super().rotary_table(config, partial(FlatRotaryTable, config.num_heads))

    def activation(self, config: DecoderConfig) -> nn.Cell | ops.Primitive:
        activation = super().activation(config)
        return ops.FastGeLU() if isinstance(activation, FastGelu) else activation

    def loss(self, config: DecoderConfig, bias: bool) -> nn.Cell:
        if self.loss_chunk:
            return super().loss(config, bias)
        return FlatCrossEntropy(config.vocab_size, self.dtype, bias, self.z_loss)
