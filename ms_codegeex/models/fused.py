"""Counterparts of the cells in `layers.py`. Parameters and `construct` match those of the composed cell, so neither
models nor checkpoints depend on the choice, which `ms_codegeex/config/chosen_hardware.py` makes. A `Fused` cell wraps
one kernel of the device, its attribute `kernel`. The `Flat` cells are for GPUs, where an operator whose operands differ
in shape takes five times as long as one on equal shapes, and a large sum by MindSpore's own gradients even longer
(MindSpore 2.9): their gradients are written here, and what would be a broadcast is part of a matrix product."""

from __future__ import annotations

import math
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops.auto_generate import RmsNorm
from mindspore.ops.operations.nn_ops import FlashAttentionScore

from ms_codegeex.base.errors import UserError
from ms_codegeex.models.layers import (
    AttentionCore,
    CausalMask,
    Heads,
    LayerNorm,
    RMSNorm,
    Rotary,
    RotaryTable,
    typed,
)

SPARE = 8  # channels beside those of a product that carry a number for each row; FP16 products need multiples of eight


class FusedLayerNorm(LayerNorm):
    """LayerNorm in FP32, result in `dtype`: one kernel forward, one backward."""

    def __init__(self, hidden_size: int, epsilon: float, dtype: ms.Type):
        super().__init__(hidden_size, epsilon, dtype)
        self.kernel = ops.LayerNorm(1, 1, epsilon)

    def construct(self, x: Tensor) -> Tensor:
        """[rows, hidden] -> [rows, hidden]"""
        return self.down(self.kernel(self.up(x, ms.float32), self.weight, self.bias)[0], self.dtype)


class FusedRMSNorm(RMSNorm):
    """RMSNorm in FP32, result in `dtype`: one kernel forward, one backward. The kernel exists on Ascend only."""

    def __init__(self, hidden_size: int, epsilon: float, dtype: ms.Type):
        super().__init__(hidden_size, epsilon, dtype)
        self.kernel = RmsNorm(epsilon)

    def construct(self, x: Tensor) -> Tensor:
        """[rows, hidden] -> [rows, hidden]"""
        return self.down(self.kernel(self.up(x, ms.float32), self.weight)[0], self.dtype)


class FusedAttention(AttentionCore):
    """Attention whose scores never leave the chip. The kernel exists on Ascend only, for FP16; softmax is FP32 in it.
    The kernel divides by sqrt(d) itself, after a product in FP32, and masks by a boolean instead of adding -10000. It
    has no dropout of attention weights: an active `dropout` is a `UserError`. With `next_tokens` 0 it computes no tile
    that lies after the diagonal, about half of them (CANN's ops-transformer, sparse_mode_introduction.md: mode 0 with
    nextTokens 0 and preTokens of at least the sequence is the causal case); in the others the mask still decides, so it
    may hide earlier documents."""

    def __init__(
        self,
        heads: Heads,
        dtype: ms.Type,
        softmax_dtype: ms.Type,
        dropout: nn.Cell,
        rotary: bool = False,
        scores_dtype: ms.Type | None = None,
    ):
        super().__init__(heads, dtype, softmax_dtype, dropout, rotary, dtype)  # the kernel multiplies in 16 bits
        if dropout.active:
            raise UserError("parallel.fusion.attention: the fused kernel drops nothing; set training.dropout to 0")
        scale = 1.0 / math.sqrt(heads.size)
        self.kernel = FlashAttentionScore(heads.count, scale_value=scale, next_tokens=0, input_layout="BNSD")
        self.hide = ops.Less()
        self.repeats = False  # set where queries are split into more shards than keys and values

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, sample_keys: Tensor) -> Tensor:
        """as `AttentionCore.attend`, with an additive mask [batch, 1, seq, seq] or [seq, seq]; the kernel shares the
        groups itself"""
        if self.repeats:
            k, v = self._repeated(self.repeat_key, k), self._repeated(self.repeat_value, v)
        hidden = self.cast_mask(self.hide(mask, 0.0), ms.uint8)  # 1: hidden
        return self.kernel(q, k, v, None, None, None, hidden)[3]


