"""Finds where a large compressed file can be divided: between independently compressed frames (.zst) or blocks (.gz).

Their lengths are in their headers, so nothing is unpacked. The frames are those of RFC 8878, the blocks those that
`bgzip` writes (the SAM specification, section 4.1). Members of other `.gz` files do not record their length, and a
`.zst` file that was written in one go is one frame. `zstandard` reads a frame's header, but does not say where it ends.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_LONGEST_HEADER = 18  # bytes of a frame's header
_RLE, _RESERVED = 1, 3  # types of blocks
_GZIP_BLOCK = struct.Struct("<4s6xH2sHH")  # with the extra field that bgzip writes, first in its header


def frame_bounds(stream: BinaryIO, name: str) -> list[int] | None:
    """Offsets at which the frames or blocks of a file start, and last its size; None unless it is a sequence of
    complete ones. `stream` is at its beginning; `name` ends in `.zst` or `.gz`."""
    size = os.fstat(stream.fileno()).st_size
    follow = _zstd_frames if name.endswith(".zst") else _gzip_blocks
    try:
        bounds = [0, *follow(stream)]
    except struct.error:  # ends within a header
        return None
    return bounds if bounds[-1] == size else None


def _zstd_frames(stream: BinaryIO) -> Iterator[int]:
    """The end of each frame, up to the first data that is not a frame."""
    import zstandard

    while head := stream.read(_LONGEST_HEADER):
        start, (magic, size) = stream.tell() - len(head), struct.unpack_from("<II", head)
        if magic in _SKIPPABLE:
            stream.seek(start + 8 + size)
        else:
            try:
                stream.seek(start + zstandard.frame_header_size(head))
                checksum = 4 if zstandard.get_frame_parameters(head).has_checksum else 0
            except zstandard.ZstdError:
                return
            if not _skip_blocks(stream):
                return
            stream.seek(checksum, os.SEEK_CUR)
        yield stream.tell()


def _skip_blocks(stream: BinaryIO) -> bool:
    """Seek to the end of a frame's blocks; False if one is invalid."""
    last = False
    while not last:
        low, high = struct.unpack("<HB", stream.read(3))
        header = low | high << 16
        last, kind = bool(header & 1), header >> 1 & 3
        if kind == _RESERVED:
            return False
        stream.seek(1 if kind == _RLE else header >> 3, os.SEEK_CUR)
    return True


def _gzip_blocks(stream: BinaryIO) -> Iterator[int]:
    """The end of each block of `bgzip`, up to the first data that is not one."""
    while data := stream.read(_GZIP_BLOCK.size):
        magic, extra, name, length, rest = _GZIP_BLOCK.unpack(data)
        if magic != b"\x1f\x8b\x08\x04" or (name, length) != (b"BC", 2) or extra < 6 or rest < _GZIP_BLOCK.size:
            return
        stream.seek(rest + 1 - _GZIP_BLOCK.size, os.SEEK_CUR)
        yield stream.tell()
