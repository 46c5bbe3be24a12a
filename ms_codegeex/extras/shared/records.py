"""Records in files of JSON, plain or compressed, and rows of Parquet and Arrow files, read in bounded memory.

A file of JSON holds one object per line, or arrays of objects, or objects that span several lines: its first bytes
decide. Broken input is returned, never raised, and everything before it is still read. Libraries do less: pyarrow's
readers lose the last block before damage, and zstandard's ends a truncated file without an error."""

from __future__ import annotations

import codecs
import contextlib
import functools
import io
import itertools
import math
import os
import re
import struct
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

from ms_codegeex.base.json_reading import MAX_NESTING, MalformedText, parse_json
from ms_codegeex.base.shipped import BEGINNINGS, shipped_table
from ms_codegeex.extras.shared.remote import RemotePath, open_input

T = TypeVar("T")
Choose = Callable[[Sequence[str]], Sequence[str]]  # the names of all columns -> those to read

ENDINGS = {f".{name}{packed}": "jsonl" for name in ("jsonl", "ndjson", "json") for packed in ("", ".gz", ".zst")}
ENDINGS |= dict.fromkeys((".parquet", ".parq", ".pq"), "parquet") | {".arrow": "arrow", ".feather": "arrow"}
"""Endings of the files that hold records, and their kinds."""

PART_BYTES = 32 << 20
"""Lines of JSON and `.parquet` files are split into parts of about this size, where compression allows it."""

_BLOCK = 1 << 20
# Packed bytes read at once. gzip expands them up to 1000 times, zstd to 128 KiB for every 4 bytes: 16 MiB at most.
_PACKED = {".gz": 4096, ".zst": 512}
_MAGICS = {b"\x1f\x8b": ".gz", b"(\xb5/\xfd": ".zst", b"{": "", b"[": ""}  # how files begin, whatever their names say
_HEAD = 1000
MAX_WINDOW = 2 << 30
"""Bytes of the largest zstd window that is unpacked: that of `zstd --long=31`. A frame needs as much memory."""
MAX_BATCH = 512 << 20  # bytes that a compressed batch of an Arrow file may unpack to
_FIRST_RECORD_BYTES = 16 << 20  # the most that `first_record` reads

# Frames are defined in RFC 8878, the blocks that `bgzip` writes in the SAM specification, section 4.1.
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_MAX_HEADER_BYTES = 18  # bytes of a frame's header
_RLE, _RESERVED = 1, 3  # types of blocks
_GZIP_BLOCK = struct.Struct("<4s6xH2sHH")  # a header whose first extra field is bgzip's

# An array, an object that spans lines, UTF-16, or compressed data whose file name does not say so.
_VALUES = re.compile(
    rb'(?:\xef\xbb\xbf)?\s*(?:\[\s*(?:[\[{"\]]|\Z)|\{[ \t\r]*\n)|\xff\xfe|\xfe\xff|\x1f\x8b|\(\xb5/\xfd'
)
_BLANK = b" \t\r\n" + codecs.BOM_UTF8
_LEVELS = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}
_MARKS = re.compile(rb'"[^"]*(")?|[\[\]{},]')


@dataclass(frozen=True)
class ArchivePart:
    """A piece of an archive. `span`: a range of bytes for lines, row groups [a, b) for Parquet, None for everything;
    `first`: the number of rows before it (Parquet); `bytes`: its size. A line belongs to the part with the byte before
    it, so later parts skip their first line."""

    span: tuple[int, int] | None
    first: int
    bytes: int


@dataclass(frozen=True)
class BadInput:
    """Input that gives no text: a reason from the fixed set, a line of detail, the bytes lost, and how they begin.
    `problem`: it is damaged or malformed; otherwise a rule rejects it. `count` records are lost."""

    reason: str
    detail: str = ""
    bytes: int = 0
    head: bytes = b""
    problem: bool = True
    count: int = 1


@dataclass
class ReturnKeeper(Generic[T]):
    """Iterates over a generator and keeps its return value."""

    generator: Generator[T, None, int]
    value: int = 0

    def __iter__(self) -> Iterator[T]:
        self.value = yield from self.generator


class _EarlyEnd(Exception):
    """The data ended early. The arguments are the reason and the detail of a `BadInput`."""


