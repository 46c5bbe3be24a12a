"""Units of input, each read by one worker, and the documents in them.

A unit is a batch of source files, a part of a `.jsonl` file or a few row groups of a `.parquet` file. Units are found
once, in an order that does not depend on the machine; each is then read independently, in any process.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ms_codegeex.base.json_reading import Malformed, parse_json
from ms_codegeex.data.corpus.archives import (
    ArchivePart,
    Broken,
    Returning,
    archive_kind,
    line_parts,
    read_lines,
    read_rows,
    row_parts,
)
from ms_codegeex.data.corpus.fields import Fault, Fields, RecordText
from ms_codegeex.data.corpus.filters import rejection, size_rejection
from ms_codegeex.data.corpus.licences import strip_licence
from ms_codegeex.data.corpus.redaction import redact
from ms_codegeex.data.corpus.remote import RemotePath
from ms_codegeex.data.corpus.settings import ReadingSettings
from ms_codegeex.data.corpus.sources import Root, SourceFile, search

_UNIT_BYTES, _UNIT_FILES = 8_000_000, 4096
_EXCERPT, _EXCERPT_HEAD = 200, 4096
_BLOCK = 1 << 20  # bytes


@dataclass(frozen=True)
class Document:
    """A text that is kept.

    Attributes:
        source: `label/relative/path` for a file, `label/x.jsonl:17` for line 17 (from 1; in a part of a file, from the
            part's first line), `label/x.parquet:17` for row 17 of the file (from 0).
        data: UTF-8, after redaction.
        language: canonical name, or empty if it is unknown and that is allowed.
        group: documents of a group stay in one split: the package of a file, the repository of a record, else `source`.
        redacted: the kinds of text that were replaced, and how often.
        licence_bytes: size of the licence headers that were left out.
    """

    source: str
    data: bytes
    language: str
    group: str
    redacted: tuple[tuple[str, int], ...] = ()
    licence_bytes: int = 0


@dataclass(frozen=True)
class Rejected:
    """Input that gives no document, and why.

    Attributes:
        source: as in `Document`; the identity of a file if no single line or row is meant.
        reason: short, from a fixed set.
        bytes: size of the lost input, as far as known.
        detail: one more line, for example the place at which the JSON is invalid.
        problem: the input is broken; otherwise a rule rejected it.
        excerpt: first characters of the text, at most 200.
    """

    source: str
    reason: str
    bytes: int
    detail: str = ""
    problem: bool = False
    excerpt: str = ""


@dataclass(frozen=True)
class Unit:
    """A piece of the input that one worker reads in one go.

    Attributes:
        name: unique and stable. It may hold slashes: a key, not a file name.
        bytes: of input, for progress.
        kind: `files`, `jsonl` or `parquet`.
        label: the identity of the archive, `label/x.jsonl`; empty for files.
        files: of kind `files`.
        path: of the archive.
        part, first: as `span` and `first` of `ms_codegeex.data.corpus.archives.ArchivePart`.
        stamp: size and modification time of the archive (files carry their own); a change makes its shard stale.
    """

    name: str
    bytes: int
    kind: str
    label: str = ""
    files: tuple[SourceFile, ...] = ()
    path: Path | RemotePath | None = None
    part: tuple[int, int] | None = None
    first: int = 0
    stamp: tuple = ()


def find_units(
    roots: Sequence[Root], reading: ReadingSettings, leave_out: Path | None = None
) -> tuple[list[Unit], list[Rejected], dict[str, int]]:
    """Everything to read below `roots` as units, in an order that depends only on the names.

    The directory `leave_out` is not searched. Source files come first, then archives. A file is opened, for its first
    bytes, only if its name does not decide its language.

    Returns:
        The units, the files rejected while searching, and the amount found: `files` and `bytes`.
    """
    found = search(roots, reading.languages, reading.all_text, leave_out)
    rejected = [Rejected(identity, reason, 0, problem=reason == "unreadable") for identity, reason in found.skipped]
    units = _file_units(found.sources)
    seen: Counter[str] = Counter()
    for file in found.archives:
        seen[file.identity] += 1  # names that are not UTF-8 may be printed alike
        name = file.identity if seen[file.identity] == 1 else f"{file.identity} ({seen[file.identity]})"
        parts = _parts(file)
        if isinstance(parts, Rejected):
            rejected.append(parts)
        else:
            units += [_archive_unit(file, name, part) for part in parts]
    files = [*found.sources, *found.archives]
    return units, rejected, {"files": len(files), "bytes": sum(file.size for file in files)}


def _file_units(sources: Iterable[SourceFile]) -> list[Unit]:
    """`sources` in order, in batches of a few megabytes."""
    units: list[Unit] = []
    batch: list[SourceFile] = []
    total = 0
    for file in sources:
        if batch and (total + file.size > _UNIT_BYTES or len(batch) == _UNIT_FILES):
            units.append(_file_unit(len(units), batch))
            batch, total = [], 0
        batch.append(file)
        total += file.size
    return [*units, _file_unit(len(units), batch)] if batch else units


def _file_unit(number: int, batch: Sequence[SourceFile]) -> Unit:
    size = sum(file.size for file in batch)  # each file carries its own modification time
    return Unit(f"files-{number:06d}", size, "files", files=tuple(batch))


def _parts(file: SourceFile) -> list[ArchivePart] | Rejected:
    if not file.size:
        return Rejected(file.identity, "empty", 0)
    if archive_kind(file.path.name) == "parquet":
        parts = row_parts(file.path)
        return _broken(file.identity, parts) if isinstance(parts, Broken) else parts
    return line_parts(file.path, file.size)


def _archive_unit(file: SourceFile, name: str, part: ArchivePart) -> Unit:
    if part.span is not None:
        name = f"{name} [{part.span[0]}, {part.span[1]})"
    kind = archive_kind(file.path.name) or ""
    stamp = (file.size, file.modified)
    return Unit(name, part.bytes, kind, file.identity, (), file.path, part.span, part.first, stamp)


def read_unit(unit: Unit, reading: ReadingSettings) -> Generator[Document | Rejected, None, int]:
    """Yield the documents of a unit in order, and the rejected input. Broken input is reported, never raised.

    Returns the number of lines in the unit's part of a `.jsonl` file: the numbering of the next part continues there.
    """
    if unit.path is None:
        for file in unit.files:
            yield _read_file(file, reading)
        return 0
    part = ArchivePart(unit.part, unit.first, unit.bytes)
    if unit.kind == "parquet":
        yield from _read_rows(unit.path, unit.label, part, reading)
        return 0
    return (yield from _read_lines(unit.path, unit.label, part, reading))


def _read_file(file: SourceFile, reading: ReadingSettings) -> Document | Rejected:
    limit = min(reading.rules.max_file_bytes, reading.max_line_bytes)
    try:
        data, size = _content(file, limit)
    except OSError as error:
        return Rejected(file.identity, "unreadable", file.size, error.strerror or "", problem=True)
    if data is None:
        return Rejected(file.identity, "too large", size, f"more than {limit} bytes")
    strip = reading.strip_licences != "none"
    return _judge(file.identity, RecordText(data, file.language, file.package), reading, strip)


def _content(file: SourceFile, limit: int) -> tuple[bytes | None, int]:
    """The content of a file, or None if it has more than `limit` bytes; and its size."""
    if isinstance(file.path, RemotePath):
        return (None, file.size) if file.size > limit else (file.path.read(file.size), file.size)
    return _local_content(file.path, limit)


def _local_content(path: Path, limit: int) -> tuple[bytes | None, int]:
    """The same. Faster than with a file object, which for small files takes most of the time."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size  # it may have grown since the search
        if size > limit:
            return None, size
        pieces = [os.read(descriptor, size + 1)]
        if len(pieces[0]) == size:
            return pieces[0], size
        while pieces[-1]:  # the file changes meanwhile, or is read in parts
            pieces.append(os.read(descriptor, _BLOCK))
        return b"".join(pieces), size
    finally:
        os.close(descriptor)


def _read_lines(
    path: Path | RemotePath, label: str, part: ArchivePart, reading: ReadingSettings
) -> Generator[Document | Rejected, None, int]:
    fields, opens = Fields(reading), part.span is None or not part.span[0]
    lines = Returning(read_lines(path, part, reading.max_line_bytes))
    for number, line in lines:
        source = f"{label}:{number}"
        if isinstance(line, Broken):
            yield _broken(source, line, reading)
            continue
        # The first line of a file may begin with a byte order mark.
        record = _parse(line, "utf-8-sig" if opens and number == 1 else "utf-8")
        if isinstance(record, Fault) and reading.redact:
            record = replace(record, data=b"")  # escapes hide secrets from redaction
        text = fields.read(record) if isinstance(record, dict) else record
        if isinstance(text, RecordText):
            yield _judge(source, text, reading, reading.strip_licences == "all")
        else:
            yield _fault(source, text, len(line), reading)
    return lines.value


def _parse(line: bytes, encoding: str) -> dict[str, Any] | Fault:
    """The JSON object in a line. Numbers that Python refuses and objects nested too deeply are invalid, too."""
    try:
        record = parse_json(line.decode(encoding), data=True)
    except UnicodeDecodeError as error:
        return Fault("not UTF-8", f"byte 0x{line[error.start]:02x} at column {error.start + 1}", True, line)
    except Malformed as error:
        return Fault("invalid JSON", str(error), True, line)
    if isinstance(record, dict):
        return record
    return Fault("no object", f"the line holds a value of type {type(record).__name__}", True, line)


def _read_rows(
    path: Path | RemotePath, label: str, part: ArchivePart, reading: ReadingSettings
) -> Iterator[Document | Rejected]:
    fields = Fields(reading)
    names: list[str] = []

    def choose(present: Sequence[str]) -> list[str]:
        names[:] = fields.needed(present)
        return [] if fields.text_missing(names) else names

    for number, row in read_rows(path, part, choose):
        source = f"{label}:{number}"
        if isinstance(row, Broken):
            yield _broken(source, row, reading)
            continue
        if not row:  # no row of this file has a text
            yield Rejected(label, "missing field", part.bytes, fields.text_missing(names), problem=True)
            return
        text = fields.read(dict(zip(names, row, strict=True)))
        if isinstance(text, Fault):
            yield _fault(source, text, len(text.data), reading)
        elif len(text.data) > reading.max_line_bytes:
            detail = f"more than {reading.max_line_bytes} bytes"
            yield Rejected(source, "too large", len(text.data), detail, excerpt=_excerpt(text.data, reading))
        else:
            yield _judge(source, text, reading, reading.strip_licences == "all")


def _judge(source: str, text: RecordText, reading: ReadingSettings, strip: bool) -> Document | Rejected:
    """Strip licence headers, apply the rules to the rest, then redact it."""
    data = strip_licence(text.data, text.language) if strip else text.data
    reason = size_rejection(len(data), reading.rules) or rejection(data, reading.rules, text.data)
    if reason is not None:
        return Rejected(source, reason, len(text.data), excerpt=_excerpt(text.data, reading))
    licence_bytes = len(text.data) - len(data)
    redacted: tuple[tuple[str, int], ...] = ()
    if reading.redact:
        data, redacted = redact(data, reading.redact)
    return Document(source, data, text.language, text.group or source, redacted, licence_bytes)


def _fault(source: str, fault: Fault, size: int, reading: ReadingSettings) -> Rejected:
    return Rejected(source, fault.reason, size, fault.detail, fault.problem, _excerpt(fault.data, reading))


def _broken(source: str, broken: Broken, reading: ReadingSettings | None = None) -> Rejected:
    hidden = reading is None or bool(reading.redact)  # escapes hide secrets from redaction
    excerpt = "" if hidden else _excerpt(broken.head, reading)
    return Rejected(source, broken.reason, broken.bytes, broken.detail, broken.reason != "too large", excerpt)


def _excerpt(data: bytes, reading: ReadingSettings) -> str:
    """The first characters for a report, redacted like the corpus."""
    head = data[:_EXCERPT_HEAD]
    if reading.redact:
        head, _ = redact(head, reading.redact)
    return head.decode("utf-8", "replace")[:_EXCERPT]
