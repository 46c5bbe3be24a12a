"""Weights as FP32, 16-bit, 8-bit or 4-bit numbers, in NumPy. Nothing here imports MindSpore.

16 bits: FP16, or BF16 as uint16. 8 and 4 bits are symmetric: the value is the number times its scale. 8 bits: -127 to
127 with a scale for each row. 4 bits: -7 to 7 with a scale for each `group` consecutive numbers of a row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.tensors import LazyTensor

BITS, GROUPS = (32, 16, 8, 4), (32, 64, 128)
ROWS = 32  # a packed matrix has a multiple of this many rows
MULTIPLES = {32: 16, 16: 16, 8: 64, 4: 128}  # and of this many columns
MAX_RANK = 1024  # of an adapter
_LARGEST = {8: 127, 4: 7}
WHOLE = slice(None)


@dataclass(frozen=True)
class Quantised:
    """A matrix [n, k]: `values` FP32, FP16, BF16 or int8 [n, k], `scales` FP32 [n] (8 bits) or [n, ceil(k / group)]
    (4 bits)."""

    values: np.ndarray
    bits: int
    scales: np.ndarray | None = None
    group: int = 0

    def float32(self) -> np.ndarray:
        """The values that it represents."""
        if self.values.dtype == np.uint16:
            return (self.values.astype(np.uint32) << np.uint32(16)).view(np.float32)
        if self.scales is None:
            return self.values.astype(np.float32, copy=False)
        scales = self.scales[:, None] if self.bits == 8 else self.scales.repeat(self.group, 1)[:, : self.shape[1]]
        return self.values.astype(np.float32) * scales

    @property
    def shape(self) -> tuple[int, int]:
        """(n, k)"""
        n, k = self.values.shape
        return n, k

    def part(self, rows: slice, columns: slice) -> Quantised:
        """A copy of some rows and columns. `UserError` if columns of 4 bits do not begin, or end before the matrix's
        end, at a multiple of 32."""
        values = np.array(self.values[rows, columns], order="C")
        if self.scales is None or self.bits == 8:
            return Quantised(values, self.bits, None if self.scales is None else self.scales[rows].copy())
        begin, end, _ = columns.indices(self.shape[1])
        borders = [begin] if end == self.shape[1] else [begin, end]
        group = next((g for g in GROUPS[::-1] if self.group % g == 0 and not any(b % g for b in borders)), None)
        if group is None:
            raise UserError(
                f"--devices: columns {begin} to {end} of a 4-bit matrix do not begin and end at multiples of 32; "
                "choose another number of devices, or 8 bits"
            )
        scales = self.scales[rows].repeat(self.group // group, 1)[:, begin // group : -(-end // group)]
        return Quantised(values, 4, np.ascontiguousarray(scales), group)


@dataclass(frozen=True)
class LowRank:
    """An adapter's addition to the product with a matrix [n, k]: B A x. `a` FP32 [r, k]; `b` FP32 [n, r], scaled."""

    a: np.ndarray
    b: np.ndarray


def check_bits(bits: int, group: int = 64) -> None:
    """`UserError` unless there are kernels for these."""
    if bits not in BITS:
        raise UserError(f"bits: {bits} is not known; choose one of {', '.join(map(str, BITS))}")
    if bits == 4 and group not in GROUPS:
        raise UserError(f"group: {group} is not known; choose one of {', '.join(map(str, GROUPS))}")


def _parts(weight: np.ndarray, bits: int, group: int) -> np.ndarray:
    """FP32 [n, k] -> [n, groups, numbers that share a scale], the last group filled up with zeros."""
    n, k = weight.shape
    if bits == 8:
        return weight.reshape(n, 1, k)
    padded = np.zeros((n, _up(k, group)), np.float32)
    padded[:, :k] = weight
    return padded.reshape(n, -1, group)


def scales_of(weight: np.ndarray, bits: int, group: int = 64) -> np.ndarray:
    """The scales of a matrix FP32 [n, k], FP32 [n] or [n, ceil(k / group)]: each the largest magnitude over the largest
    number."""
    largest = np.abs(_parts(weight, bits, group)).max(2)
    scales = np.maximum(largest / _LARGEST[bits], np.finfo(np.float32).tiny).astype(np.float32)
    return scales[:, 0].copy() if bits == 8 else scales


def quantise(weight: np.ndarray, bits: int, group: int = 64) -> Quantised:
    """A matrix FP32 [n, k] rounded to `bits` (32: unchanged; 16: FP16)."""
    check_bits(bits, group)
    if bits >= 16:
        return Quantised(np.ascontiguousarray(weight, np.float32 if bits == 32 else np.float16), bits)
    scales, maximum = scales_of(weight, bits, group), _LARGEST[bits]
    parts = _parts(weight, bits, group) / scales.reshape(len(weight), -1, 1)
    rounded = np.rint(parts, out=parts).clip(-maximum, maximum, out=parts).reshape(len(weight), -1)
    values = np.ascontiguousarray(rounded[:, : weight.shape[1]].astype(np.int8))
    return Quantised(values, bits, scales, group if bits == 4 else 0)