def archive_kind(name: str) -> str | None:
    """Return `jsonl`, `parquet` or `arrow` for a file name with one of `ENDINGS` in any case, otherwise None."""
    name = name.lower()
    return next((kind for ending, kind in ENDINGS.items() if name.endswith(ending)), None)


def record_parts(path: Path | RemotePath, size: int, part_bytes: int = PART_BYTES) -> list[ArchivePart] | BadInput:
    """Divide a file of records, of `size` bytes, into independent parts, or return why it cannot be read."""
    kind = archive_kind(path.name)
    with contextlib.suppress(OSError), path.open("rb") if isinstance(path, Path) else io.BytesIO() as stream:
        head = stream.read(_HEAD)
        for row in shipped_table(BEGINNINGS):
            if row.get("records") and re.match(row["begins"].encode(), head):
                return BadInput("damaged archive", f"it {row['said']}", size)
        if packed := next((packed for magic, packed in _MAGICS.items() if head.startswith(magic)), None):
            stream.seek(0)
            with contextlib.suppress(_EarlyEnd):
                if next(_unpack(stream, packed=packed), b"").startswith(
                    tuple(magic for magic, kind in _MAGICS.items() if kind)
                ):
                    return BadInput("packed twice", "", size)
    if kind == "arrow":
        return [ArchivePart(None, 0, size)]
    return row_parts(path, part_bytes) if kind == "parquet" else line_parts(path, size, part_bytes)


def read_records(
    path: Path | RemotePath, part: ArchivePart, limit: int, columns: Choose | None = None
) -> Generator[tuple[int, dict[str, Any] | BadInput, bytes], None, int]:
    """Yield the records of a part from `record_parts`, each with its number and, for JSON, its bytes. Lines are
    numbered from 1 in their part, elements of arrays from 1, rows from 0 in the file. Return the number of lines, by
    which the numbers of the next part are greater (0 for rows). A JSON record longer than `limit` bytes is `BadInput`.
    `columns` chooses the columns of a table to read, whose texts then come as unchecked bytes. None: all columns are
    read, and texts come as `str`."""
    if archive_kind(path.name) not in ("parquet", "arrow"):
        lines = ReturnKeeper(read_lines(path, part, limit))
        for number, line in lines:
            yield (number, line, line.head) if isinstance(line, BadInput) else (number, _parse(line), line)
        return lines.value
    names: list[str] = []

    def choose(present: Sequence[str]) -> list[str]:
        names[:] = present if columns is None else columns(present)
        return names

    for number, row in read_rows(path, part, choose):
        if isinstance(row, tuple):
            row = dict(zip(names, row if columns else map(_text, row), strict=True))
        yield number, row, b""
    return 0


def first_record(path: Path | RemotePath) -> dict[str, Any] | None:
    """Return the first record of a file (in JSON, of at most 16 MiB), or None if the file does not begin with one."""
    parts = record_parts(path, 0) if archive_kind(path.name) == "parquet" else [ArchivePart(None, 0, 0)]
    records = () if isinstance(parts, BadInput) else read_records(path, parts[0], _FIRST_RECORD_BYTES)
    record = next((record for _, record, _ in records), None)
    return record if isinstance(record, dict) else None


def _parse(line: bytes) -> dict[str, Any] | BadInput:
    try:
        record = parse_json(line, data=True)
    except MalformedText as problem:
        try:
            line.decode()
        except UnicodeDecodeError as error:
            detail = f"byte 0x{line[error.start]:02x} at column {error.start + 1}"
            return BadInput("not UTF-8", detail, len(line), line)
        comma = " (the line ends in a comma)" if line.rstrip().endswith(b",") else ""
        return BadInput("invalid JSON", f"{problem}{comma}", len(line), line)
    if isinstance(record, dict):
        return record
    return BadInput("no object", f"found a value of type {type(record).__name__}", len(line), line)


def _text(value: Any) -> Any:
    with contextlib.suppress(UnicodeDecodeError):  # then it stays bytes, which are refused where a text is needed
        return value.decode() if isinstance(value, bytes) else value
    return value


