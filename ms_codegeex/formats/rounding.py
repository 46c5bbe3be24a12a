"""Numbers in narrower types. Tensors in another floating-point type, rounded to nearest: what NumPy computes, in less
time. Matrices rounded to 16, 8 or 4 bits: what `quantize` writes and what frozen weights are held in.

NumPy converts FP16 one number at a time and has no bfloat16. Here a part that stays in the processor's cache is
computed on as bits, by instructions for many numbers at once.

A matrix of 16 bits is FP16, or BF16 as uint16. 8 and 4 bits are symmetric: the value is the number times its scale. 8
bits: -127 to 127 with a scale for each row. 4 bits: -7 to 7 with a scale for each `group` consecutive numbers of a row;
in files and in training, two share a byte (`halves`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.tensors import NUMPY_DTYPES, LazyTensor, from_bfloat16
from ms_codegeex.models.parameters import SCALES

_CACHED = 1 << 17  # numbers that are converted at once
_FLOAT16_IN_32, _EXPONENTS = np.uint32(0x8FFFE000).view(np.int32), np.float32(2.0**112)
_INFINITY = {"float16": 0x7C00, "bfloat16": 0x7F80}  # as bits
_TOO_LARGE = 0x477FF000  # 65,520, the smallest number that rounds to infinity in FP16
_MAX_VALUES = {"float32": float(np.finfo(np.float32).max), "float16": 65504.0, "bfloat16": 255 * 2.0**120}

BITS, GROUPS = (32, 16, 8, 4), (32, 64, 128)
_MAX_NUMBER = {8: 127, 4: 7}


def _in_blocks(work: Callable[[np.ndarray, np.ndarray], None], array: np.ndarray, dtype: type) -> np.ndarray:
    result = np.empty(array.shape, dtype)
    flat, into = array.reshape(-1), result.reshape(-1)
    for start in range(0, flat.size, _CACHED):
        work(flat[start : start + _CACHED], into[start : start + _CACHED])
    return result


def _round_to_bfloat16(array: np.ndarray, into: np.ndarray) -> None:
    bits = array.view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    np.copyto(into, rounded, casting="unsafe")
    if (nan := np.isnan(array)).any():  # must not become infinity
        into[nan] = (bits[nan] >> 16) | 0x40


def _widen_float16(array: np.ndarray, into: np.ndarray) -> None:
    """Sign, exponent and fraction are moved to their places in FP32, and a product corrects the exponent: a quarter of
    the time of NumPy's conversion, which takes one number at a time."""
    bits = into.view(np.int32)
    np.copyto(bits, array.view(np.int16))
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, _FLOAT16_IN_32, out=bits)
    np.multiply(into, _EXPONENTS, out=into)
    if (array.view(np.uint16) & 0x7FFF).max(initial=0) >= _INFINITY["float16"]:  # or NaN: their exponents differ more
        np.copyto(into, array)


def _narrow_to_float16(array: np.ndarray, into: np.ndarray) -> None:
    """Rounded to nearest, ties to even, by an FP32 addition that leaves as many bits as FP16 has."""
    bits = array.view(np.uint32)
    magnitudes = bits & 0x7FFFFFFF
    if magnitudes.size and magnitudes.max() >= _TOO_LARGE:  # infinity, NaN, or they become so
        np.copyto(into, array, casting="unsafe")
        return
    # 2^13 times the power of two at or below a number, at least that of FP16's smallest normal one: the last bit of the
    # sum is FP16's, and its fraction is FP16's with what it carries into the exponent
    steps = magnitudes & 0x7F800000
    np.maximum(steps, 113 << 23, out=steps)
    steps += 13 << 23
    sums = magnitudes.view(np.float32)
    sums += steps.view(np.float32)
    steps >>= 13
    magnitudes += steps
    result = into.view(np.uint16)
    np.copyto(result, magnitudes, casting="unsafe")  # the lower half
    result -= (126 << 10) & 0xFFFF
    result |= array.view(np.uint16)[1::2] & 0x8000


def widened(array: np.ndarray, dtype: str) -> np.ndarray:
    """An array of a tensor of this dtype as a new one in FP32, as NumPy converts it; bfloat16 comes as bits."""
    if dtype == "bfloat16":
        return from_bfloat16(array)
    if array.dtype == np.float16 and array.dtype.isnative and array.flags.aligned and array.flags.c_contiguous:
        return _in_blocks(_widen_float16, array, np.float32)
    return array.astype(np.float32)


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """Numbers in a narrower or the same type, rounded to nearest, ties to even."""
    if dtype == "bfloat16":
        return _in_blocks(_round_to_bfloat16, array.astype(np.float32, order="C", copy=False), np.uint16)
    if dtype == "float16" and array.dtype == np.float32:
        return _in_blocks(_narrow_to_float16, np.ascontiguousarray(array), np.float16)
    return array.astype(NUMPY_DTYPES[dtype], copy=False)


