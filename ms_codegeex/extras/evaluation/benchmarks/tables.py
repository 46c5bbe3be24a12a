"""Reads the problems of every benchmark: finds the file, reads its rows, and checks their keys and ids."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.printing import print_error
from ms_codegeex.extras.evaluation.jsonl import entries, numbered_rows, record_files, stem
from ms_codegeex.extras.evaluation.task import Problem

MAX_BYTES = 1 << 30
MAX_LISTED_NAMES = 5
OPTIONAL = (str, type(None))  # the types of a text that may be absent
NO_PROBLEM = (KeyError, IndexError, TypeError, ValueError, AttributeError)  # what reading a damaged row raises


@dataclass(frozen=True)
class ProblemFiles:
    """How a benchmark's files are recognised."""

    name: str
    stems: tuple[str, ...]  # names or patterns of its files without their endings, the preferred one first
    keys: tuple[str, ...]  # of every row; they identify files with other names
    form: str  # what errors say about a row: "has id, name and prompts"
    where: str  # where the files are published

    def find(self, data: Path) -> list[Path]:
        """`data` itself if it is a file. In a directory, the file with the first of the names (the newest of several
        versions), otherwise all files whose first row has the keys. `UserError` if there is none."""
        if not data.is_dir():
            return [data]
        files = record_files(data)
        if named := self.named(files, self.stems):
            return [named]
        fitting = [path for path in files if self._fits(path)]
        if not fitting:
            seen = files or [each for each in data.iterdir() if each.name[0] != "."]
            expected = f"{self.stems[0] if self.stems else 'files'}.jsonl.gz, or rows with {', '.join(self.keys)}"
            found = f"no file of {self.name}; seen: {_listed(seen, data)}"
            raise UserError(f"{data}: {found}; expected {expected}; {self.name} is published in {self.where}")
        if others := [path for path in files if path not in fitting]:
            print_error(f"{data}: passed over, since they hold no problems of {self.name}: {_listed(others, data)}")
        return fitting

    @staticmethod
    def named(files: Sequence[Path], stems: Sequence[str]) -> Path | None:
        """The file with the first of these names: the nearest, in its folder the newest version."""
        for pattern in stems:
            if found := [path for path in files if fnmatchcase(stem(path), pattern)]:
                return max((path for path in found if path.parent == found[0].parent), key=_version)
        return None

    def _fits(self, path: Path) -> bool:
        _, row = next(entries(path), (0, None))
        if isinstance(row, UserError):
            return not path.name.endswith(".json")  # clones have many, which other programs read
        return isinstance(row, dict) and row.keys() >= set(self.keys)

    def problems(
        self,
        data: Path,
        convert: Callable[[dict[str, Any], str, int], Problem],
        files: Sequence[Path] | None = None,
    ) -> list[Problem]:
        """The problems in `files`, or in those that `find` finds. `convert` makes one from a row, its place and its
        number from 0. `UserError`: a row is not a problem, two have one id, or there are none."""
        problems = dict[str, Problem]()
        rows = ((path, *row) for path in files or self.find(data) for row in numbered_rows(path, MAX_BYTES))
        for index, (path, number, row) in enumerate(rows):
            where = f"{path}:{number}"
            try:
                problem = convert(row, where, index)
            except NO_PROBLEM as error:
                reason = f"not a problem of {self.name} ({type(error).__name__} {error})"
                raise UserError(f"{where}: {reason}; a row {self.form}; restore the file") from None
            if problem.id in problems:
                twice = f"task_id {problem.id[:60]} occurs twice; give each file and each problem once"
                raise UserError(f"{where}: {twice}")
            problems[problem.id] = problem
        if not problems:
            raise UserError(f"{data}: no problems of {self.name}; a row {self.form}; the benchmark is in {self.where}")
        return list(problems.values())


def _version(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", stem(path))]


def _listed(paths: Sequence[Path], root: Path) -> str:
    names = [path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name for path in paths]
    more = f" and {len(names) - MAX_LISTED_NAMES} more" if len(names) > MAX_LISTED_NAMES else ""
    return ", ".join(names[:MAX_LISTED_NAMES]) + more if names else "nothing"


def parsed_rows(path: Path, maximum: int, parse: Callable[[dict[str, Any], str], Any]) -> Iterator[tuple[int, Any]]:
    """The rows of a file of at most `maximum` bytes, as `parse` returns them, each with its line number. A row that is
    wrong, or has the id of an earlier one, is a `UserError` instead."""
    seen = dict[str, int]()
    for number, row in entries(path, maximum):
        where = f"{path}:{number}"
        try:
            if isinstance(row, UserError):
                raise row
            if not isinstance(row, dict):
                raise UserError(f"{where}: found {type(row).__name__}, expected an object")
            parsed = parse(row, where)
            if (first := seen.setdefault(parsed.id, number)) != number:
                raise UserError(f"{where}: {parsed.id} is also in line {first}; give each problem once")
            yield number, parsed
        except UserError as error:
            yield number, error


def values_of(row: Mapping[str, Any], kinds: Mapping[str, Any], where: str, form: str) -> list[Any]:
    """The values of the keys in `kinds`. `UserError` ("a row `form`") for another type, or a bool."""
    for key, kind in kinds.items():
        value = row.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UserError(f"{where}: {key} is {type(value).__name__}; a row {form}")
    return [row.get(key) for key in kinds]


def listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
