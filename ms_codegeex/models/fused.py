"""Fused counterparts of the cells in `layers.py`: each wraps one kernel of the device, its attribute `kernel`.
Constructor, parameters and `construct` match those of the composed cell, so neither models nor checkpoints depend on
the choice. Which of the two a run uses is decided in `ms_codegeex/config/chosen_hardware.py`."""

from __future__ import annotations

import math
from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.ops.auto_generate import LayerNormExt, RmsNorm
from mindspore.ops.operations.nn_ops import FlashAttentionScore

from ms_codegeex.models.layers import AttentionCore, DropoutBits, Heads, LayerNorm, RMSNorm


class FusedLayerNorm(LayerNorm):
    """LayerNorm in FP32, result in `dtype`: one kernel forward, one backward. `aclnn`: the one that MindSpore's plugin
    for Ascend has code for; otherwise CANN looks it up in its library of operators."""

    def __init__(self, hidden_size: int, epsilon: float, dtype: ms.Type, aclnn: bool = False):
        super().__init__(hidden_size, epsilon, dtype)
        self.aclnn, self.width = aclnn, (hidden_size,)
        self.kernel = LayerNormExt() if aclnn else ops.LayerNorm(1, 1, epsilon)

    def construct(self, x: Tensor) -> Tensor:
        x = self.up(x, ms.float32)
        if self.aclnn:
            return self.down(self.kernel(x, self.width, self.weight, self.bias, self.epsilon)[0], self.dtype)
        return self.down(self.kernel(x, self.weight, self.bias)[0], self.dtype)


class FusedRMSNorm(RMSNorm):
    """RMSNorm in FP32, result in `dtype`: one kernel forward, one backward. The kernel exists on Ascend only."""

    def __init__(self, hidden_size: int, epsilon: float, dtype: ms.Type):
        super().__init__(hidden_size, epsilon, dtype)
        self.kernel = RmsNorm(epsilon)

    def construct(self, x: Tensor) -> Tensor:
        return self.down(self.kernel(self.up(x, ms.float32), self.weight)[0], self.dtype)


class FusedAttention(AttentionCore):
    """Attention whose scores never leave the chip. The kernel exists on Ascend only, for FP16; softmax is FP32 in it.
    The kernel divides by sqrt(d) itself, after a product in FP32, and masks by a boolean instead of adding -10000. It
    drops the weights whose bits are 0, which are those of the composed cell. With `next_tokens` 0 it computes no tile
    that lies after the diagonal, about half of them (CANN's ops-transformer, sparse_mode_introduction.md: mode 0 with
    nextTokens 0 and preTokens of at least the sequence is the causal case); in the others the mask still decides, so it
    may hide earlier documents."""

    def __init__(
        self, heads: Heads, dtype: ms.Type, softmax: ms.Type, dropout: DropoutBits, rotary: bool = False, *_: Any
    ):
        super().__init__(heads, dtype, softmax, dropout, rotary, dtype)  # the kernel multiplies in 16 bits
        settings = {"scale_value": 1.0 / math.sqrt(heads.size), "next_tokens": 0, "input_layout": "BNSD"}
        self.kernel = FlashAttentionScore(heads.count, **settings)
        self.drops = dropout.active
        self.dropping = None
        if self.drops:
            self.dropping = FlashAttentionScore(heads.count, keep_prob=1.0 / dropout.scale_of_kept, **settings)
        self.hide = ops.Less()
        self.repeats = False  # set where queries are split into more shards than keys and values

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, sample_keys: Tensor) -> Tensor:
        """as `AttentionCore.attend`, with an additive mask [batch, 1, seq, seq] or [seq, seq]; the kernel shares the
        groups itself"""
        if self.repeats:
            k, v = self._repeated(self.repeat_key, k), self._repeated(self.repeat_value, v)
        hidden = self.cast_mask(self.hide(mask, 0.0), ms.uint8)  # 1: hidden
        if self.drops and self.training:
            return self.dropping(q, k, v, None, self.dropout(sample_keys), None, hidden)[3]
        return self.kernel(q, k, v, None, None, None, hidden)[3]


class FusedDropout(nn.Cell):
    """Inverted dropout by MindSpore's kernel and random numbers. Acts only while `training` is set. Every call draws
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
