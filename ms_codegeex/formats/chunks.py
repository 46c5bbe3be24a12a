"""Hashes of a tensor's bytes: as a whole, or by chunk, so that a window of it is verified without reading all of it.

A chunk is a number of rows (entries of axis 0) of about 8 MiB. The hash is XXH3-128, which runs at the speed of memory.
It detects accidental damage, not tampering."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash
from isal import isal_zlib

from ms_codegeex.formats.tensors import NUMPY_DTYPES, LazyTensor, read_bytes

CHUNK_BYTES = 8 << 20


def rows_per_chunk(shape: Sequence[int], itemsize: int) -> int:
    return max(1, CHUNK_BYTES // max(1, math.prod(shape[1:]) * itemsize))


def count_chunks(shape: Sequence[int], rows: int) -> int:
    """Return the number of chunks of `rows` rows in a tensor of `shape`; 0 if it is empty."""
    if 0 in shape:
        return 0
    return -(-shape[0] // rows) if shape else 1


def content_hash(parts: Iterable[bytes | np.ndarray]) -> str:
    """Return the hex XXH3-128 of the concatenated parts: bytes, or C-contiguous arrays."""
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def read_hashed(path: Path, start: int, into: np.ndarray) -> str:
    """Fill a C-contiguous array from a file and return the hash of its bytes."""
    return content_hash(read_bytes(path, start, into.reshape(-1).view(np.uint8)))


def chunks(array: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """Yield the bytes of each chunk of a C-contiguous array, without copying."""
    if array.size:
        flat = array.reshape(-1).view(np.uint8)
        size = rows * (flat.size // len(array) if array.ndim else flat.size)
        for start in range(0, flat.size, size):
            yield flat[start : start + size]


class Checksum:
    """A CRC-32 (as in zip, gzip and PNG) that a file records of some bytes. `wrong` turns a description of the problem
    into the error. It is compared once, however many threads load tensors; after that `expected` is None."""

    def __init__(self, expected: int | None, wrong: Callable[[str], Exception]):
        self.expected, self._wrong, self._comparing = expected, wrong, threading.Lock()

    def compare(self, blocks: Iterable[bytes | memoryview]) -> None:
        """Compare it with the CRC-32 of `blocks`, which are read only if this has not been done yet."""
        with self._comparing:
            if self.expected is not None:
                # several times faster than `zlib`
                self.judge(reduce(lambda checksum, block: isal_zlib.crc32(block, checksum), blocks, 0))

    def judge(self, checksum: int) -> None:
        """Raise the error unless `checksum` is the expected one."""
        if self.expected not in (None, checksum):
            raise self._wrong(f"checksum {checksum:08x}, expected {self.expected:08x}")
        self.expected = None


def write_checked(stream: BinaryIO, blocks: Iterable[bytes | memoryview], checksum: int = 0) -> int:
    """Write blocks one by one, and return `checksum` continued over them (CRC-32)."""
    for block in blocks:
        checksum = isal_zlib.crc32(block, checksum)
        stream.write(block)
    return checksum


def checked_rows(path: Path, position: int, like: LazyTensor, count: int, crc: Checksum | None) -> Iterator[np.ndarray]:
    """Yield `like.rows(count)` of a tensor that begins at this byte of a file. It is read, not mapped: pages of a map
    would count as this process's memory. The recorded checksum is compared after the last row."""
    (length, *rest), checksum = like.shape or (1,), 0
    judge = None if crc is None or crc.expected is None else crc.judge
    for start in range(0, length, count):
        piece = np.empty((min(count, length - start), *rest), NUMPY_DTYPES[like.dtype])
        for part in read_bytes(path, position, piece.reshape(-1).view(np.uint8)):
            if judge is not None:
                checksum = isal_zlib.crc32(part, checksum)
        position += piece.nbytes
        yield piece
    if judge is not None:
        judge(checksum)
