"""Counterparts of cells whose operators are compiled for this CPU (`ms_codegeex/kernels`), in FP32. Parameters and
`construct` match those of the composed cells, so neither models nor checkpoints depend on the choice. An operator has
its gradients' operator; the results have the same bits for any number of threads. `library`: the path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from ms_codegeex.models.layers import AttentionCore, FastGelu, LayerNorm, Linear, RMSNorm
from ms_codegeex.models.losses import ChunkedCrossEntropy

ACTIVATIONS = {ops.GeLU: 1, FastGelu: 2}  # as `Activation` in kernels/numbers.h


def _operator(
    library: str, name: str, shapes: Callable[..., Any], results: int = 1, bprop: Callable | None = None
) -> ops.Custom:
    """An operator with FP32 results, whose shapes follow from those of the inputs."""
    types = ms.float32 if results == 1 else (ms.float32,) * results
    return ops.Custom(f"{library}:{name}", out_shape=shapes, out_dtype=lambda *_: types, func_type="aot", bprop=bprop)


def _no_gradients(ids: Tensor, end: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
    return ops.zeros_like(ids), ops.zeros_like(end)


class CompiledMask(nn.Cell):
    """Replaces `CausalMask`: compiled attention needs no mask, only how many earlier tokens a token sees."""

    def __init__(self, library: str, eos_token_id: int, reset_at_eos: bool):
        super().__init__()
        self.end, path = Tensor([eos_token_id if reset_at_eos else -1], ms.int32), f"{library}:positions"
        shape, number = (lambda ids, end: ids), (lambda ids, end: ids)
        self.kernel = ops.Custom(path, out_shape=shape, out_dtype=number, func_type="aot", bprop=_no_gradients)

    def construct(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """int32 [batch, seq] -> positions int32 [batch, seq], twice"""
        positions = self.kernel(ids, self.end)
        return positions, positions


class CompiledAttention(AttentionCore):
    """Attention that holds the scores of a few queries at a time, and keeps one number per query and head for the
    backward pass. It has no dropout."""

    def __init__(self, library: str, *arguments: Any):
        super().__init__(*arguments)
        self.none, heads = Tensor([0.0], ms.float32), self.heads.count
        back = _operator(library, "attend_whole_back", lambda q, k, v, *_: (q, k, v), 3)

        def gradients(q, k, v, positions, cos, sin, out, dout):
            to_q, to_k, to_v = back(q, k, v, positions, cos, sin, out[0], out[1], dout[0])
            return to_q, to_k, to_v, ops.zeros_like(positions), ops.zeros_like(cos), ops.zeros_like(sin)

        shapes = lambda q, k, v, positions, *_: (q, (positions[0], heads, positions[1]))  # noqa: E731
        self.kernel = _operator(library, "attend_whole", shapes, 2, gradients)

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
        """q [batch*seq, heads*d], k and v [batch*seq, groups*d], mask: positions int32 [batch, seq] -> as q"""
        if self.turn_query is None:
            cos, sin = self.none, self.none
        return self.kernel(query, key, value, mask, cos, sin)[0]


def _norm(library: str, epsilon: float) -> tuple[ops.Custom, Tensor]:
    back = _operator(library, "norm_whole_back", lambda x, weight, bias, *_: (x, weight, bias), 3)

    def gradients(x, weight, bias, epsilon, out, dout):
        to_x, to_weight, to_bias = back(x, weight, bias, epsilon, out[1], dout[0])
        return to_x, to_weight, to_bias, ops.zeros_like(epsilon)

    shapes = lambda x, *_: (x, (x[0], 2))  # noqa: E731
    return _operator(library, "norm_whole", shapes, 2, gradients), Tensor([epsilon], ms.float32)


class CompiledLayerNorm(LayerNorm):
    """LayerNorm: one operator forward, one backward."""

    def __init__(self, library: str, hidden_size: int, epsilon: float, dtype: ms.Type):
        super().__init__(hidden_size, epsilon, dtype)
        self.kernel, self.small = _norm(library, epsilon)

    def construct(self, x: Tensor) -> Tensor:
        return self.kernel(x, self.weight, self.bias, self.small)[0]


class CompiledRMSNorm(RMSNorm):
    """RMSNorm: one operator forward, one backward."""

    def __init__(self, library: str, hidden_size: int, epsilon: float, dtype: ms.Type):
        super().__init__(hidden_size, epsilon, dtype)
        self.kernel, self.small = _norm(library, epsilon)
        self.none = Tensor([0.0], ms.float32)

    def construct(self, x: Tensor) -> Tensor:
        return self.kernel(x, self.weight, self.none, self.small)[0]


def active_linear(library: str) -> ops.Custom:
    """The operator down(activation(x + shift)): FP32 x [rows, in], shift [in], `ACTIVATIONS` int32 [1], weight [out,
    in] and bias [out] -> [rows, out]. No activation is written to memory."""
    to_x = _operator(library, "linear_active_to_x", lambda x, shift, *_: (x, shift), 2)
    to_weights = _operator(library, "linear_active_to_weights", lambda x, shift, kind, y: ((y[1], x[1]), (y[1],)), 2)

    def gradients(x, shift, kind, weight, bias, out, dout):
        return (
            *to_x(x, shift, kind, weight, dout),
            ops.zeros_like(kind),
            *to_weights(x, shift, kind, dout),
        )

    return _operator(library, "linear_active", lambda x, shift, kind, weight, bias: (x[0], weight[0]), 1, gradients)


class CompiledLinear(Linear):
    """A linear layer whose product adds the bias, which MindSpore 2.9's CPU kernel adds element by element through
    tables of indices. A frozen weight in fewer bits has a product of its own, as in `Linear`."""

    def __init__(self, library: str, in_features: int, out_features: int, init_std: float, bias: bool):
        super().__init__(in_features, out_features, init_std, ms.float32, bias)
        self.absent, self.active = Tensor([[0.0]], ms.float32), active_linear(library)  # two axes: no bias
        to_x = _operator(library, "linear_whole_to_x", lambda y, weight: (y[0], weight[1]))
        to_weights = _operator(library, "linear_whole_to_weights", lambda x, y, bias: ((y[1], x[1]), bias), 2)

        def gradients(x, weight, bias, out, dout):
            to_weight, to_bias = to_weights(x, dout, bias)
            return to_x(dout, weight), to_weight, to_bias

        self.kernel = _operator(library, "linear_whole", lambda x, weight, _: (x[0], weight[0]), 1, gradients)

    def construct(self, x: Tensor, sample_keys: Tensor | None = None) -> Tensor:
        """FP32 [rows, in] -> [rows, out]"""
        if self.widened is not None or not self.has_bias:
            return super().construct(x, sample_keys)
        return self.kernel(x, self.weight, self.bias)

    def product(self, x: Tensor, sample_keys: Tensor | None = None) -> Tensor:
        return super().product(x) if self.widened is not None else self.kernel(x, self.weight, self.absent)


class CompiledCrossEntropy(ChunkedCrossEntropy):
    """The sum and its gradients in one operator, which holds some rows of logits at a time. Evaluation, and training
    with a frozen table, are composed."""

    def __init__(self, library: str, rows: int, chunk: int, bias: bool = False, z_loss: float = 0.0):
        super().__init__(rows, chunk, bias, z_loss)
        self.z_loss, self.absent = Tensor([z_loss], ms.float32), Tensor([[0.0]], ms.float32)

        def gradients(hidden, table, bias, labels, mask, z_loss, out, dout):
            scale, zeros = dout[0], ops.zeros_like
            return out[1] * scale, out[2] * scale, out[3] * scale, zeros(labels), zeros(mask), zeros(z_loss)

        shapes = lambda hidden, table, bias, *_: ((1,), hidden, table, bias)  # noqa: E731
        self.kernel = _operator(library, "entropy_whole", shapes, 4, gradients)

    def construct(
        self, hidden: Tensor, table: Tensor, labels: Tensor, mask: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """as `CrossEntropy.construct`"""
        if self.training and not self.chunked.frozen:
            return self.kernel(hidden, table, self.absent if bias is None else bias, labels, mask, self.z_loss)[0]
        return super().construct(hidden, table, labels, mask, bias)


# MindSpore keeps one shape function per operator, for all layers and element types.
def _rows(x: tuple[int, ...], values: tuple[int, ...], *_: tuple[int, ...]) -> tuple[int, int]:
    return x[0], values[0]


def _columns(y: tuple[int, ...], values: tuple[int, ...], *scales: tuple[int, ...]) -> tuple[int, int]:
    # two 4-bit numbers share a byte, with scales [n, groups]; 8 bits have scales [n], 16 bits none
    return y[0], values[1] * (2 if scales and len(scales[0]) == 2 else 1)


class CompiledProduct(nn.Cell):
    """Replaces `QuantisedProduct` for an even number of columns: W is widened to FP32 in tiles that fit the cache."""

    def __init__(self, library: str):
        super().__init__(auto_prefix=False)
        back = _operator(library, "held_product_back", _columns)

        def gradients(x, values, scales, out, dout):
            return back(dout, values, scales), ops.zeros_like(values), ops.zeros_like(scales)

        self.kernel = _operator(library, "held_product", _rows, 1, gradients)

    def construct(self, x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
        """FP32 [rows, k], values and scales -> [rows, n]"""
        return self.kernel(x, values, scales)


class CompiledHalfProduct(nn.Cell):
    """Replaces `WidenedProduct` for FP16: W is widened to FP32 in tiles that fit the cache. MindSpore 2.9 would copy W
    before it casts it, and keep the copy until the step ends; our operator reads W itself."""

    def __init__(self, library: str):
        super().__init__(auto_prefix=False)
        back = _operator(library, "held_product_back", _columns)

        def gradients(x, weight, out, dout):
            return back(dout, weight), ops.zeros_like(weight)

        self.kernel = _operator(library, "held_product", _rows, 1, gradients)

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        """FP32 [rows, k] and FP16 [n, k] -> [rows, n]"""
        return self.kernel(x, weight)


class CompiledActivation(nn.Cell):
    """activation(x + bias), with the bias of the preceding product; `composed`: the activation's own cell."""

    def __init__(self, library: str, composed: nn.Cell | ops.Primitive):
        super().__init__()
        self.kind = Tensor([ACTIVATIONS[type(composed)]], ms.int32)
        back = _operator(library, "activate_back", lambda x, bias, *_: (x, bias), 2)

        def gradients(x, bias, kind, out, dout):
            to_x, to_bias = back(x, bias, kind, dout)
            return to_x, to_bias, ops.zeros_like(kind)

        self.kernel = _operator(library, "activate", lambda x, *_: x, 1, gradients)

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        """FP32 [rows, n] and [n] -> [rows, n]"""
        return self.kernel(x, bias, self.kind)
