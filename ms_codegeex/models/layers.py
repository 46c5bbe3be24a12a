"""Cells shared by the model families: pure mathematics, no strategy, no device, no file format.

Activations between cells are two-dimensional, [batch * seq_length, hidden_size]. Every operator that a parallel plan
may want to shard is an attribute of its cell, so that a plan can set strategies from outside. Parameters are FP32
masters, cast to the compute dtype where they are multiplied; normalisation, softmax and loss are FP32.
"""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer

MASKED_SCORE = -10000.0  # representable in FP16, vanishes in the softmax (CodeGeeX release)


class Linear(nn.Cell):
    """y = x Wᵀ + b with W [out, in] (PyTorch's orientation) and b [out], both FP32, multiplied in `dtype`."""

    def __init__(self, in_features: int, out_features: int, init_std: float, dtype: ms.Type):
        super().__init__()
        self.dtype = dtype
        self.weight = Parameter(initializer(Normal(init_std), [out_features, in_features], ms.float32), name="weight")
        self.bias = Parameter(initializer("zeros", [out_features], ms.float32), name="bias")
        self.cast_weight, self.cast_bias = ops.Cast(), ops.Cast()
        self.matmul, self.add = ops.MatMul(transpose_b=True), ops.Add()

    def construct(self, x):
        """[rows, in] -> [rows, out]"""
        return self.add(
            self.matmul(x, self.cast_weight(self.weight, self.dtype)), self.cast_bias(self.bias, self.dtype)
        )


class LayerNorm(nn.Cell):
    """LayerNorm over the last axis in FP32, result in `dtype`.

    Written from elementary operators: MindSpore's CPU kernel and its gradient take more than twice as long.
    """

    def __init__(self, hidden_size: int, epsilon: float, dtype: ms.Type):
        super().__init__()
        self.dtype, self.epsilon = dtype, epsilon
        self.weight = Parameter(initializer("ones", [hidden_size], ms.float32), name="weight")
        self.bias = Parameter(initializer("zeros", [hidden_size], ms.float32), name="bias")
        self.up, self.down = ops.Cast(), ops.Cast()
        self.mean, self.variance = ops.ReduceMean(keep_dims=True), ops.ReduceMean(keep_dims=True)
        self.subtract, self.square, self.rsqrt, self.add_epsilon = ops.Sub(), ops.Square(), ops.Rsqrt(), ops.Add()
        self.normalise, self.scale, self.shift = ops.Mul(), ops.Mul(), ops.Add()

    def construct(self, x):
        """[rows, hidden] -> [rows, hidden]"""
        x = self.up(x, ms.float32)
        centred = self.subtract(x, self.mean(x, -1))
        inverse_std = self.rsqrt(self.add_epsilon(self.variance(self.square(centred), -1), self.epsilon))
        return self.down(
            self.shift(self.scale(self.normalise(centred, inverse_std), self.weight), self.bias), self.dtype
        )


class Embedding(nn.Cell):
    """Rows of an FP32 table [rows, hidden_size] by index."""

    def __init__(self, rows: int, hidden_size: int, init_std: float):
        super().__init__()
        self.weight = Parameter(initializer(Normal(init_std), [rows, hidden_size], ms.float32), name="weight")
        self.gather = ops.Gather()

    def construct(self, indices):
        """int32 [...] -> FP32 [..., hidden]"""
        return self.gather(self.weight, indices, 0)


class FastGelu(nn.Cell):
    """x * sigmoid(1.702 x), the closed form of the release's fast_gelu."""

    def __init__(self):
        super().__init__()
        self.scale, self.sigmoid, self.multiply = ops.Mul(), ops.Sigmoid(), ops.Mul()

    def construct(self, x):
        """elementwise"""
        return self.multiply(x, self.sigmoid(self.scale(x, 1.702)))


class Dropout(nn.Cell):
    """Inverted dropout whose mask is a pure function of (seed, site, sample number, element of the sample).

    Acts only while `training` is set (Cell.set_train). No generator state: a resumed run and a run on another number of
    devices drop the same elements. The mask is a two-round multiply-xorshift hash; `site` tells the dropouts of one
    model apart.
    """

    def __init__(self, probability: float, elements: int, site: int, seed: int):
        super().__init__()
        self.keep = 1.0 - probability
        self.active = probability > 0.0
        if self.active:
            counter = np.arange(elements, dtype=np.uint64) * 0x9E3779B1 + (site + 1) * 0x85EBCA77 + seed * 0xC2B2AE3D
            self.counter = Tensor((counter & 0xFFFFFFFF).astype(np.uint32).view(np.int32).reshape(1, elements))
            self.threshold = int(probability * 2**32) - 2**31
            self.xor, self.shift = ops.BitwiseXor(), ops.RightShift()

    def _mix(self, h):
        h = self.xor(h, self.shift(h, Tensor(15, ms.int32))) * Tensor(0x2C1B3C6D, ms.int32)
        return self.xor(h, self.shift(h, Tensor(12, ms.int32))) * Tensor(0x297A2D39, ms.int32)

    def construct(self, x, samples):
        """x any shape whose first axis is a multiple of the batch, samples int32 [batch] -> x with elements dropped"""
        if not (self.active and self.training):
            return x
        key = self._mix(ops.reshape(samples, (-1, 1)) * Tensor(0x27D4EB2F, ms.int32))
        h = self._mix(self.xor(self.counter, key))
        kept = ops.cast(h >= self.threshold, x.dtype) * (1.0 / self.keep)
        return x * ops.reshape(kept, x.shape)


