"""Tensors of known dtype and shape whose values are loaded only when needed.

Every format of this package reads into and writes from `LazyTensor`, so a conversion holds one tensor in memory at a
time. NumPy has no bfloat16: such a tensor has dtype "bfloat16" and an array of its raw bits as uint16."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import open_regular

# all set: not finite
_EXPONENTS = {"float64": 0x7FF << 52, "float32": 0xFF << 23, "float16": 0x7C00, "bfloat16": 0x7F80}
_AT_ONCE = 1 << 16  # numbers that are looked at together
BLOCK_BYTES = 1 << 24  # what is hashed, checked or written at once
READ_BYTES = 1 << 19  # at once; a part of this size is still in the cache when it is hashed
MAX_AXES, MAX_SIZE = 32, 2**59  # NumPy's limits: axes, and the product of the sizes but 0, as bytes are below 2**63
QUOTED = 300  # characters of a message that quote a file
_NPY = b"\x93NUMPY"  # how NumPy's files begin

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
    "uint64": ("<u8", "U64", "UInt64", "UInt64Storage"),
    "uint32": ("<u4", "U32", "UInt32", "UInt32Storage"),
    "uint16": ("<u2", "U16", "UInt16", "UInt16Storage"),
    "uint8": ("u1", "U8", "UInt8", "ByteStorage"),
    "bool": ("?", "BOOL", "Bool", "BoolStorage"),
    "complex64": ("<c8", "C64", "Complex64", "ComplexFloatStorage"),
}
NUMPY_DTYPES: Mapping[str, np.dtype] = MappingProxyType({name: np.dtype(row[0]) for name, row in _DTYPES.items()})
SAFETENSORS_TAGS, MINDSPORE_TYPES, TORCH_STORAGES = (
    MappingProxyType({name: row[column] for name, row in _DTYPES.items()}) for column in (1, 2, 3)
)
SHORT_NAMES: Mapping[str, str] = MappingProxyType({"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"})


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """A tensor of `dtype` (a key of `NUMPY_DTYPES`) and `shape` whose numbers `load()` fetches anew at each call.
    `part` takes one slice per axis, where a window costs less than the complete tensor; `rows(count)` reads and checks
    all of it `count` rows at a time, where that can be done. Arrays may be read-only views of a mapped file."""

    dtype: str
    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]
    part: Callable[[tuple[slice, ...]], np.ndarray] | None = None
    rows: Callable[[int], Iterator[np.ndarray]] | None = None

    def __setstate__(self, state: object) -> None:
        raise TypeError("a LazyTensor cannot be unpickled")

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in a file, in bytes."""
        return self.size * NUMPY_DTYPES[self.dtype].itemsize

    def array(self) -> np.ndarray:
        """The numbers, C-contiguous and little-endian. `ValueError` if `load` returns another dtype or shape: a mistake
        in the code that made this tensor."""
        array = np.asarray(self.load())
        if array.shape != self.shape or array.dtype.newbyteorder("<") != NUMPY_DTYPES[self.dtype]:
            raise ValueError(f"a {self.dtype} tensor of shape {self.shape} loaded as {array.dtype} {array.shape}")
        return np.asarray(array, dtype=NUMPY_DTYPES[self.dtype], order="C")

    def float32(self) -> np.ndarray:
        """The numbers as a new FP32 array; exact for the narrower types, bfloat16 included."""
        array = self.array()
        return from_bfloat16(array) if self.dtype == "bfloat16" else array.astype(np.float32)

    def window(self, index: tuple[slice, ...]) -> LazyTensor:
        shape = tuple(len(range(*s.indices(size))) for s, size in zip(index, self.shape, strict=True))
        return LazyTensor(self.dtype, shape, lambda: self.array()[index] if self.part is None else self.part(index))


Tensors = Mapping[str, LazyTensor]


