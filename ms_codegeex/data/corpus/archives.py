"""Lines of `.jsonl` files, plain or compressed, and rows of `.parquet` files, in bounded memory.

Broken input is returned, never raised: everything before it is still read. Readers of others do not give that:
pyarrow's lose the last block before damage, zstandard's ends a truncated file without an error.
"""

from __future__ import annotations

import codecs
import functools
import itertools
import math
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

from ms_codegeex.data.corpus.frames import frame_bounds
from ms_codegeex.data.corpus.remote import RemotePath, open_input

T = TypeVar("T")

ENDINGS = {
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".json.gz": "jsonl",  # CodeParrot's name for lines of JSON
    ".jsonl.zst": "jsonl",
    ".parquet": "parquet",
}
"""Endings of the files that hold records, and their kinds."""

PART_BYTES = 32 << 20
"""`.jsonl` and `.parquet` files are split into parts of about this size, so one large file uses all cores. Compressed
files are split only where their format allows it."""

_BLOCK = 1 << 20
# Bytes unpacked at once. gzip expands up to 1000 times, zstd 128 KiB for every 4 bytes: 16 MiB at most.
_PACKED = {".gz": 4096, ".zst": 512}
_HEAD = 1000


@dataclass(frozen=True)
class ArchivePart:
    """A piece of an archive: a byte range for lines, row groups [a, b) for parquet, None for everything; for parquet,
    the number of the rows before it; and its size in bytes.

    A line belongs to the part that has the byte before it. So a part skips its first line, which the previous part
    reads.
    """

    span: tuple[int, int] | None
    first: int
    bytes: int


@dataclass(frozen=True)
class Broken:
    """Input that gives no text: a reason from the fixed set, a line of detail, the bytes lost, and how they begin.

    `problem`: it is damaged or malformed; otherwise a rule rejects it.
    """

    reason: str
    detail: str = ""
    bytes: int = 0
    head: bytes = b""
    problem: bool = True


class Returning(Generic[T]):
    """Iterates over a generator and keeps its return value."""

    def __init__(self, generator: Generator[T, None, int]) -> None:
        self._generator = generator
        self.value = 0

    def __iter__(self) -> Iterator[T]:
        self.value = yield from self._generator


class _Ended(Exception):
    """Compressed data end early; arguments: reason and detail, as in `Broken`."""


def archive_kind(name: str) -> str | None:
    """`jsonl` or `parquet` for a file name with one of `ENDINGS` in any case, otherwise None."""
    name = name.lower()
    return next((kind for ending, kind in ENDINGS.items() if name.endswith(ending)), None)


# Lines


def line_parts(path: Path | RemotePath, size: int, part_bytes: int = PART_BYTES) -> list[ArchivePart]:
    """A `.jsonl` file of `size` bytes as parts. Of a compressed one only the headers are read; it is one part if it is
    not a sequence of independently compressed frames or blocks (`ms_codegeex.data.corpus.frames`)."""
    name = path.name.lower()
    bounds = [*range(0, size, part_bytes), size]
    if size > part_bytes and not name.endswith(".jsonl"):
        bounds = _packed_bounds(path, name, part_bytes)
    if len(bounds) < 3:
        return [ArchivePart(None, 0, size)]
    return [ArchivePart((start, end), 0, end - start) for start, end in itertools.pairwise(bounds)]


def _packed_bounds(path: Path | RemotePath, name: str, part_bytes: int) -> list[int]:
    """Bounds of parts of at least `part_bytes` (the last one may be smaller). Empty if there are none, or if finding
    them would take thousands of requests."""
    if isinstance(path, RemotePath):
        return []
    try:
        with open(path, "rb") as stream:
            offsets = frame_bounds(stream, name)
    except OSError:  # reported when the file is read
        return []
    bounds = [0]
    for bound in offsets or ():
        if bound - bounds[-1] >= part_bytes:
            bounds.append(bound)
    return bounds if not offsets or bounds[-1] == offsets[-1] else [*bounds, offsets[-1]]


