"""Safetensors files written and read tensor by tensor.

The format: the header's length (8 bytes, little-endian), a JSON header padded with spaces, then the raw tensors back
to back (https://github.com/huggingface/safetensors, "Format"). The library's writer holds all tensors, this one one."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.base.reading import opened
from ms_codegeex.formats.chunks import Checksum, checked_rows, chunks, content_hash, rows_per_chunk, write_checked
from ms_codegeex.formats.tensors import (
    NUMPY_DTYPES,
    SAFETENSORS_TAGS,
    LazyTensor,
    byte_blocks,
    checked_shape,
    damaged,
    map_bytes,
)

DTYPES = {tag: name for name, tag in SAFETENSORS_TAGS.items()}
CHECKSUM = "crc32 "  # in front of a tensor's name, a key of the metadata that only this program writes
MAX_HEADER_BYTES = 32 << 20  # bytes, a third of the library's limit: 700 tensors take 100 KB with their checksums
MAX_TENSORS = 100_000
_BEGINNING = re.compile(rb".{4}\0{4}\{", re.DOTALL)  # a length below 4 GiB, and JSON
_SPACES = 8  # at least, at the end of our headers; the library writes fewer, which distinguishes its files from ours


def _packed(header: Mapping[str, Any]) -> bytes:
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (_SPACES + -(8 + len(text) + _SPACES) % 64)
    return struct.pack("<Q", len(text)) + text


def write_safetensors(
    path: Path, tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str] | None = None, checksums: bool = False
) -> tuple[str, dict[str, list[str]]]:
    """Write `tensors` to `path`, which is synced but not renamed; returns the header's hash, and those of each tensor's
    chunks. Wider types come first, so that every tensor is aligned to its own element size. With `checksums` the
    metadata holds each tensor's CRC-32, for `SafetensorsFile`, and chunks are not hashed."""
    names = sorted(tensors, key=lambda name: -NUMPY_DTYPES[tensors[name].dtype].itemsize)
    written_metadata = dict(metadata or {})
    if checksums:
        written_metadata |= {CHECKSUM + name: f"{0:08x}" for name in names}  # placeholders of the final length
    header: dict[str, Any] = {"__metadata__": written_metadata} if written_metadata else {}
    position = 0
    for name in names:
        dtype, shape, end = tensors[name].dtype, tensors[name].shape, position + tensors[name].nbytes
        header[name] = {"dtype": SAFETENSORS_TAGS[dtype], "shape": list(shape), "data_offsets": [position, end]}
        position = end
    hashes: dict[str, list[str]] = {}
    with open(path, "wb") as stream, ThreadPoolExecutor(1) as thread:
        stream.write(_packed(header))
        for name in names:
            array = tensors[name].array()
            if checksums:
                written_metadata[CHECKSUM + name] = f"{write_checked(stream, byte_blocks(array)):08x}"
                continue
            hashed = []
            for chunk in chunks(array, rows_per_chunk(array.shape, array.itemsize)):
                hashed.append(thread.submit(content_hash, [chunk]))  # neither hashing nor writing holds the interpreter
                stream.write(chunk)
            hashes[name] = [each.result() for each in hashed]
        if checksums:
            stream.seek(0)
            stream.write(_packed(header))
        stream.flush()
        os.fsync(stream.fileno())
    return content_hash([_packed(header)]), hashes


def is_safetensors(path: Path) -> bool:
    """Whether a file is of this format by how it begins, whatever its name; by its name if that does not show."""
    with opened(path) as stream:
        begins = stream.read(9)
    return bool(_BEGINNING.match(begins)) or (Path(path).suffix == ".safetensors" and not begins.startswith(b"\n"))


