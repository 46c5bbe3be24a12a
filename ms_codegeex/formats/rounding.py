"""Tensors in another floating-point type, rounded to nearest: what NumPy computes, in less time.

NumPy converts FP16 one number at a time and has no bfloat16. Here a part that stays in the processor's cache is
computed on as bits, by instructions for many numbers at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.tensors import NUMPY_DTYPES, LazyTensor, from_bfloat16

_CACHED = 1 << 17  # numbers that are converted at once
_FLOAT16_IN_32, _EXPONENTS = np.uint32(0x8FFFE000).view(np.int32), np.float32(2.0**112)
_INFINITY = {"float16": 0x7C00, "bfloat16": 0x7F80}  # as bits
_TOO_LARGE = 0x477FF000  # 65,520, the smallest number that rounds to infinity in FP16
_LARGEST = {"float32": float(np.finfo(np.float32).max), "float16": 65504.0, "bfloat16": 255 * 2.0**120}


def _in_blocks(work: Callable[[np.ndarray, np.ndarray], None], array: np.ndarray, dtype: type) -> np.ndarray:
    """A new array of this dtype that `work(part, its result)` fills, a part in the processor's cache at a time."""
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
    if dtype not in _LARGEST:
        raise UserError(f"dtype {dtype}: expected one of {', '.join(_LARGEST)}")

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
            can = f"{dtype} can represent ({_LARGEST[dtype]:g})"
            raise UserError(f"{name}: holds {largest:g}, larger than {can}; convert with --dtype fp32")
        return result

    return LazyTensor(dtype, tensor.shape, load)