def finite(name: str, tensor: LazyTensor, where: str, remedy: str) -> LazyTensor:
    """The same tensor, which raises a `UserError` instead of giving numbers that are not finite."""
    if (exponent := _EXPONENTS.get(tensor.dtype)) is None:
        return tensor

    def checked(array: np.ndarray) -> np.ndarray:
        bits = np.ascontiguousarray(array).reshape(-1).view(f"<u{array.itemsize}")
        for start in range(0, bits.size, _AT_ONCE):
            if ((bits[start : start + _AT_ONCE] & bits.dtype.type(exponent)) == exponent).any():
                raise UserError(f"{where}: tensor {name} holds numbers that are not finite; {remedy}")
        return array

    part, rows = tensor.part, tensor.rows
    return LazyTensor(
        tensor.dtype,
        tensor.shape,
        lambda: checked(tensor.array()),
        None if part is None else lambda index: checked(part(index)),
        None if rows is None else lambda count: map(checked, rows(count)),
    )


def dtype_name(array: np.ndarray) -> str:
    """Our name of a NumPy dtype; never "bfloat16", which NumPy holds as uint16: the caller must name either."""
    name = array.dtype.name
    if name not in NUMPY_DTYPES or name in ("bfloat16", "uint16"):
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


def checked_shape(shape: Sequence[int], name: str) -> tuple[int, ...]:
    """The shape that a file states for a tensor. `ValueError`, whose text may be very long, if no array can have it."""
    sizes = len(shape) <= MAX_AXES and all(type(size) is int and 0 <= size < 1 << 63 for size in shape)
    if not sizes or math.prod(max(1, size) for size in shape) > MAX_SIZE:
        raise ValueError(f"no array can have the shape of tensor {name}: {list(shape)}")
    return tuple(shape)


def damaged(path: Path | str, what: str) -> UserError:
    """The error for a file that is not as its writer left it. `what` may quote the file and is cut off."""
    return UserError(f"{path}: {what[:QUOTED]}; copy it again")


def map_bytes(path: Path, start: int, size: int) -> np.ndarray:
    """`size` bytes of a file as a read-only memory map of its own, released as soon as nothing refers to it: one map of
    a whole file would count every page ever read as memory of this process. Raises `UserError`."""
    if not size:
        return np.empty(0, np.uint8)
    try:
        return np.memmap(path, dtype=np.uint8, mode="r", offset=start, shape=(size,))
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: was changed or removed while it was being read ({error}); copy it again") from None


def read_bytes(path: Path, start: int, into: np.ndarray) -> Iterator[np.ndarray]:
    """Fill an array of bytes from a file, faster than through a memory map. Yields each part as soon as it is read,
    while it is in the processor's cache. `UserError` if the file is too short."""
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
    except (OSError, OverflowError) as error:
        raise UserError(f"{path}: was changed or removed while it was being read ({error}); copy it again") from None


def open_npy(file: Path) -> np.ndarray:
    """The array of a `.npy` file, mapped; `UserError` for a damaged one."""
    try:
        with open_regular(file) as stream:
            if stream.read(len(_NPY)) != _NPY:
                raise ValueError("it does not begin like one")
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except UserError:
        raise
    except Exception as error:  # NumPy parses the header as Python, so a damaged one can raise nearly anything
        raise damaged(file, f"not a sound .npy file ({error})") from None
    size, described = file.stat().st_size, array.offset + array.nbytes
    if size != described:
        raise damaged(file, f"has {size} bytes, its header describes {described}")
    return array


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """The bits of bfloat16 numbers as FP32, which is exact."""
    return (bits.astype(np.uint32) << 16).view(np.float32)  # the upper half of an FP32