class CausalMask(nn.Cell):
    """Visibility and positions from the token ids, on the device.

    With `reset_at_eos`, a position sees nothing at or before an earlier eos and positions restart at 0 behind it
    (CodeGeeX paper: eod reset); the eos itself still belongs to the document it ends.
    """

    def __init__(self, seq_length: int, eos_token_id: int, reset_at_eos: bool):
        super().__init__()
        self.reset, self.eos, self.seq_length = reset_at_eos, eos_token_id, seq_length
        causal = np.tril(np.ones((1, seq_length, seq_length), np.float32))
        if reset_at_eos:
            self.causal = Tensor(causal)
            self.is_eos, self.eos_to_float, self.segments = ops.Equal(), ops.Cast(), ops.CumSum(exclusive=True)
            self.as_rows, self.as_columns, self.same = ops.ExpandDims(), ops.ExpandDims(), ops.Equal()
            self.same_to_float, self.visible = ops.Cast(), ops.Mul()
            self.count, self.to_int, self.from_zero = ops.ReduceSum(), ops.Cast(), ops.Sub()
            self.hidden, self.penalty, self.over_heads = ops.Sub(), ops.Mul(), ops.ExpandDims()
        else:
            self.bias = Tensor((1.0 - causal[0]) * MASKED_SCORE, ms.float32)
            self.positions = Tensor(np.arange(seq_length, dtype=np.int32)[None])
            self.nothing, self.spread = ops.Mul(), ops.Add()

    def construct(self, ids):
        """int32 [batch, seq] -> additive mask FP32 [batch, 1, seq, seq] or [seq, seq], positions int32 [batch, seq]"""
        if not self.reset:
            return self.bias, self.spread(self.nothing(ids, 0), self.positions)
        segment = self.segments(self.eos_to_float(self.is_eos(ids, self.eos), ms.float32), 1)
        same = self.same_to_float(self.same(self.as_rows(segment, 2), self.as_columns(segment, 1)), ms.float32)
        visible = self.visible(same, self.causal)
        positions = self.from_zero(self.to_int(self.count(visible, 2), ms.int32), 1)
        return self.over_heads(self.penalty(self.hidden(visible, 1.0), -MASKED_SCORE), 1), positions


class AttentionCore(nn.Cell):
    """softmax(q kᵀ / sqrt(d) + mask) v, with q and k each divided by d^(1/4) first, which keeps FP16 products small."""

    def __init__(
        self, num_heads: int, head_dim: int, seq_length: int, dtype: ms.Type, softmax_dtype: ms.Type, dropout: Dropout
    ):
        super().__init__()
        self.shape = (-1, seq_length, num_heads, head_dim)
        self.merged = (-1, num_heads * head_dim)
        self.scale = 1.0 / math.sqrt(math.sqrt(head_dim))
        self.dtype, self.softmax_dtype = dtype, softmax_dtype
        self.split, self.merge = ops.Transpose(), ops.Transpose()
        self.scale_query, self.scale_key, self.add_mask = ops.Mul(), ops.Mul(), ops.Add()
        self.scores, self.context = ops.BatchMatMul(transpose_b=True), ops.BatchMatMul()
        self.up, self.down, self.softmax, self.cast_mask = ops.Cast(), ops.Cast(), ops.Softmax(-1), ops.Cast()
        self.dropout = dropout

    def _heads(self, x):
        return self.split(ops.reshape(x, self.shape), (0, 2, 1, 3))

    def construct(self, query, key, value, mask, samples):
        """q, k, v [batch*seq, heads*d], mask broadcastable to [batch, heads, seq, seq] -> [batch*seq, heads*d]"""
        q = self.scale_query(self._heads(query), self.scale)
        k = self.scale_key(self._heads(key), self.scale)
        scores = self.up(self.scores(q, k), self.softmax_dtype)
        scores = self.add_mask(scores, self.cast_mask(mask, self.softmax_dtype))
        weights = self.dropout(self.down(self.softmax(scores), self.dtype), samples)
        context = self.context(weights, self._heads(value))
        return ops.reshape(self.merge(context, (0, 2, 1, 3)), self.merged)
