"""Tensors of known dtype and shape whose values are loaded only when needed.

Every format of this package reads into and writes from `LazyTensor`, so a conversion holds one tensor in memory at a
time. NumPy has no bfloat16: such a tensor has dtype "bfloat16" and an array of its raw bits as uint16.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from ms_codegeex.base.errors import UserError

BLOCK_BYTES = 1 << 24  # what is hashed, checked or written at once
READ_BYTES = 1 << 19  # at once; a part of this size is still in the cache when it is hashed

# name -> how NumPy holds it (always little-endian, as every file format here stores it), and what safetensors files,
# MindSpore's checkpoints and PyTorch's storages call it
_DTYPES = {
    "float64": ("<f8", "F64", "Float64", "DoubleStorage"),
    "float32": ("<f4", "F32", "Float32", "FloatStorage"),
    "float16": ("<f2", "F16", "Float16", "HalfStorage"),
    "bfloat16": ("<u2", "BF16", "BFloat16", "BFloat16Storage"),
    "int64": ("<i8", "I64", "Int64", "LongStorage"),
    "int32": ("<i4", "I32", "Int32", "IntStorage"),
    "int16": ("<i2", "I16", "Int16", "ShortStorage"),
    "int8": ("i1", "I8", "Int8", "CharStorage"),
    "uint8": ("u1", "U8", "UInt8", "ByteStorage"),
    "bool": ("?", "BOOL", "Bool", "BoolStorage"),
}
NUMPY_DTYPES: Mapping[str, np.dtype] = MappingProxyType({name: np.dtype(row[0]) for name, row in _DTYPES.items()})
SAFETENSORS_TAGS, MINDSPORE_TYPES, TORCH_STORAGES = (
    MappingProxyType({name: row[column] for name, row in _DTYPES.items()}) for column in (1, 2, 3)
)
SHORT_NAMES: Mapping[str, str] = MappingProxyType({"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"})
_CACHED = 1 << 17  # numbers that are converted at once
_FLOAT16_IN_32, _EXPONENTS = np.uint32(0x8FFFE000).view(np.int32), np.float32(2.0**112)
_INFINITY = {"float16": 0x7C00, "bfloat16": 0x7F80}  # as bits
_TOO_LARGE = 0x477FF000  # 65,520, the smallest number that rounds to infinity in FP16
_LARGEST = {"float32": float(np.finfo(np.float32).max), "float16": 65504.0, "bfloat16": 255 * 2.0**120}


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """A tensor of `dtype` (a key of `NUMPY_DTYPES`) and `shape` whose numbers `load()` fetches anew at each call.

    `part(index)`, one slice per axis, is given where a window costs less to read than the complete tensor, as in a
    sharded checkpoint. `rows(count)` is given where all of it can be read `count` rows at a time in little memory, and
    checked meanwhile. The arrays may be read-only views of a mapped file.
    """

    dtype: str
    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]
    part: Callable[[tuple[slice, ...]], np.ndarray] | None = None
    rows: Callable[[int], Iterator[np.ndarray]] | None = None

    def __setstate__(self, state: object) -> None:
        """No pickle makes or alters a tensor: a hostile `.pt` could put anything in the place of `load`."""
        raise TypeError("a LazyTensor cannot be unpickled")

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in a file, in bytes."""
        return self.size * NUMPY_DTYPES[self.dtype].itemsize

    def array(self) -> np.ndarray:
        """The numbers, C-contiguous and little-endian, of exactly this dtype and shape.

        Raises `ValueError` when `load` returns something else: a mistake in the code that made this tensor.
        """
        array = np.asarray(self.load())
        if array.shape != self.shape or array.dtype.newbyteorder("<") != NUMPY_DTYPES[self.dtype]:
            raise ValueError(f"a {self.dtype} tensor of shape {self.shape} loaded as {array.dtype} {array.shape}")
        return np.asarray(array, dtype=NUMPY_DTYPES[self.dtype], order="C")

    def float32(self) -> np.ndarray:
        """The numbers as a new FP32 array; exact for the narrower types, bfloat16 included."""
        return widened(self.array(), self.dtype)

    def pieces(self, nbytes: int) -> Iterator[np.ndarray]:
        """The numbers in order, some rows at a time: at most `nbytes`, at least one row. Nobody writes to a piece.

        Damage may be found with the last one only: use nothing of them before."""
        length, width = (self.shape or (1,))[0], NUMPY_DTYPES[self.dtype].itemsize
        count = max(1, nbytes // max(1, math.prod(self.shape[1:]) * width))
        if self.rows is not None:
            yield from self.rows(count)
        elif self.part is not None and self.nbytes > BLOCK_BYTES:
            step = count * max(1, BLOCK_BYTES // nbytes)
            for start in range(0, length, step):
                window = self.window((slice(start, start + step), *(slice(None),) * (len(self.shape) - 1)))
                yield from window.pieces(nbytes)
        else:
            array = np.atleast_1d(self.array())
            for start in range(0, length, count):
                yield array[start : start + count]

    def window(self, index: tuple[slice, ...]) -> LazyTensor:
        """The part of the tensor at `index`: one slice with step 1 per axis."""
        shape = tuple(len(range(*s.indices(size))) for s, size in zip(index, self.shape, strict=True))
        return LazyTensor(self.dtype, shape, lambda: self.array()[index] if self.part is None else self.part(index))


def dtype_name(array: np.ndarray) -> str:
    """Our name of a NumPy dtype; never "bfloat16", which NumPy holds as uint16: the caller must name it."""
    name = array.dtype.name
    if name not in NUMPY_DTYPES or name == "bfloat16":
        raise ValueError(f"arrays of dtype {name} cannot be stored; use one of {', '.join(NUMPY_DTYPES)}")
    return name


def from_array(array: np.ndarray, dtype: str | None = None) -> LazyTensor:
    """A tensor that is already in memory; `dtype` is needed only for bfloat16 bits held as uint16."""
    return LazyTensor(dtype or dtype_name(array), tuple(array.shape), lambda: array)


def byte_blocks(array: np.ndarray) -> Iterator[memoryview]:
    """The bytes of a C-contiguous array in blocks, without a copy."""
    flat = memoryview(array.reshape(-1).view(np.uint8))
    for start in range(0, len(flat), BLOCK_BYTES):
        yield flat[start : start + BLOCK_BYTES]


def damaged(path: Path | str, what: str) -> UserError:
    """The error for a file that is not as its writer left it."""
    return UserError(f"{path}: {what}; copy it again")


def array_sha256(array: np.ndarray) -> str:
    """Hex SHA-256 of an array's bytes in C order."""
    digest = hashlib.sha256()
    for block in byte_blocks(np.asarray(array, order="C")):
        digest.update(block)
    return digest.hexdigest()


def map_bytes(path: Path, start: int, size: int) -> np.ndarray:
    """`size` bytes of a file as a separate read-only memory map, released as soon as nothing refers to it.

    One map of a whole file would count every page ever read as memory of this process. Raises `UserError`.
    """
    if not size:
        return np.empty(0, np.uint8)
    try:
        return np.memmap(path, dtype=np.uint8, mode="r", offset=start, shape=(size,))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: was changed or removed while it was being read ({error})") from None


def read_bytes(path: Path, start: int, into: np.ndarray) -> Iterator[np.ndarray]:
    """Fill an array of bytes from a file: faster than through a memory map where all of it is needed.

    Yields each part as soon as it is read, while it is in the processor's cache. `UserError` if the file is too short.
    """
    try:
        with open(path, "rb", buffering=0) as stream:
            stream.seek(start)
            done = 0
            while done < into.size:
                count = stream.readinto(into[done : done + READ_BYTES])
                if not count:
                    raise OSError("it is shorter")
                yield into[done : done + count]
                done += count
    except OSError as error:
        raise UserError(f"{path}: was changed or removed while it was being read ({error})") from None


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


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """The bits of bfloat16 numbers as FP32, which is exact."""
    return (bits.astype(np.uint32) << 16).view(np.float32)  # the upper half of an FP32


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


def _rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """Numbers in a narrower or the same type, rounded to nearest, ties to even."""
    if dtype == "bfloat16":
        return _in_blocks(_round_to_bfloat16, array.astype(np.float32, order="C", copy=False), np.uint16)
    if dtype == "float16" and array.dtype == np.float32:
        return _in_blocks(_narrow_to_float16, np.ascontiguousarray(array), np.float16)
    return array.astype(NUMPY_DTYPES[dtype], copy=False)


def cast(name: str, tensor: LazyTensor, dtype: str) -> LazyTensor:
    """`tensor` in another floating-point type, rounded to nearest when loaded; integers stay as they are.

    Raises `UserError` naming the tensor, on loading, when a finite number is too large for the new type: a silent
    infinity would ruin the model.
    """
    if tensor.dtype == dtype or "float" not in tensor.dtype:
        return tensor
    if dtype not in _LARGEST:
        raise UserError(f"dtype {dtype}: expected one of {', '.join(_LARGEST)}")

    def load() -> np.ndarray:
        array = tensor.array()
        with np.errstate(over="ignore"):
            if tensor.dtype in ("float16", "bfloat16"):
                array = widened(array, tensor.dtype)
            result = _rounded(array, dtype)
        if dtype in _INFINITY and (result.view(np.uint16) & 0x7FFF).max(initial=0) < _INFINITY[dtype]:
            return result
        finite = np.isfinite(from_bfloat16(result) if dtype == "bfloat16" else result)
        if not finite.all() and not np.array_equal(finite, np.isfinite(array)):
            largest = float(np.abs(array[np.isfinite(array)]).max())
            can = f"{dtype} can represent ({_LARGEST[dtype]:g})"
            raise UserError(f"{name}: holds {largest:g}, larger than {can}; convert with --dtype fp32")
        return result

    return LazyTensor(dtype, tensor.shape, load)