def line_parts(path: Path | RemotePath, size: int, part_bytes: int = PART_BYTES) -> list[ArchivePart]:
    """Divide a JSON file of `size` bytes into parts. It stays in one part if it does not hold lines, or if it is
    compressed and not a sequence of independently compressed frames or blocks."""
    name = path.name.lower()
    bounds = [*range(0, size, part_bytes), size]
    if size > part_bytes and name.endswith(tuple(_PACKED)):
        bounds = _packed_bounds(path, name, part_bytes)
    divided = len(bounds) > 2
    with contextlib.suppress(OSError), open_input(path) if divided else contextlib.nullcontext() as stream:
        divided = stream is not None and _holds_lines(stream, name)
    if not divided:
        return [ArchivePart(None, 0, size)]
    return [ArchivePart((start, end), 0, end - start) for start, end in itertools.pairwise(bounds)]


def _holds_lines(stream: BinaryIO, name: str) -> bool:
    try:
        return _VALUES.match(next(_blocks(name)(stream), b"")) is None
    except _EarlyEnd:  # reported when the file is read
        return True
    finally:
        stream.seek(0)


def _packed_bounds(path: Path | RemotePath, name: str, part_bytes: int) -> list[int]:
    """Return bounds of parts of at least `part_bytes` (the last one may be smaller), where frames (.zst) or blocks
    (.gz) start. Empty unless all are complete, and for a URL, where finding them would take thousands of requests."""
    bounds, size = [0], -1
    if isinstance(path, Path):
        # An error is reported when the file is read; `struct.error`: it ends within a header.
        with contextlib.suppress(OSError, struct.error), open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            for bound in _zstd_frames(stream) if name.endswith(".zst") else _gzip_blocks(stream):
                if bound - bounds[-1] >= part_bytes or bound == size:
                    bounds.append(bound)
    return bounds if bounds[-1] == size else []


def read_lines(
    path: Path | RemotePath, part: ArchivePart, limit: int
) -> Generator[tuple[int, bytes | BadInput], None, int]:
    """Yield the lines of a part from `line_parts`, numbered from 1 in the part, without empty ones and the byte order
    mark of a file; for arrays, their elements. Return the number of lines. Lines of more than `limit` bytes come as
    `BadInput` and are not held in memory."""
    number, mark = 1, codecs.BOM_UTF8 if part.span is None or not part.span[0] else b""
    try:
        with open_input(path) as stream:
            for line in _part_lines(stream, path.name.lower(), part, limit):
                lost = isinstance(line, BadInput)
                line, mark = line if lost or not mark else line.removeprefix(mark), b""
                if lost or line.strip():
                    yield number, line
                number += not (lost and line.problem)
    except OSError as error:
        yield number, BadInput("unreadable", error.strerror or str(error))
    return number - 1


def _part_lines(stream: BinaryIO, name: str, part: ArchivePart, limit: int) -> Iterator[bytes | BadInput]:
    if part.span is None:
        head = stream.read(4)
        stream.seek(0)
        name = next((packed for magic, packed in _MAGICS.items() if head.startswith(magic)), name)
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            yield BadInput("not UTF-8", "the file is in UTF-16", part.bytes, head)
            return
    read = _blocks(name)
    if part.span is None:
        lines = _holds_lines(stream, name)
        yield from _split(read(stream), limit) if lines else _elements(read(stream), limit)
        return
    (start, end), covered = part.span, math.inf

    def blocks() -> Iterator[bytes]:
        nonlocal covered
        stream.seek(start)
        total, ends = 1, not start  # a line right after the last byte belongs here
        for block in read(stream, end=end):
            total, ends = total + len(block), ends or b"\n" in block
            yield block
        covered = total
        if ends:  # otherwise it is all one line, which an earlier part reads
            yield from read(stream)

    lines = _split(blocks(), limit, lambda: covered)
    if start:
        first = next(lines, b"")  # started in an earlier part, which reads it
        if isinstance(first, BadInput) and first.problem:
            yield first
    yield from lines


def _blocks(name: str) -> Callable[..., Iterator[bytes]]:
    packed = next((ending for ending in _PACKED if name.endswith(ending)), None)
    return functools.partial(_pieces, size=_BLOCK) if packed is None else functools.partial(_unpack, packed=packed)


def _pieces(stream: BinaryIO, size: int, end: int | None = None) -> Iterator[bytes]:
    while data := stream.read(size if end is None else min(size, end - stream.tell())):
        yield data


