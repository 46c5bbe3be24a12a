"""Hashes of a tensor's bytes: as a whole, or by chunk, so that a window of it is verified without reading all of it.

A chunk is a number of rows (entries of axis 0) of about 8 MiB. The hash is XXH3-128, which runs at the speed of memory.
It detects accidental damage, not tampering."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash
from isal import isal_zlib

from ms_codegeex.formats.tensors import NUMPY_DTYPES, LazyTensor, damaged, read_bytes

CHUNK_BYTES = 8 << 20


def rows_per_chunk(shape: Sequence[int], itemsize: int) -> int:
    """Rows in a chunk of a tensor of `shape`, at least one. A single number counts as one row."""
    return max(1, CHUNK_BYTES // max(1, math.prod(shape[1:]) * itemsize))


def count_chunks(shape: Sequence[int], rows: int) -> int:
    """Chunks of `rows` rows in a tensor of `shape`; none if it is empty."""
    if 0 in shape:
        return 0
    return -(-shape[0] // rows) if shape else 1


def content_hash(parts: Iterable[bytes | np.ndarray]) -> str:
    """Hex XXH3-128 of these parts in a row: bytes, or C-contiguous arrays."""
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def read_hashed(path: Path, start: int, into: np.ndarray) -> str:
    """Fill a C-contiguous array from a file; returns the hash of its bytes."""
    return content_hash(read_bytes(path, start, into.reshape(-1).view(np.uint8)))


def chunks(array: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """The bytes of each chunk of a C-contiguous array, without a copy."""
    if array.size:
        flat = array.reshape(-1).view(np.uint8)
        size = rows * (flat.size // len(array) if array.ndim else flat.size)
        for start in range(0, flat.size, size):
            yield flat[start : start + size]


def wrong_crc32(blocks: Iterable[bytes | memoryview], expected: int) -> str:
    """In words, if these bytes in a row do not have this checksum of zip, gzip and PNG; "" if they do."""
    checksum = 0
    for block in blocks:
        checksum = isal_zlib.crc32(block, checksum)  # several times as fast as `zlib`'s
    return different(checksum, expected)


class WholeChecksum:
    """The CRC-32 of a file's `blocks` that its writer recorded, or None."""

    def __init__(self, path: Path, expected: int | None, blocks: Callable[[], Iterable[bytes | memoryview]]):
        self._path, self._expected, self._blocks = path, expected, blocks
        self._verifying = threading.Lock()

    def verify(self) -> None:
        """Compare them once, however many threads load tensors. `UserError` if they differ."""
        with self._verifying:
            if self._expected is not None:
                if wrong := wrong_crc32(self._blocks(), self._expected):
                    raise damaged(self._path, f"damaged, or edited in place ({wrong})")
                self._expected = None


def write_checked(stream: BinaryIO, blocks: Iterable[bytes | memoryview], checksum: int = 0) -> int:
    """Write blocks, none of which is kept in memory; returns the CRC-32 continued."""
    for block in blocks:
        checksum = isal_zlib.crc32(block, checksum)
        stream.write(block)
    return checksum


def different(checksum: int, expected: int) -> str:
    """In words, if these checksums differ; "" if they do not."""
    return "" if checksum == expected else f"checksum {checksum:08x}, expected {expected:08x}"


def checked_rows(
    path: Path, position: int, like: LazyTensor, count: int, expected: int | None, judge: Callable[[str], None]
) -> Iterator[np.ndarray]:
    """`like.rows(count)` of a tensor that begins at this byte of a file, read without a map, whose pages would count as
    memory of this process. After the last row `judge` gets what is wrong with the checksum, if one is expected."""
    (length, *rest), checksum = like.shape or (1,), 0
    for start in range(0, length, count):
        piece = np.empty((min(count, length - start), *rest), NUMPY_DTYPES[like.dtype])
        for part in read_bytes(path, position, piece.reshape(-1).view(np.uint8)):
            if expected is not None:
                checksum = isal_zlib.crc32(part, checksum)
        position += piece.nbytes
        yield piece
    if expected is not None:
        judge(different(checksum, expected))