def pieces(tensor: LazyTensor, nbytes: int) -> Iterator[np.ndarray]:
    """The numbers in order, some rows at a time: at most `nbytes`, at least one row. Nobody writes to a piece. Damage
    may be found with the last one only: use nothing of them before."""
    length, width = (tensor.shape or (1,))[0], NUMPY_DTYPES[tensor.dtype].itemsize
    count = max(1, nbytes // max(1, math.prod(tensor.shape[1:]) * width))
    if tensor.rows is not None:
        yield from tensor.rows(count)
    elif tensor.part is not None and tensor.nbytes > BLOCK_BYTES:
        step = count * max(1, BLOCK_BYTES // nbytes)
        for start in range(0, length, step):
            window = (slice(start, start + step), *(slice(None),) * (len(tensor.shape) - 1))
            yield from pieces(tensor.window(window), nbytes)
    else:
        array = np.atleast_1d(tensor.array())
        for start in range(0, length, count):
            yield array[start : start + count]


Window = Sequence[slice | tuple[int, int]]
Index = tuple[slice, ...]


def check_coverage(name: str, tensor: Mapping[str, Any], where: str) -> None:
    """`UserError` unless the slices cover the tensor, each of the cells into which they divide it, exactly once."""
    shape = tensor["shape"]
    boxes = [[(o, o + n) for o, n in zip(s["offset"], s["shape"], strict=True)] for s in tensor["slices"]]
    for box in boxes:
        if len(box) != len(shape) or any(not 0 <= a <= b <= size for (a, b), size in zip(box, shape, strict=True)):
            raise damaged(where, f"tensor {name} of shape {shape} has a slice {box} outside it")
    cuts = [sorted({0, size, *(edge for box in boxes for edge in box[axis])}) for axis, size in enumerate(shape)]
    places = [{edge: k for k, edge in enumerate(axis)} for axis in cuts]
    count = np.zeros([len(axis) - 1 for axis in cuts], np.int32)
    for box in boxes:
        count[tuple(slice(at[a], at[b]) for at, (a, b) in zip(places, box, strict=True))] += 1
    if not (count == 1).all():
        wrong = np.argwhere(np.atleast_1d(count != 1))[0]
        cell = [[axis[k], axis[k + 1]] for axis, k in zip(cuts, wrong, strict=False)]
        times = int(np.atleast_1d(count)[tuple(wrong)])
        raise damaged(where, f"tensor {name}: part {cell} of shape {shape} is held {times} times, not once")


def window_ranges(shape: Sequence[int], window: Window | None) -> list[tuple[int, int]]:
    """`window` as (start, stop) per axis of a tensor of `shape`, start <= stop; None is the whole tensor. `ValueError`
    for another number of axes or a step other than 1."""
    parts = [slice(None)] * len(shape) if window is None else window
    whole = (part if isinstance(part, slice) else slice(*part) for part in parts)
    ranges = [part.indices(size) for part, size in zip(whole, shape, strict=True)]
    if any(step != 1 for *_, step in ranges):
        raise ValueError(f"window {window}: steps other than 1 are not supported")
    return [(start, max(start, stop)) for start, stop, _ in ranges]


def overlap(ranges: Sequence[tuple[int, int]], record: Mapping[str, Any]) -> tuple[Index, Index] | None:
    """The overlap of a slice (`offset`, `shape`) and a window, as an index into each."""
    inside, within = [], []
    for (start, stop), offset, size in zip(ranges, record["offset"], record["shape"], strict=True):
        low, high = max(start, offset), min(stop, offset + size)
        if low >= high:
            return None
        inside.append(slice(low - offset, high - offset))
        within.append(slice(low - start, high - start))
    return tuple(inside), tuple(within)


def _copy(record: Mapping[str, Any], index: Index, into: np.ndarray) -> None:
    into[...] = record["tensor"].array()[index]


def gather(
    shape: Sequence[int],
    dtype: str,
    window: Window | None,
    records: Iterable[Mapping[str, Any]],
    copy: Callable[[Mapping[str, Any], Index, np.ndarray], object] = _copy,
) -> np.ndarray:
    """A window of a tensor from its slices: `copy(record, index, into)` is called with each that the window meets; by
    default, a record has its `tensor`."""
    ranges = window_ranges(shape, window)
    result = np.empty([stop - start for start, stop in ranges], NUMPY_DTYPES[dtype])
    for record in records:
        if (common := overlap(ranges, record)) is not None:
            copy(record, common[0], result[common[1]] if result.ndim else result)
    return result
