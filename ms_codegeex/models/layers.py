"""Cells shared by the model families: pure mathematics, no strategy, no device, no file format. Activations between
cells are two-dimensional, [batch * seq_length, hidden_size]. Every operator that `parallel/strategies.py` shards is an
attribute of its cell, so that strategies can be set from outside. Parameters are FP32 masters, cast to the compute
dtype where they are multiplied; normalisation, softmax and loss are FP32. A cell lists in `computed_in_dtype` its
operators whose operands or result have the compute dtype; operators that only move numbers are left out. In `constants`
it lists its attributes that are numbers and operands of such an operator."""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer

from ms_codegeex.models.decoder_config import Heads, rotary_turns
from ms_codegeex.models.parameters import SCALES

MASKED_SCORE = -10000.0  # representable in FP16, vanishes in the softmax (CodeGeeX release)


def type_constants(network: nn.Cell) -> None:
    """Give the constants of a network the dtype of the tensors they are combined with: a GPU's kernels multiply FP16
    only with FP16, while other devices also take an FP32 number. The constants are then rounded to FP16."""
    for _, cell in list(network.cells_and_names()):
        for name in getattr(cell, "constants", ()):
            setattr(cell, name, Tensor(getattr(cell, name), ms.float32))


def typed(number: float | Tensor, x: Tensor) -> float | Tensor:
    """Return a constant as an operand for `x`: the number itself, or in the dtype of `x` after `type_constants`."""
    if isinstance(number, Tensor):
        return ops.cast(number, x.dtype)
    return number


def hold_frozen(cell: nn.Cell, held: ms.Type) -> None:
    old = cell.weight
    cell.weight = Parameter(initializer("zeros", old.shape, held), name=old.name, requires_grad=False)