class _RecordBuffer:
    """A line or value that is being read, of which at most `limit` bytes and one block are held. `size` is its length
    so far. Bytes in `skip` are removed from its beginning."""

    def __init__(self, limit: int, skip: bytes = b"") -> None:
        self._limit, self._skip, self._pieces, self.size = limit, skip, list[bytes](), 0

    def add(self, piece: bytes) -> None:
        piece = piece if self.size else piece.lstrip(self._skip)
        self._pieces.append(piece)
        self.size += len(piece)
        if self.size > self._limit:
            self._pieces = [self.head]

    @property
    def head(self) -> bytes:
        return b"".join(self._pieces)[:_HEAD]

    def take(self, last: bytes = b"") -> bytes | BadInput:
        """End the record with the bytes `last` and return it, or `BadInput` if it is too long."""
        if last and not self.size and len(last) <= self._limit:
            return last
        self.add(last)
        pieces, size = self._pieces, self.size
        self._pieces, self.size = [], 0
        if size > self._limit:
            return BadInput("too large", f"longer than {self._limit} bytes", size, pieces[0], problem=False)
        return b"".join(pieces)


def _split(
    blocks: Iterator[bytes], limit: int, covered: Callable[[], float] = lambda: math.inf
) -> Iterator[bytes | BadInput]:
    """Yield the lines that start in the first `covered()` bytes of `blocks` (infinite while unknown) and, if `blocks`
    ended early, the reason."""
    line, start = _RecordBuffer(limit), 0  # the offset of the line
    while start < covered():
        try:
            block = next(blocks, b"")
        except _EarlyEnd as error:
            yield BadInput(*error.args, line.size, line.head)
            return
        if not block:
            break
        bound, at = covered(), 0
        while (end := block.find(b"\n", at)) >= 0:  # for lines of 1 kB or more, twice as fast as `split`
            if start >= bound:
                return
            start += line.size + end - at + 1
            yield line.take(block[at:end])
            at = end + 1
        line.add(block[at:])
    if line.size and start < covered():
        yield line.take()


def _elements(blocks: Iterable[bytes], limit: int) -> Iterator[bytes | BadInput]:
    """Yield the elements of arrays, and objects outside of arrays, as bytes and, if they end early, the reason. Only
    strings, brackets and commas are followed; whether an element is JSON is for the parser to decide."""
    value, start, depth, count = _RecordBuffer(limit, _BLANK), 0, 0, 1
    line, counted = 1, 0  # line number, and where counting continues in this block
    array = comma = False  # whether inside an array, and after a comma in it
    try:
        for block, at, sign in _structure(blocks):
            opens = sign == b"[" and not depth
            depth = max(depth + _LEVELS.get(sign, 0), 0)
            if depth > MAX_NESTING + 1:
                raise _EarlyEnd(
                    "invalid JSON", f"record {count} is nested deeper than {MAX_NESTING} levels: not read further"
                )
            if not (opens or (not depth and sign in (b"]", b"}")) or (sign == b"," and array and depth == 1)):
                if not sign:  # the block ends
                    value.add(block[start:])
                    line += block.count(b"\n", counted)
                    start = counted = 0
                continue
            value.add(block[start : at - (opens or array)])
            line, start, counted = line + block.count(b"\n", counted, at), at, at
            element = value.take()
            if isinstance(element, BadInput) or (element := element.rstrip(_BLANK)):
                yield element
                count += 1
            elif array and (comma or sign == b","):
                yield BadInput("invalid JSON", f"a comma without a record, after record {count - 1}, in line {line}")
            array, comma = opens or (array and sign == b","), sign == b","
        if value.size and depth <= array:  # complete, though a bracket may be missing
            yield value.take()
        if depth:
            what = "array" if array else "object"
            raise _EarlyEnd("truncated archive", f"the {what} is not closed: the file ends in line {line}")
    except _EarlyEnd as error:
        yield BadInput(*error.args, value.size, value.head)