def read_lines(
    path: Path | RemotePath, part: ArchivePart, limit: int
) -> Generator[tuple[int, bytes | Broken], None, int]:
    """Yield the lines of a part from `line_parts` with their numbers in it, from 1, without empty ones and the byte
    order mark of a file. Return the number of lines. Lines of more than `limit` bytes come as `Broken` and are not held
    in memory.
    """
    number, mark = 1, codecs.BOM_UTF8 if part.span is None or not part.span[0] else b""
    try:
        with open_input(path) as stream:
            for line in _part_lines(stream, path.name.lower(), part, limit):
                if isinstance(line, bytes):
                    line = line.removeprefix(mark)
                mark = b""
                if isinstance(line, Broken) or line.strip():
                    yield number, line
                number += not isinstance(line, Broken) or not line.problem
    except OSError as error:
        yield number, Broken("unreadable", error.strerror or str(error))
    return number - 1


def _part_lines(stream: BinaryIO, name: str, part: ArchivePart, limit: int) -> Iterator[bytes | Broken]:
    """The lines of a part, empty ones included."""
    packed = next((ending for ending in _PACKED if name.endswith(ending)), None)
    read = functools.partial(_pieces, size=_BLOCK) if packed is None else functools.partial(_unpack, packed=packed)
    if part.span is None:
        yield from _split(read(stream), limit, _Budget())
        return
    (start, end), budget = part.span, _Budget()

    def blocks() -> Iterator[bytes]:
        stream.seek(start)
        total, ends = 1, not start  # the line after the last byte counts
        for block in read(stream, end=end):
            total, ends = total + len(block), ends or b"\n" in block
            yield block
        budget.bytes = total
        if ends:  # otherwise all of it is part of one line, which an earlier part reads
            yield from read(stream)

    lines = _split(blocks(), limit, budget)
    if start:
        first = next(lines, b"")  # it started in an earlier part, which has it
        if isinstance(first, Broken) and first.problem:
            yield first
    yield from lines


@dataclass
class _Budget:
    """In how many unpacked bytes lines may start; infinite while that is not known."""

    bytes: float = math.inf


def _pieces(stream: BinaryIO, size: int, end: int | None = None) -> Iterator[bytes]:
    """The rest of a stream, up to the offset `end` if one is given."""
    while data := stream.read(size if end is None else min(size, end - stream.tell())):
        yield data


def _split(blocks: Iterator[bytes], limit: int, budget: _Budget) -> Iterator[bytes | Broken]:
    """Lines that start in the bytes of `blocks` that the budget covers; last, the reason if `blocks` ended early."""
    pending: list[bytes] = []  # the beginning of a line; no longer than `limit` and one block
    size = start = 0  # of that line: bytes so far, and its offset

    def line() -> bytes | Broken:
        if size > limit:
            return Broken("too large", f"longer than {limit} bytes", size, b"".join(pending)[:_HEAD], problem=False)
        return b"".join(pending)

    while start < budget.bytes:
        try:
            block = next(blocks, b"")
        except _Ended as error:
            yield Broken(*error.args, size, b"".join(pending)[:_HEAD])
            return
        if not block:
            break
        *ends, rest = block.split(b"\n")
        for end in ends:
            if start >= budget.bytes:
                return
            size += len(end)
            pending.append(end)
            yield line()
            start += size + 1
            pending, size = [], 0
        size += len(rest)
        pending.append(rest)
        if size > limit:
            pending = [b"".join(pending)[:_HEAD]]
    if size and start < budget.bytes:
        yield line()


def _unpack(stream: BinaryIO, packed: str, end: int | None = None) -> Iterator[bytes]:
    """The unpacked blocks of one or more compressed members up to the offset `end`; of a truncated file, what can be
    recovered."""
    from isal import isal_zlib
    from zstandard import ZstdDecompressor, ZstdError

    member = None
    for data in _pieces(stream, _PACKED[packed], end):
        while data:
            if member is None:
                data = data.lstrip(b"\0")  # tar and tapes pad with zeros
                if not data:
                    break
                gzip = packed == ".gz"
                member = isal_zlib.decompressobj(wbits=31) if gzip else ZstdDecompressor().decompressobj()
            try:
                block = member.decompress(data)
            except (isal_zlib.error, ZstdError) as error:
                raise _Ended("damaged archive", " ".join(str(error).split())) from error
            if block:
                yield block
            data = member.unused_data if member.eof else b""
            member = None if member.eof else member
    if member is not None:
        raise _Ended("truncated archive", "ends before the end of its compressed data")