def stored(tensor: LazyTensor, rows: slice = WHOLE, columns: slice = WHOLE) -> Quantised:
    """A matrix [n, k], or a copy of a part of it, unchanged if it is stored as 16-bit numbers; else in FP32."""
    if (rows, columns) != (WHOLE, WHOLE):
        return stored(tensor.window((rows, columns))).part(WHOLE, WHOLE)
    half = tensor.dtype in ("float16", "bfloat16")
    return Quantised(tensor.array(), 16) if half else Quantised(tensor.float32(), 32)


class Weights(Protocol):
    """A model's weights by our names. `bits` are those of its products, or None if nothing was rounded."""

    bits: int | None

    def matrix(self, name: str, rows: slice = WHOLE, columns: slice = WHOLE) -> Quantised:
        """[n, k], or a part of it"""

    def vector(self, name: str, rows: slice = WHOLE) -> np.ndarray:
        """FP32 [n], or a part of it"""


@dataclass(frozen=True)
class TensorWeights:
    """Weights of a source, read on demand; those named in `products` are rounded to `bits`. FP16 and BF16 are kept,
    other types become FP32."""

    tensors: Mapping[str, LazyTensor]
    bits: int | None = None
    group: int = 64
    products: Collection[str] = ()

    def matrix(self, name: str, rows: slice = WHOLE, columns: slice = WHOLE) -> Quantised:
        """[n, k], or a part of it"""
        if self.bits is None or name not in self.products:
            return stored(self.tensors[name], rows, columns)
        rounded = quantise(self.tensors[name].float32(), self.bits, self.group)
        return rounded if (rows, columns) == (WHOLE, WHOLE) else rounded.part(rows, columns)

    def vector(self, name: str, rows: slice = WHOLE) -> np.ndarray:
        """FP32 [n], or a part of it"""
        return self.tensors[name].window((rows,)).float32()


@dataclass(frozen=True)
class Packed:
    """A matrix as the kernels read it: rows and columns padded with zeros, `data` aligned to 64 bytes."""

    n: int
    k: int
    bits: int
    group: int
    data: np.ndarray  # FP32, FP16, BF16 or int8 [rows, width], or int32 [rows, width / 8]
    scales: np.ndarray  # FP32 [rows] or [rows, width / group]; [1] without scales

    @property
    def rows(self) -> int:
        """n, rounded up"""
        return self.data.shape[0]

    @property
    def width(self) -> int:
        """k, rounded up"""
        return self.data.shape[1] * (8 if self.bits == 4 else 1)


def aligned(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Zeros that begin at a multiple of 64 bytes."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(count + 64, np.uint8)
    begin = -raw.ctypes.data % 64
    return raw[begin : begin + count].view(dtype).reshape(shape)


def pack(matrix: Quantised) -> Packed:
    """In the kernels' layout. An FP32 or 16-bit matrix that needs no padding is not copied."""
    n, k = matrix.shape
    rows, width = _up(n, ROWS), _up(k, MULTIPLES[matrix.bits])
    if matrix.scales is None:
        data = matrix.values
        if (rows, width) != (n, k) or not data.flags.c_contiguous or data.ctypes.data % 64:
            data = aligned((rows, width), data.dtype.type)
            data[:n, :k] = matrix.values
        return Packed(n, k, matrix.bits, 0, data, np.ones(1, np.float32))
    if matrix.bits == 8:
        data, scales = aligned((rows, width), np.int8), np.zeros(rows, np.float32)
        data[:n, :k], scales[:n] = matrix.values, matrix.scales
        return Packed(n, k, 8, 0, data, scales)
    words, scales = aligned((rows, width // 8), np.uint32), np.zeros((rows, width // matrix.group), np.float32)
    scales[:n, : matrix.scales.shape[1]] = matrix.scales
    for begin in range(0, n, 1024):  # few rows at a time: a 4-bit model's memory is small
        part = matrix.values[begin : begin + 1024]
        numbers = np.zeros((len(part), width), np.int8)
        numbers[:, :k] = part
        nibbles = (numbers + np.int8(8)).astype(np.uint32).reshape(len(part), width // 128, 8, 16)
        target = words[begin : begin + len(part)].reshape(len(part), width // 128, 16)
        for position in range(8):
            target |= nibbles[:, :, position] << np.uint32(8 * (position % 4) + 4 * (position // 4))
    return Packed(n, k, 4, matrix.group, words.view(np.int32), scales)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
