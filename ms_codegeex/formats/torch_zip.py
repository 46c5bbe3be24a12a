"""PyTorch's `.pt` files written and read tensor by tensor, without PyTorch and without executing anything.

The archive is an uncompressed zip: `<stem>/data.pkl`, `<stem>/byteorder`, `<stem>/data/<key>` with the raw elements
of each storage at a multiple of 64 bytes (so that it can be memory-mapped), `<stem>/version`
(PyTorch, caffe2/serialize/inline_container.cc). Ours have `<stem>/written_by` as well, which PyTorch ignores."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_file
from ms_codegeex.base.reading import open_regular, opened
from ms_codegeex.formats import torch_pickle
from ms_codegeex.formats.chunks import Checksum, checked_rows
from ms_codegeex.formats.tensors import MAX_AXES, NUMPY_DTYPES, LazyTensor, byte_blocks, damaged, map_bytes
from ms_codegeex.formats.torch_pickle import Storage

ALIGNMENT = 64
_DAMAGE = (zipfile.BadZipFile, RuntimeError, EOFError, ValueError, zlib.error, struct.error)  # Runtime: "encrypted"
# A record of our archives; other programs drop it when they save the file again.
_MARK, _WRITER = "written_by", b"ms-codegeex"
_LOCAL_HEADER = 30  # bytes before the record's name
_ZIP64_FIELD = 20  # what `zipfile` adds to the local header of a record that may pass 2 GiB
MAX_PICKLE = 1 << 26  # bytes of data.pkl; a model of 1000 tensors takes 200 KB
MAX_VALUES = 1_000_000  # a shared value counts every time it occurs in the tree
_MAX_REASON = 200  # characters
REPEATED = 4  # all tensors of a file together may have this many times its size: tied weights share a storage


def _write_record(archive: zipfile.ZipFile, name: str, size: int, blocks: Iterable[bytes | memoryview]) -> None:
    info = zipfile.ZipInfo(name)  # dated 1980: equal models make equal files
    large = size > zipfile.ZIP64_LIMIT
    header = archive.fp.tell() + _LOCAL_HEADER + len(name.encode()) + 4 + (_ZIP64_FIELD if large else 0)
    padding = -header % ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    with archive.open(info, "w", force_zip64=large) as record:
        for block in blocks:
            record.write(block)


def write_torch(path: Path, tree: Any, check: Callable[[Path], object] | None = None) -> None:
    """Write a nested dictionary whose leaves are `LazyTensor`s, numbers or strings; `torch.load` reads it. One tensor
    is in memory at a time, and the checksums are computed on the way. The file appears only when it is complete and
    `check(temporary)` raises nothing."""
    pickled, tensors = torch_pickle.dump(tree)
    with atomic_file(path, check) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        _write_record(archive, f"{path.stem}/data.pkl", len(pickled), [pickled])
        _write_record(archive, f"{path.stem}/byteorder", 6, [b"little"])
        for key, tensor in enumerate(tensors):
            _write_record(archive, f"{path.stem}/data/{key}", tensor.nbytes, byte_blocks(tensor.array()))
        _write_record(archive, f"{path.stem}/version", 2, [b"3\n"])
        _write_record(archive, f"{path.stem}/{_MARK}", len(_WRITER), [_WRITER])


def is_written_by_us(path: Path) -> bool:
    """Whether `write_torch` wrote the file at `path`, and no other program has saved it since."""
    try:
        with open_regular(path) as stream, zipfile.ZipFile(stream) as archive:
            marks = [info for info in archive.infolist() if info.filename.partition("/")[2] == _MARK]
            return [info.file_size for info in marks] == [len(_WRITER)] and archive.read(marks[0]) == _WRITER
    except (OSError, *_DAMAGE):
        return False


class _Archive:
    """A `.pt` file open for reading. Each storage's checksum is verified once, before its first use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with opened(path) as stream, zipfile.ZipFile(stream) as archive:
                self._records = {info.filename: info for info in archive.infolist()}
                if len(self._records) != len(archive.infolist()):
                    raise damaged(path, "two of its records have the same name")
                if sum(info.compress_size for info in archive.infolist()) > path.stat().st_size:
                    raise damaged(path, "its records overlap")
                pickles = [name for name in self._records if name.count("/") == 1 and name.endswith("/data.pkl")]
                if len(pickles) != 1:
                    raise UserError(f"{path}: a zip file without PyTorch's data.pkl; save it with torch.save")
                self._stem = pickles[0].split("/")[0]
                self.pickled = self._read(archive, pickles[0], MAX_PICKLE)
                order = f"{self._stem}/byteorder"
                if order in self._records and self._read(archive, order, len("little")) != b"little":
                    raise UserError(f"{path}: written on a big-endian machine; save it on another one")
        except _DAMAGE as error:
            what = f"damaged, cut off, or not in PyTorch's zip format ({str(error)[:_MAX_REASON]})"
            raise UserError(f"{path}: {what}; copy it again, or save it with PyTorch 1.6 or newer") from None
        self._checksums: dict[str, Checksum] = {}
        self._size = path.stat().st_size

    def _read(self, archive: zipfile.ZipFile, name: str, largest: int) -> bytes:
        """A small record, which must be stored uncompressed and within its limit."""
        info, what = self._records[name], name.partition("/")[2]
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise UserError(f"{self.path}: its {what} is compressed, which PyTorch never does; save it with torch.save")
        if info.file_size > largest:
            large = f"its {what} has {info.file_size} bytes, not at most {largest}"
            raise UserError(f"{self.path}: {large}; save the state dict alone")
        return archive.read(name)

    def _start(self, info: zipfile.ZipInfo) -> int:
        local = map_bytes(self.path, info.header_offset, _LOCAL_HEADER).tobytes()
        if local[:4] != b"PK\x03\x04":
            raise damaged(self.path, f"record {info.filename} is damaged")
        return info.header_offset + _LOCAL_HEADER + sum(struct.unpack("<HH", local[26:30]))

    def storage(self, storage: Storage) -> np.ndarray:
        """The elements of a storage as a flat read-only view."""
        info = self._records[f"{self._stem}/data/{storage.key}"]
        data = map_bytes(self.path, self._start(info), info.file_size)
        self._checksum(info).compare(byte_blocks(data))
        return data.view(NUMPY_DTYPES[storage.dtype])

    def _checksum(self, info: zipfile.ZipInfo) -> Checksum:
        def error(wrong: str) -> UserError:
            return damaged(self.path, f"record {info.filename} is damaged ({wrong})")

        return self._checksums.setdefault(info.filename, Checksum(info.CRC, error))

    def tensor(self, storage: Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> LazyTensor:
        """A window of a storage, checked to lie inside it; `offset` and `stride` count elements."""
        info = self._records.get(f"{self._stem}/data/{storage.key}")
        width = NUMPY_DTYPES[storage.dtype].itemsize
        if info is None:
            raise damaged(self.path, f"record data/{storage.key} is missing")
        size = storage.numel * width
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != size:
            has = f"record {info.filename} has {info.file_size} bytes"
            raise damaged(self.path, f"{has}, expected {size} uncompressed")
        if info.header_offset + size > self._size:
            raise damaged(self.path, f"record {info.filename} lies beyond the end of the file")
        if len(shape) > MAX_AXES or len(shape) != len(stride):
            raise ValueError(f"a tensor of {len(shape)} axes with {len(stride)} strides")
        if any(type(n) is not int or not 0 <= n < 1 << 63 for n in (offset, *shape, *stride)):
            raise ValueError("a tensor whose shape, strides or offset are not sizes")
        last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if math.prod(shape) > max(storage.numel, self._size // width):  # `expand`, to any amount of memory
            raise ValueError(f"shape {shape} repeats a storage of {storage.numel} to more than the file")
        if math.prod(shape) and last >= storage.numel:
            raise ValueError(f"shape {shape}, stride {stride}, offset {offset} leave a storage of {storage.numel}")

        def load() -> np.ndarray:
            if not math.prod(shape):
                return np.empty(shape, NUMPY_DTYPES[storage.dtype])
            flat = self.storage(storage)[offset:]
            return np.lib.stride_tricks.as_strided(flat, shape, [step * width for step in stride], writeable=False)

        def rows(count: int) -> Iterator[np.ndarray]:
            return checked_rows(self.path, self._start(info), tensor, count, self._checksum(info))

        whole = shape and stride == torch_pickle.strides(shape) and math.prod(shape) == storage.numel
        tensor = LazyTensor(storage.dtype, shape, load, rows=rows if whole else None)
        return tensor


def _check_tree(tree: Any, path: Path) -> None:
    """`UserError` for a tree that is endless to walk, or whose tensors together exceed the file many times."""
    waiting, count, room = [tree], 0, REPEATED * path.stat().st_size + (1 << 20)
    while waiting:
        node = waiting.pop()
        below = node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple) else ()
        count += 1 + len(below)
        if count > MAX_VALUES:
            reason = f"it holds more than {MAX_VALUES} values, as lists that contain one another"
            raise UserError(f"{path}: refused, because {reason}; save the state dict alone")
        waiting.extend(below)
        if isinstance(node, LazyTensor):
            room -= node.nbytes
            if room < 0:
                reason = f"its tensors repeat the same numbers to more than {REPEATED} times the size of the file"
                raise UserError(f"{path}: refused, because {reason}; save the state dict alone")


def read_torch(path: Path) -> Any:
    """Read a `.pt` file: the same nesting, with a `LazyTensor` for each tensor (bfloat16 loads as raw uint16). Raises
    `UserError` for a damaged file, at once or when the damaged tensor is loaded, for a file whose loading would call
    anything but the functions that rebuild tensors, and for one that grows beyond the limits."""
    archive = _Archive(path)
    tree = torch_pickle.load(archive.pickled, archive.tensor, str(path))
    _check_tree(tree, path)
    return tree


def refused_names(path: Path) -> list[str]:
    """The globals for which `read_torch` refuses a file; none if it is no sound archive."""
    try:
        archive = _Archive(path)
    except UserError:
        return []
    return torch_pickle.refused_names(archive.pickled, archive.tensor)