class WidenedProduct(nn.Cell):
    """x Wᵀ with a frozen W that is held in fewer bits than x has. The wide copy of W exists while the product is
    computed, once in each direction. The dependencies see to that: MindSpore 2.9 computes what depends on parameters
    alone when a step begins, and keeps it until the backward pass, recomputation or not."""

    def __init__(self, dtype: ms.Type):
        super().__init__(auto_prefix=False)
        self.dtype, self.widen, self.zeros = dtype, ops.Cast(), ops.ZerosLike()
        self.matmul, self.back = ops.MatMul(transpose_b=True), ops.MatMul()

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        """[rows, in], [out, in] -> [rows, out]"""
        return self.matmul(x, self.widen(ops.depend(weight, x), self.dtype))

    def bprop(self, x: Tensor, weight: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        return self.back(dout, self.widen(ops.depend(weight, dout), self.dtype)), self.zeros(weight)


class Linear(nn.Cell):
    """y = x Wᵀ + b with W [out, in] (PyTorch's orientation) and b [out] if `bias`, both FP32, multiplied in `dtype`. It
    ignores the samples' keys, which an adapter in its place (`models/lora.py`) draws its dropout from. `active`: an
    operator that also computes the activation before it, or None."""

    computed_in_dtype = ("cast_weight", "matmul", "cast_bias", "add")

    def __init__(self, in_features: int, out_features: int, init_std: float, dtype: ms.Type, bias: bool = True):
        super().__init__()
        self.dtype, self.has_bias, self.shape = dtype, bias, (out_features, in_features)
        self.weight = Parameter(initializer(Normal(init_std), [out_features, in_features], ms.float32), name="weight")
        self.cast_weight, self.matmul = ops.Cast(), ops.MatMul(transpose_b=True)
        self.widened, self.quantised, self.active = None, False, None
        if bias:
            self.bias = Parameter(initializer("zeros", [out_features], ms.float32), name="bias")
            self.cast_bias, self.add = ops.Cast(), ops.Add()
        else:
            self.computed_in_dtype = ("cast_weight", "matmul")

    def construct(self, x: Tensor, sample_keys: Tensor | None = None) -> Tensor:
        """[rows, in] -> [rows, out]"""
        y = self.product(x)
        return self.add(y, self.cast_bias(self.bias, self.dtype)) if self.has_bias else y

    def product(self, x: Tensor, sample_keys: Tensor | None = None) -> Tensor:
        """Return the product without the bias."""
        if self.quantised:
            return self.widened(x, self.weight, self.scales)
        if self.widened is not None:
            return self.widened(x, self.weight)
        return self.matmul(x, self.cast_weight(self.weight, self.dtype))

    def hold(self, held: ms.Type, product: nn.Cell | None = None) -> None:
        """Hold the weight, which is frozen, in the type `held`. `product` multiplies with it if that is not the type of
        products; None: `WidenedProduct`."""
        hold_frozen(self, held)
        self.widened = None if held == self.dtype else product or WidenedProduct(self.dtype)
        self.active = None

    def quantise(self, product: nn.Cell, values: Tensor, scales: Tensor) -> None:
        """Hold the weight, which is frozen, as `values` and `scales`, which `product` multiplies with; their names are
        the weight's, with ".scales" after it."""
        name = self.weight.name
        self.weight = Parameter(values, name=name, requires_grad=False)
        self.scales = Parameter(scales, name=f"{name}{SCALES}", requires_grad=False)
        self.widened, self.quantised, self.active = product, True, None

    def shift(self) -> Parameter:
        return self.bias


class LayerNorm(nn.Cell):
    """LayerNorm over the last axis in FP32, result in `dtype`. Written from elementary operators: MindSpore's CPU
    kernel and its gradient take more than twice as long."""

    computed_in_dtype = ("up", "down")

    def __init__(self, hidden_size: int, epsilon: float, dtype: ms.Type):
        super().__init__()
        self.dtype, self.epsilon = dtype, epsilon
        self.weight = Parameter(initializer("ones", [hidden_size], ms.float32), name="weight")
        self.bias = Parameter(initializer("zeros", [hidden_size], ms.float32), name="bias")
        self.up, self.down = ops.Cast(), ops.Cast()
        self.mean, self.variance = ops.ReduceMean(keep_dims=True), ops.ReduceMean(keep_dims=True)
        self.subtract, self.square, self.rsqrt, self.add_epsilon = ops.Sub(), ops.Square(), ops.Rsqrt(), ops.Add()
        self.normalise, self.scale, self.shift = ops.Mul(), ops.Mul(), ops.Add()

    def construct(self, x: Tensor) -> Tensor:
        """[rows, hidden] -> [rows, hidden]"""
        x = self.up(x, ms.float32)
        centred = self.subtract(x, self.mean(x, -1))
        inverse_std = self.rsqrt(self.add_epsilon(self.variance(self.square(centred), -1), self.epsilon))
        return self.down(
            self.shift(self.scale(self.normalise(centred, inverse_std), self.weight), self.bias), self.dtype
        )


class RMSNorm(nn.Cell):
    """x / sqrt(mean(x²) + epsilon) * weight over the last axis in FP32, result in `dtype`. The release keeps everything
    in bf16 for bf16 activations (modeling_chatglm.py); here the variance is FP32 for every dtype, as in the release for
    fp16 and fp32."""

    computed_in_dtype = ("up", "down")

    def __init__(self, hidden_size: int, epsilon: float, dtype: ms.Type):
        super().__init__()
        self.dtype, self.epsilon = dtype, epsilon
        self.weight = Parameter(initializer("ones", [hidden_size], ms.float32), name="weight")
        self.up, self.down, self.square, self.mean = ops.Cast(), ops.Cast(), ops.Square(), ops.ReduceMean(True)
        self.add_epsilon, self.rsqrt, self.normalise, self.scale = ops.Add(), ops.Rsqrt(), ops.Mul(), ops.Mul()

    def construct(self, x: Tensor) -> Tensor:
        """[rows, hidden] -> [rows, hidden]"""
        x = self.up(x, ms.float32)
        inverse = self.rsqrt(self.add_epsilon(self.mean(self.square(x), -1), self.epsilon))
        return self.down(self.scale(self.normalise(x, inverse), self.weight), self.dtype)


class Embedding(nn.Cell):
    """Rows of an FP32 table [rows, hidden_size] by index."""

    def __init__(self, rows: int, hidden_size: int, init_std: float):
        super().__init__()
        self.weight = Parameter(initializer(Normal(init_std), [rows, hidden_size], ms.float32), name="weight")
        self.gather, self.widen = ops.Gather(), None

    def construct(self, indices: Tensor) -> Tensor:
        """int32 [...] -> FP32 [..., hidden]"""
        rows = self.gather(self.weight, indices, 0)
        return rows if self.widen is None else self.widen(rows, ms.float32)

    def hold(self, held: ms.Type) -> None:
        hold_frozen(self, held)
        self.widen = ops.Cast()


class FastGelu(nn.Cell):
    """x * sigmoid(1.702 x), the closed form of the release's fast_gelu."""

    computed_in_dtype, constants = ("scale", "sigmoid", "multiply"), ("slope",)

    def __init__(self):
        super().__init__()
        self.slope = 1.702
        self.scale, self.sigmoid, self.multiply = ops.Mul(), ops.Sigmoid(), ops.Mul()

    def construct(self, x: Tensor) -> Tensor:
        return self.multiply(x, self.sigmoid(self.scale(x, typed(self.slope, x))))


class SwiGlu(nn.Cell):
    """silu(gate) * up with silu(x) = x * sigmoid(x)."""

    computed_in_dtype = ("sigmoid", "silu", "multiply")

    def __init__(self):
        super().__init__()
        self.sigmoid, self.silu, self.multiply = ops.Sigmoid(), ops.Mul(), ops.Mul()

    def construct(self, gate: Tensor, up: Tensor) -> Tensor:
        return self.multiply(self.silu(gate, self.sigmoid(gate)), up)


class SampleKeys(nn.Cell):
    """An odd 32-bit hash of each sample number: all dropouts of a model draw from it."""

    def __init__(self):
        super().__init__()
        self.shift, self.xor, self.multiply, self.odd = ops.RightShift(), ops.BitwiseXor(), ops.Mul(), ops.BitwiseOr()

    def _round(self, h: Tensor, bits: int, factor: int) -> Tensor:
        return self.multiply(self.xor(h, self.shift(h, Tensor(bits, ms.int32))), Tensor(factor, ms.int32))

    def construct(self, samples: Tensor) -> Tensor:
        """int32 [batch] -> int32 [batch]: four rounds of multiply-xorshift"""
        h = self.multiply(samples, Tensor(0x27D4EB2F, ms.int32))
        for _ in range(2):
            h = self._round(self._round(h, 15, 0x2C1B3C6D), 12, 0x297A2D39)
        return self.odd(h, Tensor(1, ms.int32))


class Dropout(nn.Cell):
    """Inverted dropout whose mask is a pure function of (seed, site, sample's key, position in the sample).

    Acts only while `training` is set (Cell.set_train). No generator state: a resumed run, a run on another number of
    devices, devices that hold copies of an activation, and a backward pass that computes the forward again all drop the
    same elements. `site` distinguishes the dropouts of one model.

    An element is dropped where the product of two odd 32-bit numbers, modulo 2^32, is below a threshold. One number
    belongs to the column; the other is the exclusive or of the sample's key and one number for each other axis. An
    element thus costs one product and one comparison, and every axis can be sharded.
    """

    def __init__(self, probability: float, shape: tuple[int, ...], site: int, seed: int):
        """`shape`: of one sample's activation, at least two axes, the columns last."""
        super().__init__()
        self.active, self.shape = probability > 0.0, shape
        if self.active:
            self.scale_of_kept, self.threshold = 1.0 / (1.0 - probability), int(probability * 2**32) - 2**31
            # the raw stream of a bit generator is the same in every version of NumPy
            raw = np.random.PCG64([seed, site]).random_raw(sum(shape)) >> np.uint64(32)
            *lines, columns = np.split(raw.astype(np.uint32), np.cumsum(shape)[:-1])
            self.columns = Tensor((columns | np.uint32(1)).view(np.int32))
            even = [(line & np.uint32(0xFFFFFFFE)).view(np.int32) for line in lines]  # with an odd key: odd
            self.lines = [Tensor(line.reshape(-1, *[1] * (len(lines) - i))) for i, line in enumerate(even)]
            self.key_column, self.combine = (-1, *(1,) * len(shape)), [ops.BitwiseXor() for _ in lines]
            self.product, self.compare, self.cast = ops.Mul(), ops.GreaterEqual(), ops.Cast()
            self.scale, self.drop = ops.Mul(), ops.Mul()
            self.computed_in_dtype, self.constants = ("scale", "drop"), ("scale_of_kept",)

    def construct(self, x: Tensor, sample_keys: Tensor) -> Tensor:
        """x [batch, *shape], or with the batch folded into the first of these axes, sample_keys int32 [batch] -> x with
        elements dropped"""
        if not (self.active and self.training):
            return x
        return self.drop(x, ops.stop_gradient(self.scale(self.kept(x, sample_keys), typed(self.scale_of_kept, x))))

    def kept(self, x: Tensor, sample_keys: Tensor) -> Tensor:
        """1 where `construct` keeps an element, else 0, in the dtype of `x`"""
        h = self.rows(sample_keys)
        if x.ndim == len(self.shape):
            h = ops.reshape(h, (-1, *self.shape[1:-1], 1))
        return self.cast(self.compare(self.product(h, self.columns), Tensor(self.threshold, ms.int32)), x.dtype)

    def rows(self, sample_keys: Tensor) -> Tensor:
        """int32 [batch] -> the odd number of each row, int32 [batch, *shape[:-1], 1]"""
        h = ops.reshape(sample_keys, self.key_column)
        for i in range(len(self.lines)):
            h = self.combine[i](h, self.lines[i])
        return h


class DropoutBits(Dropout):
    """The mask of a `Dropout` as bits, for a kernel that drops by itself: eight columns to a byte, the first of them in
    its lowest bit, 1 where an element stays. Each bit is computed for all bytes at once, so that no tensor is as large
    as the activation. FP16 has all numbers of a byte."""

    def __init__(self, probability: float, shape: tuple[int, ...], site: int, seed: int):
        super().__init__(probability, shape, site, seed)
        self.computed_in_dtype, self.constants = (), ()
        if self.active:
            columns = self.columns.asnumpy()
            self.eighths = [Tensor(columns[bit::8]) for bit in range(8)]
            self.products, self.compares = [[kind() for _ in range(8)] for kind in (ops.Mul, ops.GreaterEqual)]
            self.casts, self.shifts, self.adds = [[kind() for _ in range(8)] for kind in (ops.Cast, ops.Mul, ops.Add)]
            self.narrow = ops.Cast()

    def construct(self, sample_keys: Tensor) -> Tensor:
        """int32 [batch] -> uint8 [batch, *shape[:-1], columns / 8]"""
        h, total = self.rows(sample_keys), None
        for bit in range(8):
            kept = self.compares[bit](self.products[bit](h, self.eighths[bit]), Tensor(self.threshold, ms.int32))
            value = self.casts[bit](kept, ms.float16)
            total = value if bit == 0 else self.adds[bit](total, self.shifts[bit](value, 2.0**bit))
        return ops.stop_gradient(self.narrow(total, ms.uint8))


def keys_in_block(sample_keys: Tensor, activation: Tensor) -> Tensor:
    """The same keys, which wait for an activation of the block. Where the block is computed again, so are its masks:
    MindSpore 2.9 would otherwise find them equal to those of the forward pass, and keep these. The activation is not
    the block's input: where that is sliced for recomputation, a cycle may be closed."""
    return ops.depend(sample_keys, activation)


class CausalMask(nn.Cell):
    """Visibility and positions from the token ids, on the device. With `reset_at_eos`, a position sees nothing at or
    before an earlier eos and positions restart at 0 after it (CodeGeeX paper: eod reset); the eos itself still belongs
    to the document it ends."""

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

    def construct(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """int32 [batch, seq] -> additive mask FP32 [batch, 1, seq, seq] or [seq, seq], positions int32 [batch, seq]"""
        if not self.reset:
            return self.bias, self.spread(self.nothing(ids, 0), self.positions)
        segment = self.segments(self.eos_to_float(self.is_eos(ids, self.eos), ms.float32), 1)
        same = self.same_to_float(self.same(self.as_rows(segment, 2), self.as_columns(segment, 1)), ms.float32)
        visible = self.visible(same, self.causal)
        positions = self.from_zero(self.to_int(self.count(visible, 2), ms.int32), 1)
        return self.over_heads(self.penalty(self.hidden(visible, 1.0), -MASKED_SCORE), 1), positions


class RotaryTable(nn.Cell):
    """cos and ∓sin of `rotary_turns` for channels 2i and 2i + 1; 1 and 0 from `rotary_dim` on."""

    def __init__(self, positions: int, head_dim: int, rotary_dim: int, precision: str = "fp32", base: float = 10000.0):
        super().__init__()
        turns, sines = rotary_turns(positions, rotary_dim, precision, base)
        cos, sin = np.ones((positions, head_dim), np.float32), np.zeros((positions, head_dim), np.float32)
        cos[:, :rotary_dim] = turns.repeat(2, 1)
        sin[:, :rotary_dim] = np.stack([-sines, sines], -1).reshape(positions, rotary_dim)
        self.cos, self.sin = Tensor(cos), Tensor(sin)
        self.gather_cos, self.gather_sin = ops.Gather(), ops.Gather()
        self.cos_over_heads, self.sin_over_heads = ops.ExpandDims(), ops.ExpandDims()

    def construct(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """int32 [batch, seq] -> cos, sin FP32 [batch, 1, seq, head_dim]"""
        cos = self.cos_over_heads(self.gather_cos(self.cos, positions, 0), 1)
        return cos, self.sin_over_heads(self.gather_sin(self.sin, positions, 0), 1)


class Rotary(nn.Cell):
    """Turns each pair of adjacent channels (2i, 2i + 1) by its position's angle: x cos + swapped(x) sin. The swap
    reverses pairs, which moves numbers without arithmetic and can be split by heads; the sign is in the table. Heads of
    an odd `size` have a last channel without a partner, which stays. Arithmetic is FP32, the result is `out_dtype`."""

    def __init__(self, out_dtype: ms.Type, size: int):
        super().__init__()
        self.out_dtype, self.order = out_dtype, None
        self.up, self.swap, self.down = ops.Cast(), ops.ReverseV2([4]), ops.Cast()
        if size % 2:
            order = [*np.arange(size - 1).reshape(-1, 2)[:, ::-1].flat, size - 1]
            self.swap, self.order = ops.Gather(), Tensor(order, ms.int32)
        self.times_cos, self.times_sin, self.add = ops.Mul(), ops.Mul(), ops.Add()
        self.computed_in_dtype = ("up",) if out_dtype == ms.float32 else ("up", "down")

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [batch, heads, seq, d], cos and sin FP32 [batch, 1, seq, d] -> [batch, heads, seq, d]"""
        (_, heads, rows, d), x = x.shape, self.up(x, ms.float32)
        if self.order is None:
            swapped = ops.reshape(self.swap(ops.reshape(x, (-1, heads, rows, d // 2, 2))), (-1, heads, rows, d))
        else:
            swapped = self.swap(x, self.order, 3)
        return self.down(self.add(self.times_cos(x, cos), self.times_sin(swapped, sin)), self.out_dtype)


class AttentionCore(nn.Cell):
    """softmax(q kᵀ / sqrt(d) + mask) v, with q and k each divided by d^(1/4) first, which keeps FP16 products small.
    `rotary` rotates queries and keys."""

    constants = ("scale",)

    def __init__(
        self,
        heads: Heads,
        dtype: ms.Type,
        softmax_dtype: ms.Type,
        dropout: Dropout,
        rotary: bool = False,
        scores_dtype: ms.Type | None = None,
    ):
        super().__init__()
        self.take(heads)
        self.scale = 1.0 / math.sqrt(math.sqrt(heads.size))
        self.dtype, self.softmax_dtype = dtype, softmax_dtype
        self.split, self.split_shared, self.merge = ops.Transpose(), ops.Transpose(), ops.Transpose()
        self.turn_query = Rotary(scores_dtype or dtype, heads.size) if rotary else None
        self.turn_key = Rotary(scores_dtype or dtype, heads.size) if rotary else None
        self.repeat_key, self.repeat_value = ops.Tile(), ops.Tile()
        self.scale_query, self.scale_key, self.add_mask = ops.Mul(), ops.Mul(), ops.Add()
        self.scores, self.context = ops.BatchMatMul(transpose_b=True), ops.BatchMatMul()
        self.up, self.down, self.softmax, self.cast_mask = ops.Cast(), ops.Cast(), ops.Softmax(-1), ops.Cast()
        self.dropout = dropout
        self.computed_in_dtype = ("down", "context")
        if scores_dtype in (None, dtype):
            self.computed_in_dtype += ("scale_query", "scale_key", "scores", "up")
        if softmax_dtype == dtype:
            self.computed_in_dtype += ("cast_mask", "add_mask", "softmax")

    def take(self, heads: Heads) -> None:
        self.heads, self.merged, self.shared = heads, (-1, heads.count * heads.size), heads.count // heads.groups

    def _heads(self, split: ops.Transpose, x: Tensor, count: int, seq_length: int) -> Tensor:
        return split(ops.reshape(x, (-1, seq_length, count, self.heads.size)), (0, 2, 1, 3))

    def _repeated(self, repeat: ops.Tile, x: Tensor) -> Tensor:
        """[batch, groups, seq, d] -> [batch, heads, seq, d]: each group for its consecutive query heads"""
        rows, size = x.shape[2], self.heads.size
        flat = ops.reshape(x, (-1, self.heads.groups, 1, rows * size))
        return ops.reshape(repeat(flat, (1, 1, self.shared, 1)), (-1, self.heads.count, rows, size))

    def split_heads(
        self, query: Tensor, key: Tensor, value: Tensor, seq_length: int, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """q [batch*seq, heads*d], k and v [batch*seq, groups*d] -> the same as [batch, ·, seq, d], turned"""
        q = self._heads(self.split, query, self.heads.count, seq_length)
        k = self._heads(self.split_shared, key, self.heads.groups, seq_length)
        v = self._heads(self.split_shared, value, self.heads.groups, seq_length)
        if self.turn_query is not None:
            return self.turn_query(q, cos, sin), self.turn_key(k, cos, sin), v
        return q, k, v

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
        """q [batch*seq, heads*d], k and v [batch*seq, groups*d], mask broadcastable to [batch, heads, seq, seq] ->
        [batch*seq, heads*d]"""
        q, k, v = self.split_heads(query, key, value, mask.shape[-2], cos, sin)
        return ops.reshape(self.merge(self.attend(q, k, v, mask, sample_keys), (0, 2, 1, 3)), self.merged)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, sample_keys: Tensor) -> Tensor:
        """q [batch, heads, seq, d], k and v [batch, groups, seq, d] -> [batch, heads, seq, d]"""
        q, k = self.scale_query(q, typed(self.scale, q)), self.scale_key(k, typed(self.scale, k))
        if self.shared > 1:
            k, v = self._repeated(self.repeat_key, k), self._repeated(self.repeat_value, v)
        scores = self.add_mask(self.up(self.scores(q, k), self.softmax_dtype), self.cast_mask(mask, self.softmax_dtype))
        weights = self.dropout(self.down(self.softmax(scores), self.dtype), sample_keys)
        return self.context(weights, v)
