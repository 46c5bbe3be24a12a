"""Matrices rounded to 16, 8 or 4 bits, in NumPy: what `quantize` writes and what frozen weights are held in.

16 bits: FP16, or BF16 as uint16. 8 and 4 bits are symmetric: the value is the number times its scale. 8 bits: -127 to
127 with a scale for each row. 4 bits: -7 to 7 with a scale for each `group` consecutive numbers of a row; in files and
in training, two share a byte (`halves`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.tensors import LazyTensor
from ms_codegeex.models.parameters import SCALES

BITS, GROUPS = (32, 16, 8, 4), (32, 64, 128)
_LARGEST = {8: 127, 4: 7}


@dataclass(frozen=True)
class Quantised:
    """A matrix: `values` FP32, FP16, BF16 or int8 [n, k], `scales` FP32 [n] (8 bits) or [n, ceil(k / group)] (4)."""

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
            odd = f"columns {begin} to {end} of a 4-bit matrix do not begin and end at multiples of 32"
            raise UserError(f"--devices: {odd}; choose another number of devices, or 8 bits")
        scales = self.scales[rows].repeat(self.group // group, 1)[:, begin // group : -(-end // group)]
        return Quantised(values, 4, np.ascontiguousarray(scales), group)


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
    padded = np.zeros((n, rounded_up(k, group)), np.float32)
    padded[:, :k] = weight
    return padded.reshape(n, -1, group)


def scales_of(weight: np.ndarray, bits: int, group: int = 64) -> np.ndarray:
    """The scales of a matrix FP32 [n, k], FP32 [n] or [n, ceil(k / group)]: largest magnitude over largest number."""
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


def halves(values: np.ndarray) -> np.ndarray:
    """4-bit numbers int8 [n, k] -> uint8 [n, ceil(k / 2)]"""
    even = np.zeros((len(values), -(-values.shape[1] // 2) * 2), np.uint8)
    even[:, : values.shape[1]] = values & 15
    return even[:, ::2] | even[:, 1::2] << 4


def whole(halves: np.ndarray, k: int) -> np.ndarray:
    """The reverse: int8 [n, k]"""
    values = np.stack([halves & 15, halves >> 4], -1).reshape(len(halves), -1)[:, :k].astype(np.int8)
    return np.where(values > 7, values - 16, values).astype(np.int8)


def stored_as(name: str, shape: tuple[int, ...], bits: int, group: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The dtype and shape of each tensor that represents a quantised matrix."""
    n, k = shape
    if bits == 8:
        return {name: ("int8", (n, k)), name + SCALES: ("float32", (n,))}
    return {name: ("uint8", (n, -(-k // 2))), name + SCALES: ("float32", (n, -(-k // group)))}


def rounded_tensors(name: str, tensor: LazyTensor, bits: int, group: int) -> dict[str, LazyTensor]:
    """A matrix's tensors; each is computed when it is written, because scales and numbers are apart in the file."""

    def values() -> np.ndarray:
        numbers = quantise(tensor.float32(), bits, group).values
        return numbers if bits == 8 else halves(numbers)

    loads = (values, lambda: scales_of(tensor.float32(), bits, group))
    kinds = stored_as(name, tensor.shape, bits, group).items()
    return {key: LazyTensor(*kind, load) for (key, kind), load in zip(kinds, loads, strict=True)}


def rounded_up(number: int, step: int) -> int:
    return -(-number // step) * step