class FusedDropout(nn.Cell):
    """Inverted dropout by the engine's kernel and random numbers. Acts only while `training` is set. Every call draws
    another mask, which is not a function of the sample as in `layers.Dropout`: a resumed run, or one on another number
    of devices, drops other elements. MindSpore documents that the kernel's seeds have no effect on an Ascend, so no run
    may need the same mask twice (`config/chosen_hardware.py`)."""

    def __init__(self, probability: float, shape: tuple[int, ...], site: int, seed: int):
        super().__init__()
        self.active = probability > 0.0
        # all in the first seed: a back end may look at the second only where the first is 0
        mixed = (seed * 0xC2B2AE3D + (site + 1) * 0x85EBCA77) % 2**31 or 1
        self.kernel = ops.Dropout(1.0 - probability, mixed, site + 1)

    def construct(self, x: Tensor, sample_keys: Tensor) -> Tensor:
        """x any shape -> x with elements dropped; `sample_keys` is what `layers.Dropout` draws from"""
        if not (self.active and self.training):
            return x
        return self.kernel(x)[0]


class FlatBias(nn.Cell):
    """x + b of a linear layer. The gradient of b is a product with ones: the one that MindSpore derives takes a hundred
    times as long on a GPU."""

    def __init__(self):
        super().__init__(auto_prefix=False)
        self.add, self.sum = ops.BiasAdd(), ops.MatMul()

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        """[rows, n], [n] -> [rows, n]"""
        return self.add(x, bias)

    def bprop(self, x: Tensor, bias: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of both."""
        return dout, ops.reshape(self.sum(ops.ones((1, dout.shape[0]), dout.dtype), dout), (-1,))


class FlatRMSNorm(RMSNorm):
    """RMSNorm in FP32, result in `dtype`: products sum over a row, and spread its number and the weight."""

    def __init__(self, hidden_size: int, epsilon: float, dtype: ms.Type):
        super().__init__(hidden_size, epsilon, dtype)
        self.mean, self.outer = ops.MatMul(), ops.MatMul()
        self.shares = Tensor(np.full((hidden_size, 1), 1.0 / hidden_size, np.float32))

    def construct(self, x: Tensor) -> Tensor:
        """[rows, hidden] -> [rows, hidden]"""
        x = self.up(x, ms.float32)
        inverse = self.rsqrt(self.add_epsilon(self.mean(x * x, self.shares), self.epsilon))
        return self.down(self.scale(x, self.outer(inverse, ops.reshape(self.weight, (1, -1)))), self.dtype)


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

    def __init__(self, heads: int, positions: int, head_dim: int, rotary_dim: int, precision: str):
        super().__init__(positions, head_dim, rotary_dim, precision)
        self.heads, self.repeat = Tensor(np.zeros(heads, np.int32)), ops.Gather()

    def construct(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """int32 [batch, seq] -> cos, sin FP32 [batch, heads, seq, head_dim]"""
        cos, sin = super().construct(positions)
        return self.repeat(cos, self.heads, 1), self.repeat(sin, self.heads, 1)


class _RotaryOfGroups(Rotary):
    """`Rotary` for fewer heads than the angles are repeated for."""

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """as `Rotary.construct`"""
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
            to_scores = self.cast(weights, q.dtype) * self.cast(difference, q.dtype)
        to_q, to_k = self.plain(to_scores, k), self.transposed(to_scores, q)
        return to_q, to_k, self.transposed(dropped, to_out), ops.zeros_like(mask), ops.zeros_like(sample_keys)


class FlatAttention(AttentionCore):
    """Attention with what `FlatMask` and `FlatRotaryTable` return. Softmax is FP32 inside its kernel. Only keys are
    scaled: there are never more of them than of queries, and products add in FP32."""

    def __init__(self, heads: Heads, dtype: ms.Type, softmax_dtype: ms.Type, dropout: nn.Cell, *arguments: Any):
        super().__init__(heads, dtype, softmax_dtype, dropout, *arguments)
        self.scale, self.core = 1.0 / math.sqrt(heads.size), _Attend(heads.size, dtype, dropout)
        if self.turn_key is not None and self.shared > 1:
            self.turn_key = _RotaryOfGroups(self.turn_key.out_dtype, heads.size)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, sample_keys: Tensor) -> Tensor:
        """as `AttentionCore.attend`, with a mask [batch, heads, seq, seq]"""
        rows = ops.reshape(q, (*k.shape[:2], -1, self.heads.size))
        context = self.core(rows, self.scale_key(k, typed(self.scale, k)), v, mask, sample_keys)[0]
        return ops.reshape(context, q.shape)
