"""Lines of `.jsonl`, `.jsonl.gz` and `.jsonl.zst` files, with bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst")
MOST_BYTES = 64 << 20  # of a line; a longer one is not held in memory
_CHUNK = 1 << 20


class Damaged(Exception):
    """A compressed file that is cut short or broken."""


def read_lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Number (from 1) and bytes of each line without its end; None for one of more than `MOST_BYTES`.

    Raises:
        Damaged: behind the last whole line before the damage.
    """
    number, parts, held = 1, [], 0
    for chunk in _chunks(path):
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            parts.append(line)
            held += len(line)
            yield number, b"".join(parts).removesuffix(b"\r") if held <= MOST_BYTES else None
            number, parts, held = number + 1, [], 0
        held += len(rest)
        parts = [*parts, rest] if held <= MOST_BYTES else []
    if held:
        yield number, b"".join(parts).removesuffix(b"\r") if held <= MOST_BYTES else None


def _chunks(path: Path) -> Iterator[bytes]:
    """The content of a file, decompressed as its name says."""
    with open(path, "rb") as stream:
        if path.name.endswith(".gz"):
            yield from _gzip_chunks(stream)
        elif path.name.endswith(".zst"):
            yield from _zstd_chunks(stream)
        else:
            while chunk := stream.read(_CHUNK):
                yield chunk


def _gzip_chunks(stream: BinaryIO) -> Iterator[bytes]:
    from isal import isal_zlib

    rest, member = b"", None
    while data := rest or stream.read(_CHUNK):
        member = member or isal_zlib.decompressobj(wbits=31)  # 31: with gzip's header
        try:
            yield member.decompress(data, _CHUNK)
        except isal_zlib.error as error:
            raise Damaged(str(error)) from None
        rest = member.unconsumed_tail or member.unused_data
        member = None if member.eof else member
    if member is not None:
        raise Damaged("the last member is not complete")


def _zstd_chunks(stream: BinaryIO) -> Iterator[bytes]:
    import zstandard

    rest, frame = b"", None
    while data := rest or stream.read(_CHUNK // 64):  # a frame gives all at once, so it gets little
        frame = frame or zstandard.ZstdDecompressor().decompressobj()
        try:
            yield frame.decompress(data)
        except zstandard.ZstdError as error:
            raise Damaged(str(error)) from None
        rest = frame.unused_data
        frame = None if frame.eof else frame
    if frame is not None:
        raise Damaged("the last frame is not complete")
