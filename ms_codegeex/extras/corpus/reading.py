"""Units of input, each read by one worker, and the documents in them.

A unit is a batch of source files, or a part of a file of JSON or of a table. Units are found once, in an order that
does not depend on the machine. Each can then be read independently, in any process."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ms_codegeex.extras.corpus.detection import as_utf8
from ms_codegeex.extras.corpus.events import Event
from ms_codegeex.extras.corpus.fields import Fields, RecordText, decide_licence
from ms_codegeex.extras.corpus.filters import generator_of, rejection, size_rejection
from ms_codegeex.extras.corpus.licences import UNKNOWN, licences_in_comments, strip_licence
from ms_codegeex.extras.corpus.redaction import places, redact
from ms_codegeex.extras.corpus.settings import ReadingSettings
from ms_codegeex.extras.corpus.sources import FoundSources, Root, SourceFile, search
from ms_codegeex.extras.shared.records import ArchivePart, BadInput, ReturnKeeper, read_records, record_parts
from ms_codegeex.extras.shared.remote import RemotePath

UNKNOWN_LICENCE = "unknown licence, kept"
STRIPPED = "licence header left out"
SPECIAL = "a text has the name of a special token, which is read as plain text"
_OPENING, _SPECIAL = re.compile(rb"<\|"), re.compile(rb"<\|[\w./-]{1,40}\|>")  # the shorter is found in half the time
_UNIT_BYTES, _UNIT_FILES = 8_000_000, 4096
_EXCERPT, _EXCERPT_HEAD = 200, 4096
_MAX_LINES = 100  # line numbers listed for one text


class Document(NamedTuple):  # three times as fast to create as a dataclass
    """A text that is kept, in UTF-8 after redaction, with the number of replacements of each kind and the bytes of the
    licence headers that were removed. `language` is a canonical name, or empty if it is unknown and that is allowed.
    `source` is `label/relative/path` for a file, `label/x.jsonl:17` for line 17 (from 1; in a part of a file, from its
    first line), `label/x.parquet:17` for row 17 of the file (from 0). Documents of a `group` stay in one split: the
    package of a file, the repository of a record, else the source. `path` is the path of the file in its group, if it
    is known."""

    source: str
    data: bytes
    language: str
    group: str
    redacted: tuple[tuple[str, int], ...] = ()
    licence_bytes: int = 0
    licence: str = ""
    path: str = ""


@dataclass(frozen=True)
class Unit:
    """A piece of the input that one worker reads in one go: source files, or a part of one archive. `name` is unique
    and stable, and may contain slashes. A shard becomes stale if the size or the time of one of its files changes."""

    name: str
    files: tuple[SourceFile, ...]
    part: ArchivePart | None = None

    @property
    def held_out(self) -> bool:
        """Whether its documents are for validation."""
        return self.files[0].held_out

    @property
    def bytes(self) -> int:
        """Bytes of input, as the progress bar counts them."""
        return sum(file.size for file in self.files) if self.part is None else self.part.bytes


Listing = tuple[list[Unit], list[Event], dict[str, int]]
Search = Callable[[tuple[Root, ...], ReadingSettings, frozenset[Path]], Listing]
"""`find_units`, or the same with a cache, where the same places are searched more than once."""


def find_units(roots: Sequence[Root], reading: ReadingSettings, leave_out: frozenset[Path] = frozenset()) -> Listing:
    """Find everything to read below `roots`, except the paths `leave_out`. Return the units, in an order that depends
    only on their names, first those held out, then source files; the events of files that are not read or read for
    their records; and the amount found, `files` and `bytes`."""
    recognise, licences = Fields(reading).recognise, bool(reading.licences)
    listing = search(roots, reading.languages, recognise, reading.all_text, leave_out, licences)
    return units_of(listing, reading.redact)


def units_of(listing: FoundSources, redactions: Sequence[str] = ()) -> Listing:
    """Return the units of the files that a search found, and the rest as `find_units` returns it."""
    units, events = _file_units(listing.sources), [*listing.others]
    seen = Counter[str]()
    for file in listing.archives:
        seen[file.identity] += 1  # names that are not UTF-8 may be printed alike
        name = file.identity if seen[file.identity] == 1 else f"{file.identity} ({seen[file.identity]})"
        parts = record_parts(file.path, file.size) if file.size else BadInput("empty", problem=False)
        if isinstance(parts, BadInput):
            events.append(rejected(file.identity, parts, redactions))
            continue
        events.append(Event(file.identity, "archives", "files of records", bytes=file.size))
        for part in parts:
            suffix = "" if part.span is None else f" [{part.span[0]}, {part.span[1]})"
            units.append(Unit(name + suffix, (file,), part))
    units.sort(key=lambda unit: not unit.held_out)
    files = [*listing.sources, *listing.archives]
    return units, events, {"files": len(files), "bytes": sum(file.size for file in files)}


def _file_units(sources: Iterable[SourceFile]) -> list[Unit]:
    batches: list[list[SourceFile]] = []
    total = 0
    for file in sources:
        full = not batches or total + file.size > _UNIT_BYTES or len(batches[-1]) == _UNIT_FILES
        if full or batches[-1][0].held_out is not file.held_out:
            batches.append([])
            total = 0
        batches[-1].append(file)
        total += file.size
    return [Unit(f"files-{number:06d}", tuple(batch)) for number, batch in enumerate(batches)]


def read_unit(unit: Unit, reading: ReadingSettings) -> Generator[Document | Event, None, int]:
    """Yield the documents of a unit in order, and the events. Broken input is reported, never raised. Return the number
    of lines in a part of a `.jsonl` file, after which the numbering of the next part continues."""
    items = ReturnKeeper(_read_files(unit, reading) if unit.part is None else _read_records(unit, unit.part, reading))
    for item in items:
        yield item
        bar = item.data.find(b"|") if isinstance(item, Document) else -1  # far quicker than a search for `<|`
        opening = _OPENING.search(item.data, bar - 1) if bar >= 0 else None
        if opening and (found := _SPECIAL.search(item.data, opening.start())):
            yield Event(item.source, "noted", SPECIAL, found[0].decode())
    return items.value


def _read_files(unit: Unit, reading: ReadingSettings) -> Generator[Document | Event, None, int]:
    limit = min(reading.rules.max_file_bytes, reading.max_line_bytes)
    for file in unit.files:
        try:
            text = _read_file(file, limit)
            if reading.licences and isinstance(text, RecordText):
                named = licences_in_comments(as_utf8(text.data)[0], file.language)
                named = named or [file.licence][: bool(file.licence)]
                licence = decide_licence(named, reading, len(text.data), text.data)
                text = text._replace(licence=licence) if isinstance(licence, str) else licence
        except OSError as error:
            text = BadInput("unreadable", error.strerror or "", file.size)
        yield from _judge(file.identity, text, reading, reading.strip_licences != "none")
    return 0


def _read_file(file: SourceFile, limit: int) -> RecordText | BadInput:
    remote = isinstance(file.path, RemotePath)
    with contextlib.nullcontext() if remote else open(file.path, "rb", buffering=0) as stream:
        size = file.size if stream is None else os.fstat(stream.fileno()).st_size  # it may have grown since the search
        if size > limit:
            return BadInput("too large", f"more than {limit} bytes", size, problem=False)
        data = file.path.read(size) if stream is None else stream.readall()
    return RecordText(data, file.language, file.package, file.identity.removeprefix(f"{file.package}/"))


def _read_records(unit: Unit, part: ArchivePart, reading: ReadingSettings) -> Generator[Document | Event, None, int]:
    (file,), fields, limit = unit.files, Fields(reading), reading.max_line_bytes
    columns, rows, without = list[str](), 0, 0

    def choose(present: Sequence[str]) -> list[str]:
        columns[:] = present
        return [] if fields.text_missing(present) else fields.needed(present)

    records = ReturnKeeper(read_records(file.path, part, limit, choose))
    for number, record, line in records:
        source = f"{file.identity}:{number}"
        if isinstance(record, BadInput):  # redaction cannot find secrets behind escapes
            yield rejected(source, replace(record, head=b"") if reading.redact else record)
            continue
        if not record and not line:  # a row of a file without a text column
            without += 1
            continue
        text = fields.read(record)
        rows += 1
        if line:
            fields.count_unlisted(record, source)
        fields.count_others(record, source)
        if isinstance(text, BadInput):
            text = replace(text, bytes=len(line) or text.bytes)
        elif len(text.data) > limit:
            text = BadInput("too large", f"more than {limit} bytes", len(text.data), text.data, problem=False)
        yield from _judge(source, text, reading, reading.strip_licences == "all")
    if without:
        missing = fields.text_missing(columns)
        yield Event(file.identity, "problems", "missing field", missing, part.bytes, count=without)
    if rows:
        fields.count_unlisted(columns, file.identity, rows)
    for remark, (count, first) in fields.remarks.items():
        yield Event(first, "noted", remark, count=count)
    return records.value


def _judge(
    source: str, text: RecordText | BadInput, reading: ReadingSettings, strip: bool
) -> Iterator[Document | Event]:
    if isinstance(text, BadInput):
        yield rejected(source, text, reading.redact)
        return
    whole, encoding = as_utf8(text.data)
    data = strip_licence(whole, text.language) if strip else whole
    reason, program = size_rejection(len(data), reading.rules) or rejection(data, reading.rules), None
    if reason is None and not reading.rules.generated:
        program = generator_of(whole, text.path or source)
        reason = program and "generated"
    if reason is not None:
        detail, where = (program, "") if program else _matched(reason, data, whole)
        yield rejected(source, BadInput(reason, detail, len(whole), whole, problem=False), reading.redact, where)
        return
    gone, found = len(whole) - len(data), places(data, reading.redact) if reading.redact else []
    if gone:  # from the first character that differs
        pairs = enumerate(zip(whole, data, strict=False))
        where = _lines(whole, [next((at for at, (one, other) in pairs if one != other), len(data))])
    data, redacted = redact(data, reading.redact, found) if found else (data, ())
    yield Document(source, data, text.language, text.group or source, redacted, gone, text.licence, text.path)
    if text.licence == UNKNOWN:
        yield Event(source, "noted", UNKNOWN_LICENCE)
    if encoding:
        what = "byte order mark left out" if encoding == "utf-8" else f"converted from {encoding}"
        yield Event(source, "changed", what, bytes=len(text.data))
    if gone:
        yield Event(source, "changed", STRIPPED, "", gone, where)
    for kind, number in redacted:
        where = _lines(whole, (gone + start for start, _, other in found if other == kind))
        yield Event(source, "changed", f"replaced, {kind}", "", len(whole), where, number)


def _lines(text: bytes, offsets: Iterable[int]) -> str:
    numbers, end = [1], 0
    for offset in itertools.islice(offsets, _MAX_LINES):
        numbers.append(numbers[-1] + text.count(b"\n", end, offset))
        end = offset
    numbers = [*dict.fromkeys(numbers[1:])]
    return f"line{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _matched(reason: str, data: bytes, whole: bytes) -> tuple[str, str]:
    if reason == "long lines":
        longest = max(data.split(b"\n"), key=len)
        return f"a line of {len(longest)} bytes", _lines(whole, [whole.find(longest)])
    if reason == "binary":
        return "a zero byte", f"byte {whole.find(0)}"
    if reason == "not UTF-8":
        try:
            whole.decode()
        except UnicodeDecodeError as error:
            return f"byte 0x{whole[error.start]:02x}", _lines(whole, [error.start])
    return "", ""


def rejected(source: str, broken: BadInput, redactions: Sequence[str] = (), where: str = "") -> Event:
    """Return the event for `broken`, with the first characters of its text, redacted like the corpus."""
    head, _ = redact(broken.head[:_EXCERPT_HEAD], redactions)
    excerpt = head.decode("utf-8", "replace")[:_EXCERPT]
    kind = "problems" if broken.problem else "dropped"
    return Event(source, kind, broken.reason, broken.detail, broken.bytes, where, broken.count, excerpt)