class SafetensorsFile:
    """A safetensors file opened for reading; checks header and length at once. Its `tensors`, in the header's order,
    load as read-only views: indexing one reads only the pages that are touched. With `whole` they are views of one map
    of the file, for tensors that stay in use: each other map has a descriptor. Raises `UserError` naming the file (and
    the tensor) for anything that is not a complete, well-formed file."""

    def __init__(self, path: Path, whole: bool = False) -> None:
        self.path = Path(path)
        with opened(self.path) as stream:
            total = os.fstat(stream.fileno()).st_size
            prefix = stream.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else total
            if 8 + length > total or length > MAX_HEADER_BYTES:
                raise damaged(self.path, f"not a safetensors file, or cut off in its header ({total} bytes)")
            text = stream.read(length)
        self.header_hash = content_hash([prefix, text])
        try:
            header = parse_json(text)
            if len(header) > MAX_TENSORS:
                raise ValueError(f"it lists more than {MAX_TENSORS:,} tensors")
            metadata = header.pop("__metadata__", None) or {}
            self.metadata = {str(key): str(value) for key, value in metadata.items()}
            checksums = {key: value for key, value in metadata.items() if key.startswith(CHECKSUM)}
            self._checksums = {
                (name := key.removeprefix(CHECKSUM)): Checksum(int(value, 16), partial(self._edited, name))
                for key, value in checksums.items()
            }
            self._begins: dict[str, int] = {}
            self.tensors = {name: self._tensor(name, value) for name, value in header.items()}
            self._start = 8 + length
            expected = self._start + self._check_places()
            # another program that saves the file again keeps our metadata, not our way of writing the header
            self._rewritten = bool(self._checksums) and _packed(parse_json(text)) != prefix + text
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise damaged(self.path, f"its header is not safetensors ({error})") from None
        if expected != total:
            raise damaged(self.path, f"has {total} bytes, its header describes {expected}")
        self._mapped = map_bytes(self.path, 0, total) if whole else None

    @property
    def identified(self) -> bool:
        return self._checksums.keys() == self.tensors.keys()

    def _tensor(self, name: str, value: dict[str, Any]) -> LazyTensor:
        if str(value["dtype"]).startswith(("F4", "F6_", "F8_")):
            quantised = f"tensor {name} has the type {value['dtype']} of quantised weights"
            raise UserError(f"{self.path}: {quantised}; give the model before it was quantised")
        if value["dtype"] not in DTYPES:
            raise ValueError(f"{name}: dtype {value['dtype']} is not supported")
        dtype, shape = DTYPES[value["dtype"]], checked_shape(value["shape"], name)
        begin, end = value["data_offsets"]
        tensor = LazyTensor(dtype, shape, lambda: self._view(name), rows=lambda count: self._rows(name, count))
        if not all(type(n) is int and n >= 0 for n in (begin, end)) or end - begin != tensor.nbytes:
            raise ValueError(f"{name}: {dtype} {list(shape)} does not fit bytes {begin}..{end}")
        self._begins[name] = begin
        return tensor

    def _check_places(self) -> int:
        """Where the last tensor ends. `ValueError` unless they are contiguous from the first byte on, in any order."""
        position = 0
        for name, begin in sorted(self._begins.items(), key=lambda item: (item[1], self.tensors[item[0]].nbytes)):
            if begin != position:
                gap = f"{begin - position} bytes after the last one"
                where = "inside another tensor" if begin < position else gap
                raise ValueError(f"{name}: begins at byte {begin}, {where}")
            position += self.tensors[name].nbytes
        return position

    def position(self, name: str) -> int:
        """The first byte of the tensor in the file."""
        return self._start + self._begins[name]

    def _view(self, name: str) -> np.ndarray:
        tensor = self.tensors[name]
        begin = self.position(name)
        whole = self._mapped
        data = map_bytes(self.path, begin, tensor.nbytes) if whole is None else whole[begin : begin + tensor.nbytes]
        if (recorded := self._checksums.get(name)) is not None:
            recorded.compare(byte_blocks(data))
        return data.view(NUMPY_DTYPES[tensor.dtype]).reshape(tensor.shape)

    def _rows(self, name: str, count: int) -> Iterator[np.ndarray]:
        return checked_rows(self.path, self.position(name), self.tensors[name], count, self._checksums.get(name))

    def _edited(self, name: str, wrong: str) -> UserError:
        """The error for a tensor with another checksum."""
        if not self._rewritten:
            return damaged(self.path, f"tensor {name} is damaged, or edited in place ({wrong})")
        return UserError(
            f"{self.path}: tensor {name} was edited: another program saved this file again with other numbers, but "
            f"with the checksums of the old ones in its metadata ({wrong}); if that was meant, save it without the "
            f"metadata keys that begin with '{CHECKSUM.strip()}'"
        )