def cast(name: str, tensor: LazyTensor, dtype: str) -> LazyTensor:
    """`tensor` in another floating-point type, rounded to nearest when loaded; integers stay as they are. Loading
    raises `UserError` if a finite number is too large for the new type: a silent infinity would ruin the model."""
    if tensor.dtype == dtype or "float" not in tensor.dtype:
        return tensor
    if dtype not in _MAX_VALUES:
        raise UserError(f"dtype {dtype}: expected one of {', '.join(_MAX_VALUES)}")

    def load() -> np.ndarray:
        array = tensor.array()
        with np.errstate(over="ignore"):
            if tensor.dtype in ("float16", "bfloat16"):
                array = widened(array, tensor.dtype)
            result = rounded(array, dtype)
        if dtype in _INFINITY and (result.view(np.uint16) & 0x7FFF).max(initial=0) < _INFINITY[dtype]:
            return result
        finite = np.isfinite(from_bfloat16(result) if dtype == "bfloat16" else result)
        if not finite.all() and not np.array_equal(finite, np.isfinite(array)):
            largest = float(np.abs(array[np.isfinite(array)]).max())
            can = f"{dtype} can represent ({_MAX_VALUES[dtype]:g})"
            raise UserError(f"{name}: holds {largest:g}, larger than {can}; convert with --dtype fp32")
        return result

    return LazyTensor(dtype, tensor.shape, load)


@dataclass(frozen=True)
class QuantisedMatrix:
    """A matrix: `values` FP32, FP16, BF16 or int8 [n, k], `scales` FP32 [n] (8 bits) or [n, ceil(k / group)] (4)."""

    values: np.ndarray
    bits: int
    scales: np.ndarray | None = None
    group: int = 0

    def float32(self) -> np.ndarray:
        """The values that it represents."""
        if self.values.dtype == np.uint16:
            return from_bfloat16(self.values)
        if self.scales is None:
            return self.values.astype(np.float32, copy=False)
        scales = self.scales[:, None] if self.bits == 8 else self.scales.repeat(self.group, 1)[:, : self.shape[1]]
        return self.values.astype(np.float32) * scales

    @property
    def shape(self) -> tuple[int, int]:
        n, k = self.values.shape
        return n, k

    def part(self, rows: slice, columns: slice) -> QuantisedMatrix:
        """A copy of some rows and columns. `UserError` if 4-bit columns begin, or end inside, at no multiple of 32."""
        values = np.array(self.values[rows, columns], order="C")
        if self.scales is None or self.bits == 8:
            return QuantisedMatrix(values, self.bits, None if self.scales is None else self.scales[rows].copy())
        begin, end, _ = columns.indices(self.shape[1])
        borders = [begin] if end == self.shape[1] else [begin, end]
        group = next((g for g in GROUPS[::-1] if self.group % g == 0 and not any(b % g for b in borders)), None)
        if group is None:
            odd = f"columns {begin} to {end} of a 4-bit matrix do not begin and end at multiples of 32"
            raise UserError(f"--devices: {odd}; choose another number of devices, or 8 bits")
        scales = self.scales[rows].repeat(self.group // group, 1)[:, begin // group : -(-end // group)]
        return QuantisedMatrix(values, 4, np.ascontiguousarray(scales), group)


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
    scales = np.maximum(largest / _MAX_NUMBER[bits], np.finfo(np.float32).tiny).astype(np.float32)
    return scales[:, 0].copy() if bits == 8 else scales


def quantise(weight: np.ndarray, bits: int, group: int = 64) -> QuantisedMatrix:
    """A matrix FP32 [n, k] rounded to `bits` (32: unchanged; 16: FP16)."""
    check_bits(bits, group)
    if bits >= 16:
        return QuantisedMatrix(np.ascontiguousarray(weight, np.float32 if bits == 32 else np.float16), bits)
    scales, maximum = scales_of(weight, bits, group), _MAX_NUMBER[bits]
    parts = _parts(weight, bits, group) / scales.reshape(len(weight), -1, 1)
    rounded = np.rint(parts, out=parts).clip(-maximum, maximum, out=parts).reshape(len(weight), -1)
    values = np.ascontiguousarray(rounded[:, : weight.shape[1]].astype(np.int8))
    return QuantisedMatrix(values, bits, scales, group if bits == 4 else 0)


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