# Rows


def row_parts(path: Path | RemotePath, part_bytes: int = PART_BYTES) -> list[ArchivePart] | Broken:
    """The row groups of a `.parquet` file as parts of about `part_bytes`, or why it cannot be read."""
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(_file(path)) as file:
            parts: list[ArchivePart] = []
            begin = first = rows = total = 0
            for group in range(file.metadata.num_row_groups):
                entry = file.metadata.row_group(group)
                rows += entry.num_rows
                total += sum(entry.column(column).total_compressed_size for column in range(entry.num_columns))
                if total >= part_bytes or group == file.metadata.num_row_groups - 1:
                    parts.append(ArchivePart((begin, group + 1), first, total))
                    begin, first, total = group + 1, rows, 0
            return parts
    except _faults() as error:
        return _arrow_problem(error)


def read_rows(
    path: Path | RemotePath, part: ArchivePart, columns: Callable[[Sequence[str]], Sequence[str]], batch_rows: int = 4
) -> Iterator[tuple[int, tuple | Broken]]:
    """Yield the rows of a part from `row_parts` with their numbers in the file, from 0. A row is a tuple in the order
    of the columns, which `columns` chooses from the names in the file; no other column is read. `batch_rows` rows are
    held in memory at once, in addition to what pyarrow holds of a row group: few, because a file of a kilobyte can hold
    a gigabyte of equal texts.

    Text and bytes come as bytes, unchecked; other values as Python objects. Damage ends its row group, not the part.
    """
    from pyarrow import parquet

    number = part.first
    try:
        with parquet.ParquetFile(_file(path), page_checksum_verification=True) as file:
            names = list(columns(file.schema_arrow.names))
            for group in range(*(part.span or (0, file.metadata.num_row_groups))):
                end = number + file.metadata.row_group(group).num_rows
                try:
                    for row in _group_rows(file, group, names, batch_rows):
                        yield number, row
                        number += 1
                except _faults() as error:  # later groups can still be read
                    problem = _arrow_problem(error)
                    lost = f"{end - number} rows from here on are lost: {problem.detail}"
                    yield number, replace(problem, detail=lost)
                number = end
    except _faults() as error:
        yield number, _arrow_problem(error)


def _faults() -> tuple[type[Exception], ...]:
    """What pyarrow raises for damaged files, and for names, texts and dates in them that Python cannot hold."""
    import pyarrow

    return (pyarrow.ArrowException, OSError, KeyError, ValueError, OverflowError)


def _file(path: Path | RemotePath) -> Any:
    return path.open() if isinstance(path, RemotePath) else path  # pyarrow reads a path without Python's file object


def _group_rows(file: Any, group: int, names: Sequence[str], batch_rows: int) -> Iterator[tuple]:
    if not names:
        yield from itertools.repeat((), file.metadata.row_group(group).num_rows)
    yield from zip(*(_column(file, group, name, batch_rows) for name in names), strict=True)


def _column(file: Any, group: int, name: str, batch_rows: int) -> Iterator[Any]:
    from pyarrow import types

    schema = file.schema_arrow
    if types.is_dictionary(schema.types[schema.names.index(name)]):
        batch_rows *= 64  # every batch has the whole dictionary, and equal rows are one object
    for batch in file.iter_batches(batch_rows, row_groups=[group], columns=[name], use_threads=False):
        yield from _values(batch.column(name))


def _values(column: Any) -> list:
    import pyarrow
    from pyarrow import types

    if types.is_dictionary(column.type):
        used = column.indices.unique()
        values = dict(zip(used.to_pylist(), _values(column.dictionary.take(used)), strict=True))
        return [values[index] for index in column.indices.to_pylist()]
    if types.is_string(column.type):
        column = column.cast(pyarrow.binary())  # no copy, and invalid UTF-8 does not stop the reader
    elif types.is_large_string(column.type):
        column = column.cast(pyarrow.large_binary())
    return column.to_pylist()


def _arrow_problem(error: Exception) -> Broken:
    if isinstance(error, OSError) and error.errno is not None:
        return Broken("unreadable", os.strerror(error.errno))
    return Broken("damaged archive", " ".join(str(error).split())[:200])
