"""Finds where a large compressed file can be divided: between independently compressed frames (.zst) or blocks (.gz).

Their lengths are in their headers, so nothing is unpacked. The frames are those of RFC 8878, the blocks those that
`bgzip` writes (the SAM specification, section 4.1). Members of other `.gz` files do not record their length, and a
`.zst` file that was written in one go is one frame.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

_ZSTD_FRAME = 0xFD2FB528
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_RLE, _RESERVED = 1, 3  # types of blocks
_GZIP_BLOCK = struct.Struct("<4s6xH2sHH")  # with the extra field that bgzip writes, first in its header


def frame_bounds(stream: BinaryIO, name: str) -> list[int] | None:
    """Offsets at which the frames or blocks of a compressed file start, and last the file's size; None if the file is
    not a sequence of complete ones.

    Args:
        stream: the file, at its beginning.
        name: ends in `.zst` or `.gz`.
    """
    size = os.fstat(stream.fileno()).st_size
    follow = _zstd_frames if name.endswith(".zst") else _gzip_blocks
    bounds = [0]
    try:
        for end in follow(stream):
            bounds.append(end)
    except struct.error:  # ends within a header
        return None
    return bounds if bounds[-1] == size else None


def _read(stream: BinaryIO, form: str) -> tuple:
    return struct.unpack(form, stream.read(struct.calcsize(form)))


def _zstd_frames(stream: BinaryIO) -> Iterator[int]:
    """The end of each frame, up to the first data that is not a frame."""
    while (magic := _magic(stream)) is not None:
        if magic in _SKIPPABLE:
            stream.seek(_read(stream, "<I")[0], os.SEEK_CUR)
        elif magic == _ZSTD_FRAME:
            if not _skip_frame(stream):
                return
        else:
            return
        yield stream.tell()


def _magic(stream: BinaryIO) -> int | None:
    data = stream.read(4)
    return struct.unpack("<I", data)[0] if len(data) == 4 else None


def _skip_frame(stream: BinaryIO) -> bool:
    """Seek to the end of a frame whose magic number has been read; False if it is invalid."""
    (flags,) = _read(stream, "<B")
    single_segment = bool(flags & 0x20)
    content_size = (1 if single_segment else 0, 2, 4, 8)[flags >> 6]
    stream.seek((not single_segment) + (0, 1, 2, 4)[flags & 3] + content_size, os.SEEK_CUR)
    last = False
    while not last:
        low, high = _read(stream, "<HB")
        header = low | high << 16
        last, kind = bool(header & 1), header >> 1 & 3
        if kind == _RESERVED:
            return False
        stream.seek(1 if kind == _RLE else header >> 3, os.SEEK_CUR)
    stream.seek(4 if flags & 4 else 0, os.SEEK_CUR)  # a checksum
    return True


def _gzip_blocks(stream: BinaryIO) -> Iterator[int]:
    """The end of each block of `bgzip`, up to the first data that is not one."""
    while data := stream.read(_GZIP_BLOCK.size):
        magic, extra, name, length, rest = _GZIP_BLOCK.unpack(data)
        if magic != b"\x1f\x8b\x08\x04" or (name, length) != (b"BC", 2) or extra < 6 or rest < _GZIP_BLOCK.size:
            return
        stream.seek(rest + 1 - _GZIP_BLOCK.size, os.SEEK_CUR)
        yield stream.tell()
