"""What one worker reads: units of input, and the documents in them.

A unit is a batch of source files, a part of a `.jsonl` file or some row groups of a `.parquet` file. Units are found
once, in an order that does not depend on the machine; each is then read on its own, in any process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ms_codegeex.data.corpus import Root, SourceFile, find_sources
from ms_codegeex.data.filters import Rules, rejection, size_rejection
from ms_codegeex.data.languages import LANGUAGES, find_language
from ms_codegeex.errors import UserError

REDACTIONS = ("email", "secrets")
_UNIT_BYTES, _UNIT_FILES = 8_000_000, 4096
_EXCERPT = 200


@dataclass(frozen=True)
class Document:
    """One text that is kept.

    Attributes:
        source: `label/relative/path` of a file, `label/x.jsonl:17` of line 17 (from 1), `label/x.parquet:17` of row 17
            (from 0).
        data: UTF-8, after redaction.
        language: canonical name, or empty where none is known and that is allowed.
        group: what must stay together in the split: the package of a file, the repository of a record, else `source`.
        redacted: kinds of what was replaced and how often.
    """

    source: str
    data: bytes
    language: str
    group: str
    redacted: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Rejected:
    """What is not a document, and why.

    Attributes:
        source: as in `Document`; a path's identity where no line or row is meant.
        reason: short, of a fixed set.
        bytes: size of what is lost, as far as known.
        detail: one line more, for example where the JSON is wrong.
        problem: the input is broken; otherwise a rule decided.
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
    """A piece of the input that one worker reads at once.

    Attributes:
        name: unique and stable; may hold slashes, so it is a key and no file name.
        bytes: of input, for progress.
        kind: `files`, `jsonl` or `parquet`.
        label: the identity of the archive, `label/x.jsonl`; empty for files.
        files: of kind `files`.
        path: of the archive.
        part: plain jsonl: byte range, the lines that start in it; parquet: row groups [a, b); None: everything.
        first: plain jsonl: number of newlines before `part`; parquet: number of rows before it.
        stamp: changes when sizes or times of change of what is read change: then a finished result is stale.
    """

    name: str
    bytes: int
    kind: str
    label: str = ""
    files: tuple[SourceFile, ...] = ()
    path: Path | None = None
    part: tuple[int, int] | None = None
    first: int = 0
    stamp: tuple = ()


@dataclass(frozen=True)
class Reading:
    """How input is read; everything that decides which documents there are.

    Attributes:
        languages: wanted, names or aliases, made canonical; empty: the 23 training languages.
        rules: when a text is dropped.
        text_field: of a record; None: the first of `text`, `code`, `content` that it has.
        language_field: None: the first of `language`, `lang`, `programming_language`.
        licence_field: None: the first of `license`, `licence`, `licenses`, `max_stars_repo_licenses`.
        licences: allowed for records, any case; all that a record names must be among them. Empty: no condition.
            Source files name none and are not concerned.
        path_field: decides the language by its ending where no field names it; None: the first of `path`,
            `max_stars_repo_path`, `file_name`.
        group_field: None: the first of `repo_name`, `max_stars_repo_name`, `repository`.
        redact: of `email`, `secrets`.
        all_text: take documents of no known language as well, with an empty language.
        max_line_bytes: longer lines, rows and files are "too large" and never held in memory.
    """

    languages: tuple[str, ...] = ()
    rules: Rules = field(default_factory=Rules)
    text_field: str | None = None
    language_field: str | None = None
    licence_field: str | None = None
    licences: tuple[str, ...] = ()
    path_field: str | None = None
    group_field: str | None = None
    redact: tuple[str, ...] = ()
    all_text: bool = False
    max_line_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        chosen = {find_language(name).name for name in self.languages}
        ordered = tuple(item.name for item in LANGUAGES if not chosen or item.name in chosen)
        object.__setattr__(self, "languages", ordered)
        object.__setattr__(self, "licences", tuple(sorted({name.strip().lower() for name in self.licences})))
        unknown = [name for name in self.redact if name not in REDACTIONS]
        if unknown:
            raise UserError(f"redact {unknown[0]!r}: expected some of {', '.join(REDACTIONS)}")
        object.__setattr__(self, "redact", tuple(name for name in REDACTIONS if name in self.redact))
        if self.max_line_bytes < 1:
            raise UserError(f"max_line_bytes {self.max_line_bytes}: expected 1 or more")


def find_units(roots: Sequence[Root], reading: Reading) -> tuple[list[Unit], list[Rejected], dict[str, int]]:
    """Everything to read below `roots`, cut into units, in an order that depends on the names alone.

    Returns:
        The units, what was rejected while searching, and how much was found: `files` and `bytes`.
    """
    sources, unreadable = find_sources(roots, reading.languages)
    rejected = [Rejected(path, "unreadable", 0, problem=True) for path in unreadable]
    return _file_units(sources), rejected, {"files": len(sources), "bytes": sum(file.size for file in sources)}


def _file_units(sources: Iterable[SourceFile]) -> list[Unit]:
    """`sources` in order, cut into batches of some megabytes."""
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
    stamp = hashlib.sha256()
    for file in batch:
        stamp.update(f"{file.identity}\0{file.language}\0{file.size}\n".encode())
    size = sum(file.size for file in batch)
    return Unit(f"files-{number:06d}", size, "files", files=tuple(batch), stamp=(stamp.hexdigest(),))


def read_unit(unit: Unit, reading: Reading) -> Iterator[Document | Rejected]:
    """The documents of a unit in order, and what in it is none. Broken input is told, never raised."""
    for file in unit.files:
        yield _read_file(file, reading)


def _read_file(file: SourceFile, reading: Reading) -> Document | Rejected:
    reason = size_rejection(file.size, reading.rules)
    if reason is not None:
        return Rejected(file.identity, reason, file.size)
    try:
        data = file.path.read_bytes()
    except OSError as error:
        return Rejected(file.identity, "unreadable", file.size, error.strerror or "", problem=True)
    reason = rejection(data, reading.rules)
    if reason is not None:
        return Rejected(file.identity, reason, len(data), excerpt=data[:_EXCERPT].decode("utf-8", "replace"))
    return Document(file.identity, data, file.language, file.package)
