"""JSONL files that survive a kill: rows are appended and synced; a torn last line is removed when the file is
opened."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_file
from ms_codegeex.base.json_reading import Malformed, parse_json
from ms_codegeex.base.reading import read_stream

LEVELS, ENDINGS = ("", "*/", "*/*/"), (".jsonl.gz", ".jsonl")  # where a benchmark's file is searched, and its endings

MAX_BYTES = 8 << 30  # of a file, not a limit for samples but against devices
BLOCK = 1 << 20  # bytes that are decompressed at a time


def encode(row: Mapping[str, Any]) -> bytes:
    """One line. Lone surrogates, which a model may write, are kept as escapes."""
    return json.dumps(row).encode("ascii") + b"\n"


def find_file(data: Path, *stems: str) -> Path | None:
    """A benchmark's file: `data` itself unless it is a directory, else the first of these stems found in it or up
    to two levels below, as .jsonl.gz or .jsonl. None if there is none."""
    if not data.is_dir():
        return data
    paths = (path for stem in stems for path in files_below(data, *(stem + ending for ending in ENDINGS)))
    return next(paths, None)


def files_below(directory: Path, *patterns: str) -> Iterator[Path]:
    """The files in a directory, then those one and two levels below; at each level in the order of the patterns. A
    level is searched when its files are taken: there may be many directories."""
    return (path for level in LEVELS for pattern in patterns for path in sorted(directory.glob(f"{level}{pattern}")))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl or .jsonl.gz file. Anything else in it is a `UserError` that names file and line."""
    return [row for _, row in numbered_rows(path)]


def numbered_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of `read_rows`, each with its line number."""
    for number, line in numbered_lines(path):
        try:
            row = parse_json(line, data=True)
        except Malformed as error:
            raise UserError(f"{path}:{number}: not JSON ({error}); remove or restore the line") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: found {type(row).__name__}, expected an object")
        yield number, row


def numbered_lines(path: Path, maximum: int = MAX_BYTES) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, decompressed if it is gzip's, that are not blank, each with its number. A file that is not
    readable, or of more than `maximum` bytes, is a `UserError`."""
    try:
        data = read_stream(path, maximum)
        if data[:2] == b"\x1f\x8b":
            with gzip.open(io.BytesIO(data)) as stream:
                blocks = iter(lambda: stream.read(BLOCK), b"")
                data = b"".join(itertools.islice(blocks, 1 + maximum // BLOCK))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, EOFError, gzip.zlib.error) as error:
        raise UserError(f"{path}: not readable ({error})") from None
    if len(data) > maximum:
        raise UserError(f"{path}: more than {maximum >> 20} MiB uncompressed, the most for a file of its kind")
    yield from ((number, line) for number, line in enumerate(data.split(b"\n"), 1) if line.strip())


def _check(path: Path, rows: list[tuple[int, dict[str, Any]]], flaw: Callable[[Mapping[str, Any]], str]) -> None:
    lines: dict[tuple[str, int], int] = {}
    for number, row in rows:
        if reason := flaw(row):
            raise UserError(f"{path}:{number}: {reason}; remove the line, or restore the file")
        first = lines.setdefault((row["task_id"], row["completion_id"]), number)
        if first != number:
            raise UserError(
                f"{path}:{number}: {row['task_id']}, completion {row['completion_id']}, is also in line {first}; "
                "remove one of them"
            )


class RowFile:
    """A growing file of rows. Threads may append concurrently.

    `flaw` says what is wrong with a row, "" for nothing. A file with such a row, or with two rows of the same
    `task_id` and `completion_id`, is a `UserError` that names file and line.
    """

    def __init__(self, path: Path, flaw: Callable[[Mapping[str, Any]], str] | None = None):
        self.path, self.rows = Path(path), list[dict[str, Any]]()
        self._lock = threading.Lock()
        if self.path.is_symlink():
            raise UserError(f"{self.path}: is a link; put the file that it leads to in its place")
        if self.path.exists():
            self._repair()
            numbered = list(numbered_rows(self.path))
            if flaw is not None:
                _check(self.path, numbered, flaw)
            self.rows = [row for _, row in numbered]

    def _repair(self) -> None:
        """Remove what follows the last line break: the process died while it wrote."""
        try:
            with open(self.path, "r+b") as stream:
                data = stream.read()
                whole = data.rfind(b"\n") + 1
                if whole < len(data):
                    stream.truncate(whole)
                    os.fsync(stream.fileno())
        except OSError as error:
            raise UserError(f"{self.path}: not writable ({error.strerror}); check its owner and mode") from None

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows. When this returns, they are on the disk."""
        rows = [dict(row) for row in rows]
        with self._lock:
            try:
                with open(self.path, "ab") as stream:
                    stream.write(b"".join(map(encode, rows)))
                    stream.flush()
                    os.fsync(stream.fileno())
            except OSError as error:
                raise UserError(f"{self.path}: could not be written ({error.strerror}); free some space") from None
            self.rows += rows

    def replace(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace the entire content, unless it is already the same."""
        rows = [dict(row) for row in rows]
        if rows != self.rows or not self.path.exists():
            with atomic_file(self.path) as temporary:
                temporary.write_bytes(b"".join(map(encode, rows)))
            self.rows = rows
