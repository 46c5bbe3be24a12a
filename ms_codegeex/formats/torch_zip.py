"""PyTorch's `.pt` files written and read tensor by tensor, without PyTorch and without executing anything.

The archive is an uncompressed zip: `<stem>/data.pkl`, `<stem>/byteorder`, `<stem>/data/<key>` with the raw elements
of each storage at a multiple of 64 bytes (so that it can be memory-mapped), `<stem>/version`
(PyTorch, caffe2/serialize/inline_container.cc).
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.errors import UserError
from ms_codegeex.files import atomic_file
from ms_codegeex.formats import torch_pickle
from ms_codegeex.formats.tensors import NUMPY_DTYPES, LazyTensor, byte_blocks, crc32, map_bytes

ALIGNMENT = 64
_LOCAL_HEADER = 30  # bytes before the record's name
_ZIP64_FIELD = 20  # what `zipfile` adds to the local header of a record that may pass 2 GiB


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
    """Write a nested dictionary whose leaves are `LazyTensor`s, numbers or strings; `torch.load` reads it.

    One tensor is in memory at a time, the checksums are computed on the way, and the file appears whole or not at all,
    and only if `check(temporary)` raises nothing.
    """
    path = Path(path)
    pickled, tensors = torch_pickle.dump(tree)
    with atomic_file(path, check) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        _write_record(archive, f"{path.stem}/data.pkl", len(pickled), [pickled])
        _write_record(archive, f"{path.stem}/byteorder", 6, [b"little"])
        for key, tensor in enumerate(tensors):
            _write_record(archive, f"{path.stem}/data/{key}", tensor.nbytes, byte_blocks(tensor.array()))
        _write_record(archive, f"{path.stem}/version", 2, [b"3\n"])


class _Archive:
    """A `.pt` file open for reading. Each storage's checksum is verified once, before its first use."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self._records = {info.filename: info for info in archive.infolist()}
                pickles = [name for name in self._records if name.count("/") == 1 and name.endswith("/data.pkl")]
                if len(pickles) != 1:
                    raise UserError(f"{path}: a zip file without PyTorch's data.pkl; expected a .pt file")
                if self._records[pickles[0]].compress_type != zipfile.ZIP_STORED:  # might swell to any size
                    raise UserError(f"{path}: its data.pkl is compressed, which PyTorch never does")
                self._stem = pickles[0].split("/")[0]
                self.pickled = archive.read(pickles[0])
                order = f"{self._stem}/byteorder"
                if order in self._records and archive.read(order) != b"little":
                    raise UserError(f"{path}: written on a big-endian machine, which is not supported")
        except OSError as error:
            raise UserError(f"{path}: could not be read ({error.strerror})") from None
        except (zipfile.BadZipFile, RuntimeError, EOFError, ValueError, zlib.error) as error:  # Runtime: "encrypted"
            raise UserError(
                f"{path}: damaged, cut off, or not in PyTorch's zip format ({error}); "
                "copy it again, or save it with PyTorch 1.6 or newer"
            ) from None
        self._sound: set[str] = set()
        self._size = path.stat().st_size

    def _start(self, info: zipfile.ZipInfo) -> int:
        """Where a record's data begins; its local header may be longer than its entry in the directory."""
        local = map_bytes(self.path, info.header_offset, _LOCAL_HEADER).tobytes()
        if local[:4] != b"PK\x03\x04":
            raise UserError(f"{self.path}: record {info.filename} is damaged; copy the file again")
        return info.header_offset + _LOCAL_HEADER + sum(struct.unpack("<HH", local[26:30]))

    def storage(self, storage: torch_pickle.Storage) -> np.ndarray:
        """The elements of a storage as a flat read-only view."""
        info = self._records[f"{self._stem}/data/{storage.key}"]
        data = map_bytes(self.path, self._start(info), info.file_size)
        if info.filename not in self._sound:
            checksum = crc32(byte_blocks(data))
            if checksum != info.CRC:
                raise UserError(
                    f"{self.path}: record {info.filename} is damaged (checksum {checksum:08x}, "
                    f"expected {info.CRC:08x}); copy the file again"
                )
            self._sound.add(info.filename)
        return data.view(NUMPY_DTYPES[storage.dtype])

    def tensor(
        self, storage: torch_pickle.Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]
    ) -> LazyTensor:
        """A window of a storage, checked to lie inside it; `offset` and `stride` count elements."""
        info = self._records.get(f"{self._stem}/data/{storage.key}")
        width = NUMPY_DTYPES[storage.dtype].itemsize
        if info is None:
            raise UserError(f"{self.path}: record data/{storage.key} is missing; copy the file again")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != storage.numel * width:
            raise UserError(
                f"{self.path}: record {info.filename} has {info.file_size} bytes, "
                f"expected {storage.numel * width} uncompressed; copy the file again"
            )
        numbers = (offset, *shape, *stride)
        if len(shape) != len(stride) or any(type(n) is not int or n < 0 for n in numbers):
            raise ValueError(f"shape {shape}, stride {stride}, offset {offset}")
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

        return LazyTensor(storage.dtype, shape, load)


def read_torch(path: Path) -> Any:
    """Read a `.pt` file: the same nesting, with a `LazyTensor` for each tensor (bfloat16 loads as raw uint16).

    Raises `UserError` for a damaged file, at once or when the damaged tensor is loaded, and for a file whose loading
    would call anything but the functions that rebuild tensors.
    """
    archive = _Archive(Path(path))
    return torch_pickle.load(archive.pickled, archive.tensor, str(path))