def _structure(blocks: Iterable[bytes]) -> Iterator[tuple[bytes, int, bytes]]:
    string = escaped = False
    for block in blocks:
        # With escaped characters blanked out, each quote begins or ends a string.
        plain = (b"_" + block[1:] if escaped else block).replace(b"\\\\", b"__").replace(b'\\"', b"__")
        escaped = plain.endswith(b"\\")
        at = plain.find(b'"') + 1 if string else 0
        if not string or at:
            string = False
            for mark in _MARKS.finditer(plain, at):
                if plain[mark.start()] != ord('"'):
                    yield block, mark.end(), mark[0]
                elif mark[1] is None:
                    string = True
        yield block, len(block), b""


def _unpack(stream: BinaryIO, packed: str, end: int | None = None) -> Iterator[bytes]:
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
                zstd = ZstdDecompressor(max_window_size=MAX_WINDOW)
                member = isal_zlib.decompressobj(wbits=31) if gzip else zstd.decompressobj()
            try:
                block = member.decompress(data)
            except (isal_zlib.error, ZstdError) as error:
                if "too much memory" in str(error):
                    limit = f"{MAX_WINDOW >> 30} GiB, the most that is read; pack it with `zstd --long=31` or less"
                    raise _EarlyEnd("window too large", f"its zstd window is larger than {limit}") from error
                raise _EarlyEnd("damaged archive", " ".join(str(error).split())) from error
            if block:
                yield block
            data = member.unused_data if member.eof else b""
            member = None if member.eof else member
    if member is not None:
        raise _EarlyEnd("truncated archive", "ends before the end of its compressed data")


def _zstd_frames(stream: BinaryIO) -> Iterator[int]:
    import zstandard

    while head := stream.read(_MAX_HEADER_BYTES):
        start, (magic, size) = stream.tell() - len(head), struct.unpack_from("<II", head)
        if magic in _SKIPPABLE:
            stream.seek(start + 8 + size)
        else:
            try:
                stream.seek(start + zstandard.frame_header_size(head))
                checksum = 4 if zstandard.get_frame_parameters(head).has_checksum else 0
            except zstandard.ZstdError:
                return
            is_last = False
            while not is_last:
                low, high = struct.unpack("<HB", stream.read(3))
                header = low | high << 16
                is_last, kind = bool(header & 1), header >> 1 & 3
                if kind == _RESERVED:
                    return
                stream.seek(1 if kind == _RLE else header >> 3, os.SEEK_CUR)
            stream.seek(checksum, os.SEEK_CUR)
        yield stream.tell()


def _gzip_blocks(stream: BinaryIO) -> Iterator[int]:
    while data := stream.read(_GZIP_BLOCK.size):
        magic, extra, name, length, rest = _GZIP_BLOCK.unpack(data)
        if magic != b"\x1f\x8b\x08\x04" or (name, length) != (b"BC", 2) or extra < 6 or rest < _GZIP_BLOCK.size:
            return
        stream.seek(rest + 1 - _GZIP_BLOCK.size, os.SEEK_CUR)
        yield stream.tell()


def row_parts(path: Path | RemotePath, part_bytes: int = PART_BYTES) -> list[ArchivePart] | BadInput:
    """Return the row groups of a `.parquet` file as parts of about `part_bytes`, or why it cannot be read."""
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
    path: Path | RemotePath, part: ArchivePart, columns: Choose, batch_rows: int = 4
) -> Iterator[tuple[int, tuple | BadInput]]:
    """Yield the rows of a part from `record_parts`, numbered from 0 in the file. A row is a tuple in the order of the
    columns that `columns` chooses from the names in the file; no other column is read. Text and bytes come as unchecked
    bytes, other values as Python objects. Damage ends its row group, not the part. `batch_rows` rows are held in memory
    at once, in addition to what pyarrow holds: a file of a kilobyte can hold a gigabyte of equal texts."""
    from pyarrow import parquet

    number = part.first
    try:
        if archive_kind(path.name) == "arrow":
            for row in _arrow_rows(path, columns, batch_rows):
                yield number, row
                number += 1
            return
        with parquet.ParquetFile(_file(path), page_checksum_verification=True) as file:
            names = list(columns(file.schema_arrow.names))
            for group in range(*(part.span or (0, file.metadata.num_row_groups))):
                end = number + file.metadata.row_group(group).num_rows
                try:
                    rows = zip(*(_column(file, group, name, batch_rows) for name in names), strict=True)
                    for row in rows if names else itertools.repeat((), end - number):
                        yield number, row
                        number += 1
                except _faults() as error:  # later groups can still be read
                    problem = _arrow_problem(error)
                    lost = f"{end - number} rows from here on are lost: {problem.detail}"
                    yield number, replace(problem, detail=lost, count=end - number)
                number = end
    except _faults() as error:
        yield number, _arrow_problem(error)


