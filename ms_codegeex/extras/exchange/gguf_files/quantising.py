"""Blocks of 32 numbers as Q8_0 and Q4_0: the bytes of the `gguf` package's `quantize` in a quarter of its time.

The package makes several arrays of every number. Here a part of the rows stays in the processor's cache, the largest of
a block is found on the bits of the numbers as they are stored (for 16 bits half of the work), and NumPy's conversion to
a byte, which truncates, writes directly into the blocks."""

from __future__ import annotations

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import quantize

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.rounding import widened

BLOCK = 32  # numbers, in both types
_CACHED = 1 << 17  # numbers that are quantised at once
_INFINITY = {"float32": 0x7F800000, "float16": 0x7C00, "bfloat16": 0x7F80}  # as bits
_HALF = np.uint32(0x3EFFFFFF)  # the bits of the number below 0.5: added before truncation, it rounds halves up, no more
_Q8_0 = np.dtype([("scale", "<f2"), ("numbers", "i1", BLOCK)])
_Q4_0 = np.dtype([("scale", "<f2"), ("first", "<u8"), ("second", "<u8")])


def quantised(rows: np.ndarray, dtype: str, kind: GGMLQuantizationType) -> np.ndarray:
    """The bytes of rows of a tensor of this dtype (bfloat16 as bits) in a type of ggml that has blocks, one axis.

    `UserError` for numbers that are not finite."""
    blocks = np.ascontiguousarray(rows).reshape(-1, BLOCK)
    size = GGML_QUANT_SIZES[kind][1]
    result, step = np.empty((len(blocks), size), np.uint8), _CACHED // BLOCK
    for start in range(0, len(blocks), step):
        part, into = blocks[start : start + step], result[start : start + step]
        numbers = widened(part, dtype) if dtype != "float32" else part
        scales = _scales(part, dtype, kind)
        with np.errstate(divide="ignore", over="ignore"):
            inverse = np.where(scales == 0, np.float32(0), 1 / scales)
        if not np.isfinite(inverse).all():  # numbers next to zero: what becomes of them is the package's affair
            into[:] = quantize(numbers, kind)
        elif kind is GGMLQuantizationType.Q8_0:
            _fill_q8_0(numbers, scales, inverse, into.reshape(-1).view(_Q8_0))
        else:
            _fill_q4_0(numbers, scales, inverse, into.reshape(-1).view(_Q4_0))
    return result.reshape(-1)


def _largest(bits: np.ndarray) -> np.ndarray:
    found = bits.reshape(-1)
    while found.size > len(bits):
        found = np.maximum(found[::2], found[1::2])
    return found


def _scales(part: np.ndarray, dtype: str, kind: GGMLQuantizationType) -> np.ndarray:
    unsigned = part.view(f"u{part.itemsize}")
    sign = unsigned.dtype.type(1 << (8 * part.itemsize - 1))
    if kind is GGMLQuantizationType.Q8_0:
        magnitudes = _largest(unsigned & ~sign)
        _check(magnitudes, dtype)
        return _as_float32(magnitudes, dtype) / 127
    signed = _largest(part.view(f"i{part.itemsize}"))
    positive = np.where(signed < 0, 0, signed).astype(unsigned.dtype)
    negative = _largest(unsigned)
    negative = np.where(negative < sign, 0, negative & ~sign).astype(unsigned.dtype)
    _check(np.maximum(positive, negative), dtype)
    largest = np.where(positive > negative, positive, negative | sign)
    (equal,) = np.nonzero(positive == negative)
    if equal.size:
        found = unsigned[equal]
        largest[equal] = found[np.arange(equal.size), (found & ~sign).argmax(axis=1)]
    return _as_float32(largest, dtype) / -8


def _check(magnitudes: np.ndarray, dtype: str) -> None:
    if magnitudes.max(initial=0) >= _INFINITY[dtype]:
        raise UserError("holds numbers that are not finite, which a quantised type cannot hold; choose --dtype f32")


def _as_float32(bits: np.ndarray, dtype: str) -> np.ndarray:
    bits = np.ascontiguousarray(bits)
    return widened(bits if dtype == "bfloat16" else bits.view(dtype), dtype)


def _fill_q8_0(numbers: np.ndarray, scales: np.ndarray, inverse: np.ndarray, into: np.ndarray) -> None:
    scaled = numbers * inverse[:, None]
    halves = scaled.view(np.uint32) & np.uint32(1 << 31)
    halves |= _HALF
    scaled += halves.view(np.float32)
    np.copyto(into["numbers"], scaled, casting="unsafe")
    with np.errstate(over="ignore"):
        into["scale"] = scales


def _fill_q4_0(numbers: np.ndarray, scales: np.ndarray, inverse: np.ndarray, into: np.ndarray) -> None:
    scaled = numbers * inverse[:, None]
    scaled += np.float32(8.5)
    words = np.minimum(scaled.astype(np.uint8), np.uint8(15)).reshape(-1).view("<u8")
    into["first"] = words[::4] | (words[2::4] << np.uint64(4))
    into["second"] = words[1::4] | (words[3::4] << np.uint64(4))
    with np.errstate(over="ignore"):
        into["scale"] = scales
