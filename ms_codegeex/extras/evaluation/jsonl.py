"""JSONL files that survive a kill: rows are appended and synced; opening removes a torn last line."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError, remedy_of
from ms_codegeex.base.files import atomic_file
from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.base.reading import check_regular, read_stream
from ms_codegeex.extras.corpus.events import remedies
from ms_codegeex.extras.shared.records import ENDINGS, ArchivePart, BadInput, archive_kind, read_records

MAX_FILE_BYTES = 8 << 30
MAX_PIPE_BYTES = 1 << 30
MAX_RECORD_BYTES = 256 << 20  # a record may be the log of a whole evaluation
MAX_LEVELS, MAX_NAMES = 6, 20_000  # limits of a search for files


def encode(row: Mapping[str, Any]) -> bytes:
    """Return a row as one line. Lone surrogates, which a model may write, are kept as escapes."""
    return json.dumps(row).encode("ascii") + b"\n"


def record_files(directory: Path) -> list[Path]:
    """Return the files of records in a directory and up to `MAX_LEVELS` levels below it, nearest first, without hidden
    ones. For a repository in Hugging Face's cache, they are those of its main revision."""
    main = directory / "refs" / "main"
    if main.is_file() and (revision := directory / "snapshots" / main.read_text("utf-8", "replace").strip()).is_dir():
        directory = revision
    level, found, left, seen = [directory], list[Path](), MAX_NAMES, {os.path.realpath(directory)}
    for _ in range(1 + MAX_LEVELS):
        folders = list[Path]()
        for folder in level:
            try:
                names = sorted(name for name in os.listdir(folder) if name[0] != ".")[:left]
            except OSError:  # a directory without permission to read
                names = []
            left -= len(names)
            for path in (folder / name for name in names):
                if path.is_dir() and (real := os.path.realpath(path)) not in seen:
                    seen.add(real)
                    folders.append(path)
                elif archive_kind(path.name):
                    found.append(path)
        level = folders
    return found


@contextmanager
def readable_again(path: Path) -> Iterator[Path]:
    """Yield the path, or for a pipe such as bash's `<(command)` a copy of its content, to read it again."""
    if not path.is_fifo():
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        (copy := Path(folder, "pipe")).write_bytes(read_stream(path, MAX_PIPE_BYTES))
        try:
            yield copy
        except UserError as error:
            raise UserError(str(error).replace(str(copy), str(path))) from None


def stem(path: Path) -> str:
    return next((path.name[: -len(end)] for end in ENDINGS if path.name.lower().endswith(end)), path.name)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the objects in a file of records. Raises `UserError`, naming file and line, for anything else in it."""
    return [row for _, row in numbered_rows(path)]


def numbered_rows(path: Path, maximum: int = MAX_FILE_BYTES) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of `read_rows`, each with its number."""
    for number, row in entries(path, maximum):
        if isinstance(row, UserError):
            raise row
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: found {type(row).__name__}, expected an object")
        yield number, row


def entries(path: Path, maximum: int = MAX_FILE_BYTES) -> Iterator[tuple[int, Any]]:
    """Yield the values in a file of JSON (lines, arrays or objects; plain, .gz, .zst), or the rows of Parquet or Arrow.
    Each has a number: lines and array elements count from 1, rows of tables from 0. A broken value is yielded as a
    `UserError`. One is raised if there is no such file, or if it has more than `maximum` bytes of records."""
    try:
        check_regular(os.stat(path), path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror}); {remedy_of(error, 'give another file')}") from None
    unpacking = remedies("unpacked").get(path.suffix)
    if unpacking and not archive_kind(path.name) and (path.suffix != ".gz" or path.stem.endswith(".tar")):
        raise UserError(f"{path}: {path.suffix} is not read; {unpacking.replace('FILE', str(path))}")
    size = 0
    for number, value, line in read_records(path, ArchivePart(None, 0, 0), MAX_RECORD_BYTES):
        texts = value.values() if isinstance(value, dict) else ()
        size += len(line) or sum(len(each) for each in texts if isinstance(each, str))
        if size > maximum:
            raise UserError(f"{path}: more than {maximum >> 20} MiB uncompressed, the most for its kind; shorten it")
        if isinstance(value, BadInput) and value.reason == "no object":
            value = parse_json(line, data=True)
        if isinstance(value, BadInput):
            value = UserError(f"{path}:{number}: {value.reason} ({value.detail}); remove or restore it")
        yield number, value


class RowFile:
    """A file of rows to which threads may append. `flaw` describes what is wrong with a row, "" for nothing. Raises
    `UserError`, naming file and line, for such a row, or for two with the same `task_id` and `completion_id`."""

    def __init__(self, path: Path, flaw: Callable[[Mapping[str, Any]], str] | None = None):
        self.path, self.rows = Path(path), list[dict[str, Any]]()
        self._lock = threading.Lock()
        if self.path.is_symlink():
            raise UserError(f"{self.path}: is a link; put the file that it leads to in its place")
        if self.path.exists():
            self._repair()
            lines: dict[str, int] = {}
            for number, row in numbered_rows(self.path):
                if reason := flaw(row) if flaw else "":
                    raise UserError(f"{self.path}:{number}: {reason}; remove the line, or restore the file")
                name = f"{row['task_id']}, completion {row['completion_id']}" if flaw else str(number)
                if (first := lines.setdefault(name, number)) != number:
                    raise UserError(f"{self.path}:{number}: {name}, is also in line {first}; remove one of them")
                self.rows.append(row)

    def _repair(self) -> None:
        try:
            with open(self.path, "r+b") as stream:
                data = stream.read()
                whole = data.rfind(b"\n") + 1
                if whole < len(data):
                    stream.truncate(whole)
                    os.fsync(stream.fileno())
        except OSError as error:
            raise UserError(f"{self.path}: not writable ({error.strerror}); {remedy_of(error)}") from None

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows. They are on the disk when this returns."""
        rows = [dict(row) for row in rows]
        with self._lock:
            try:
                with open(self.path, "ab") as stream:
                    stream.write(b"".join(map(encode, rows)))
                    stream.flush()
                    os.fsync(stream.fileno())
            except OSError as error:
                raise UserError(f"{self.path}: could not be written ({error.strerror}); {remedy_of(error)}") from None
            self.rows += rows

    def replace(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace the whole content, unless it is the same already."""
        rows = [dict(row) for row in rows]
        if rows != self.rows or not self.path.exists():
            with atomic_file(self.path) as temporary:
                temporary.write_bytes(b"".join(map(encode, rows)))
            self.rows = rows