def _arrow_rows(path: Path | RemotePath, columns: Choose, batch_rows: int) -> Iterator[tuple]:
    """Yield the rows of a file in Arrow's IPC format: a stream (as `datasets` writes it) or a file for random access
    (Feather), which is a stream with a table of contents after it. Bounds in the file are checked before they are
    followed. A batch is held as a whole only if it is compressed; it may then unpack to `MAX_BATCH`."""
    import pyarrow
    from pyarrow import ipc

    with pyarrow.PythonFile(path.open()) if isinstance(path, RemotePath) else pyarrow.memory_map(str(path)) as file:
        magic = file.read(6)
        if magic.startswith(b"FEA1"):
            raise ValueError("Feather's version 1, which is not read; write the table as Parquet")

        def opened(opener: Callable[..., Any], **options: Any) -> Any:
            file.seek(8 if magic == b"ARROW1" else 0)
            return opener(file, **options)

        for number, message in enumerate(opened(ipc.MessageReader.open_stream)):
            if (size := _unpacked_size(message)) > MAX_BATCH:
                limit = f"at most {MAX_BATCH >> 20} MiB are read; write smaller batches, or Parquet"
                raise ValueError(f"message {number} of the file unpacks to {size >> 20} MiB, {limit}")
        names = opened(ipc.open_stream).schema.names
        chosen = list(columns(names))
        options = ipc.IpcReadOptions(included_fields=[names.index(name) for name in chosen])
        for batch in opened(ipc.open_stream, options=options):
            batch.validate(full=True)
            for start in range(0, batch.num_rows, batch_rows):
                rows = batch.slice(start, batch_rows)
                values = [_values(rows.column(name)) for name in chosen]
                yield from zip(*values, strict=True) if chosen else itertools.repeat((), rows.num_rows)
        file.seek(file.size() - 6)
        if magic == b"ARROW1" and file.read(6) != magic:
            raise ValueError("the file ends before its table of contents")


def _unpacked_size(message: Any) -> int:
    """Return the bytes to which the compressed buffers of an Arrow IPC message unpack, by the lengths at their start.
    pyarrow has verified the tables, whose fields are found through lists of offsets (Arrow's Message.fbs)."""
    metadata, body = message.metadata.to_pybytes(), message.body

    def number(form: str, at: int) -> int:
        return struct.unpack_from(form, metadata, at)[0]

    def field(table: int, index: int) -> int:
        offsets = table - number("<i", table)
        return number("<H", offsets + 4 + 2 * index) if 4 + 2 * index < number("<H", offsets) else 0

    def follow(table: int, index: int) -> int:
        at = table + field(table, index)
        return at + number("<I", at)

    root = number("<I", 0)
    if message.type not in ("dictionary", "record batch"):
        return 0
    batch = follow(root, 2) if message.type == "record batch" else follow(follow(root, 2), 1)
    if not field(batch, 3):  # not compressed
        return 0
    buffers = follow(batch, 2)
    pairs = struct.iter_unpack("<qq", metadata[buffers + 4 : buffers + 4 + 16 * number("<I", buffers)])
    sizes = (body[offset : offset + 8].to_pybytes() for offset, length in pairs if length >= 8)
    return sum(max(int.from_bytes(size, "little", signed=True), 0) for size in sizes)


def _faults() -> tuple[type[Exception], ...]:
    import pyarrow

    known = (OSError, KeyError, ValueError, OverflowError, RecursionError, struct.error, IndexError)
    return (pyarrow.ArrowException, *known)


def _file(path: Path | RemotePath) -> Any:
    return path.open() if isinstance(path, RemotePath) else path  # pyarrow reads a path without Python's file object


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


def _arrow_problem(error: Exception) -> BadInput:
    if isinstance(error, OSError) and error.errno is not None:
        return BadInput("unreadable", os.strerror(error.errno))
    return BadInput("damaged archive", " ".join(str(error).split())[:200])
