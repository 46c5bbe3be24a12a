"""Products with frozen matrices in fewer bits, which become FP32 a tile at a time (`lora.frozen`)."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import initializer

from ms_codegeex.models.compiled import CompiledHalfProduct, CompiledProduct
from ms_codegeex.models.layers import Linear
from ms_codegeex.models.parameters import GROUP

TILE = 1 << 24  # numbers of a matrix that are FP32 at once


class QuantisedProduct(nn.Cell):
    """x Wᵀ with a frozen W [n, k] of `bits`, from MindSpore's own operators: int8 [n, k] with a scale for each row, or
    two numbers of 4 bits in a byte, the earlier one in its low half, with a scale for each `GROUP` numbers of a row.
    Some rows of W are FP32 at a time, in each direction; the dependencies are those of `WidenedProduct`."""

    def __init__(self, bits: int, n: int, k: int):
        super().__init__(auto_prefix=False)
        self.bits, self.k, rows = bits, k, max(1, TILE // k)
        # rows of each tile, which `Gather` copies: slices of int8 take MindSpore 50 ns a number
        self.tiles = tuple(Tensor(np.arange(n)[start : start + rows], ms.int32) for start in range(0, n, rows))
        self.heights = tuple(tile.shape[0] for tile in self.tiles)
        signed = (np.arange(16) + 8) % 16 - 8
        self.pairs = Tensor(np.stack([np.tile(signed, 16), signed.repeat(16)], 1), ms.float32)  # of each byte
        self.groups = Tensor(np.arange(k) // GROUP, ms.int32)
        self.matmul, self.back, self.zeros = ops.MatMul(transpose_b=True), ops.MatMul(), ops.ZerosLike()

    def _tile(self, tile: Tensor, values: Tensor, scales: Tensor, after: Tensor) -> Tensor:
        """Rows of W in FP32 [rows, k], without the scales of 8 bits, which the narrower factor takes."""
        values, scales = ops.depend(values, after), ops.depend(scales, after)
        if len(self.tiles) > 1:
            values = ops.gather(values, tile, 0)
        if self.bits == 8:
            return ops.cast(values, ms.float32)
        if len(self.tiles) > 1:
            scales = ops.gather(scales, tile, 0)
        wide = ops.reshape(ops.gather(self.pairs, ops.cast(values, ms.int32), 0), (tile.shape[0], -1))
        if self.k % 2:
            wide = wide[:, : self.k]
        return wide * ops.gather(scales, self.groups, 1)

    def construct(self, x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
        """FP32 [rows, k], values and scales -> [rows, n]"""
        parts, after = (), x
        for tile in self.tiles:
            after = self.matmul(x, self._tile(tile, values, scales, after))
            parts += (after,)
        y = parts[0] if len(parts) == 1 else ops.concat(parts, 1)
        return y * scales if self.bits == 8 else y

    def bprop(self, x: Tensor, values: Tensor, scales: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        """The gradient of x. Those of values and scales, which nothing asks for, are zero."""
        scaled = dout * scales if self.bits == 8 else dout
        parts = (scaled,) if len(self.tiles) == 1 else ops.split(scaled, self.heights, 1)
        to_x = self.back(parts[0], self._tile(self.tiles[0], values, scales, scaled))
        for part, tile in zip(parts[1:], self.tiles[1:]):  # noqa: B905
            to_x = to_x + self.back(part, self._tile(tile, values, scales, to_x))
        return to_x, self.zeros(values), self.zeros(scales)


def hold_linear(linear: Linear, held: ms.Type, library: str = "") -> None:
    ours = library and held == ms.float16 and linear.dtype == ms.float32
    linear.hold(held, CompiledHalfProduct(library) if ours else None)


def quantise_linear(linear: Linear, bits: int, library: str = "") -> None:
    """Let a layer hold its weight, which is frozen, in `bits`; the numbers are to be set afterwards. `library`: of the
    operators that are compiled for this CPU, "" for none."""
    n, k = linear.shape
    shape, scales, dtype = ((n, k), (n,), ms.int8) if bits == 8 else ((n, -(-k // 2)), (n, -(-k // GROUP)), ms.uint8)
    whole = bits == 8 or k % 2 == 0
    product = CompiledProduct(library) if library and whole else QuantisedProduct(bits, n, k)
    linear.quantise(product, initializer("zeros", shape, dtype), initializer("zeros", scales, ms.float32))
