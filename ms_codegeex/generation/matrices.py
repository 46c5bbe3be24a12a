"""A model's weights for the engine, as stored or rounded (`formats/rounding.py`), and their packed layout for the
kernels. Uses NumPy only: nothing here imports MindSpore."""

from __future__ import annotations

import mmap
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ms_codegeex.formats.rounding import QuantisedMatrix, quantise, rounded_up
from ms_codegeex.formats.tensors import LazyTensor

ROWS = 32  # the rows of a packed matrix are a multiple of this
BLOCK = 16  # rows that are interleaved in a block
MULTIPLES = {32: 16, 16: 16, 8: 64, 4: 128}  # bits: the columns of a packed matrix are a multiple of this
MAX_ADAPTER_RANK = 1024
WHOLE = slice(None)


@dataclass(frozen=True)
class LoraTerm:
    """What a LoRA adapter adds to a product with a matrix [n, k]: B A x. `a` FP32 [r, k]; `b` FP32 [n, r], scaled."""

    a: np.ndarray
    b: np.ndarray


def stored(tensor: LazyTensor, rows: slice = WHOLE, columns: slice = WHOLE) -> QuantisedMatrix:
    """Read a matrix [n, k], or a copy of the given part. FP16, BF16 and FP32 are kept, other types become FP32."""
    if (rows, columns) != (WHOLE, WHOLE):
        return stored(tensor.window((rows, columns))).part(WHOLE, WHOLE)
    half = tensor.dtype in ("float16", "bfloat16")
    kept = half or tensor.dtype == "float32"
    return QuantisedMatrix(tensor.array() if kept else tensor.float32(), 16 if half else 32)


class Weights(Protocol):
    """A model's weights by the package's parameter names. The matrices of products are rounded to `bits`, or not at all
    if it is None."""

    bits: int | None

    def matrix(self, name: str, rows: slice = WHOLE, columns: slice = WHOLE) -> QuantisedMatrix:
        """Return a matrix [n, k], or the given part of it."""

    def vector(self, name: str, rows: slice = WHOLE) -> np.ndarray:
        """Return a vector, FP32 [n], or the given part of it."""

    def packed(self, name: str, blocks: bool = False) -> PackedMatrix:
        """Return a matrix in the layout of `pack`."""


@dataclass(frozen=True)
class TensorWeights:
    """Weights of a source, read on demand. Those named in `products` are rounded to `bits`, unless it is None."""

    tensors: Mapping[str, LazyTensor]
    bits: int | None = None
    group: int = 64
    products: Collection[str] = ()

    def matrix(self, name: str, rows: slice = WHOLE, columns: slice = WHOLE) -> QuantisedMatrix:
        if self.bits is None or name not in self.products:
            return stored(self.tensors[name], rows, columns)
        rounded = quantise(self.tensors[name].float32(), self.bits, self.group)
        return rounded if (rows, columns) == (WHOLE, WHOLE) else rounded.part(rows, columns)

    def vector(self, name: str, rows: slice = WHOLE) -> np.ndarray:
        return self.tensors[name].window((rows,)).float32()

    def packed(self, name: str, blocks: bool = False) -> PackedMatrix:
        return pack(self.matrix(name), blocks)


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix [n, k] in the kernels' layout: rows and columns padded with zeros, `data` aligned to 64 bytes. 8-bit and
    4-bit layouts are defined in numbers.h: row by row, or in `blocks` of 16 interleaved rows."""

    n: int
    k: int
    bits: int
    group: int
    data: np.ndarray  # FP32, FP16, BF16 or int8 [rows, width], or int32 [rows, width / 8]
    scales: np.ndarray  # FP32 [rows] or [rows, width / group]; [1] without scales
    blocks: bool = False

    @property
    def rows(self) -> int:
        return self.data.shape[0]

    @property
    def width(self) -> int:
        return self.data.shape[1] * (8 if self.bits == 4 else 1)


def aligned(shape: tuple[int, ...], dtype: type, sparse: bool = False) -> np.ndarray:
    """Return zeros aligned to 64 bytes, mapped outside the heap: there, long-lived arrays between temporary ones of
    packing would leave holes, a tenth of a 4-bit layer of CodeGeeX2-6B. A `sparse` array occupies only the small pages
    that were written; others use huge pages where available."""
    count = int(np.prod(shape))
    pages = mmap.mmap(-1, max(count * np.dtype(dtype).itemsize, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(AttributeError, OSError):  # on systems without huge pages
        pages.madvise(mmap.MADV_NOHUGEPAGE if sparse else mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, dtype, count).reshape(shape)


def packed_shape(bits: int, n: int, k: int) -> tuple[int, int]:
    return rounded_up(n, ROWS), rounded_up(k, MULTIPLES[bits])


def pack(matrix: QuantisedMatrix, blocks: bool = False) -> PackedMatrix:
    """Return the matrix in the kernels' layout. `blocks` applies to 8-bit and 4-bit matrices. A matrix that needs no
    padding is not copied, unless it has 4 bits or is put in blocks."""
    n, k = matrix.shape
    rows, width = packed_shape(matrix.bits, n, k)
    fits = (rows, width) == (n, k) and matrix.values.flags.c_contiguous and not matrix.values.ctypes.data % 64
    if matrix.scales is None:
        data = matrix.values
        if not fits:
            data = aligned((rows, width), data.dtype.type)
            data[:n, :k] = matrix.values
        return PackedMatrix(n, k, matrix.bits, 0, data, np.ones(1, np.float32))
    if matrix.bits == 8 and fits and not blocks:
        return PackedMatrix(n, k, 8, 0, matrix.values, matrix.scales)
    if matrix.bits == 8:
        data, scales = aligned((rows, width), np.int8), np.zeros(rows, np.float32)
        data[:n, :k], scales[:n] = matrix.values, matrix.scales
        data = _side_by_side(data.view(np.int32)).view(np.int8) if blocks else data
        return PackedMatrix(n, k, 8, 0, data, scales, blocks)
    words, scales = aligned((rows, width // 8), np.uint32), np.zeros((rows, width // matrix.group), np.float32)
    scales[:n, : matrix.scales.shape[1]] = matrix.scales
    for begin in range(0, n, 1024):  # in slices, to limit temporary memory
        part = matrix.values[begin : begin + 1024]
        numbers = np.zeros((len(part), width), np.int8)
        numbers[:, :k] = part
        nibbles = (numbers + np.int8(8)).astype(np.uint32)
        if not blocks:  # make the position within a word the last axis
            nibbles = nibbles.reshape(len(part), -1, 8, 16).swapaxes(2, 3)
        nibbles = nibbles.reshape(len(part), width // 8, 8)
        target = words[begin : begin + len(part)]
        for position in range(8):
            target |= nibbles[:, :, position] << np.uint32(8 * (position % 4) + 4 * (position // 4))
    if blocks:
        words, scales = _side_by_side(words), _side_by_side(scales)
    return PackedMatrix(n, k, 4, matrix.group, words.view(np.int32), scales, blocks)


def _side_by_side(array: np.ndarray) -> np.ndarray:
    """Interleave the rows of [rows, m], same shape: per block of rows all first numbers, then all second ones, etc."""
    moved = aligned(array.shape, array.dtype.type)
    moved.reshape(-1, array.shape[1], BLOCK)[:] = array.reshape(-1, BLOCK, array.shape[1]).swapaxes(1, 2)
    return moved
