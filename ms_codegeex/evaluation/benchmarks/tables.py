"""The one reader of benchmarks' problems: which file of a directory, its rows, their keys, and distinct ids."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.printing import print_error
from ms_codegeex.evaluation.jsonl import entries, numbered_rows, record_files, stem
from ms_codegeex.evaluation.task import Problem

LARGEST = 1 << 30  # bytes of a benchmark's records
SHOWN = 5  # names in an error
NO_PROBLEM = (KeyError, IndexError, TypeError, ValueError, AttributeError)  # what reading a damaged row raises


@dataclass(frozen=True)
class ProblemFiles:
    """How a benchmark's files are recognised.

    Args:
        name: the benchmark.
        stems: names of its files without their endings, which may be patterns, most wanted first.
        keys: what every row has; files with other names are known by them.
        form: what a row has, in errors.
        where: where the files are published.
    """

    name: str
    stems: tuple[str, ...]
    keys: tuple[str, ...]
    form: str
    where: str

    def find(self, data: Path) -> list[Path]:
        """`data` itself if it is a file. Of a directory the file with the first of the names (of several versions the
        newest), otherwise all whose first row has the keys. `UserError` if there is none."""
        if not data.is_dir():
            return [data]
        files = record_files(data)
        if named := self.named(files, self.stems):
            return [named]
        fitting = [path for path in files if self._fits(path)]
        if not fitting:
            seen = files or [each for each in data.iterdir() if each.name[0] != "."]
            raise UserError(
                f"{data}: no file of {self.name}; seen: {_listed(seen, data)}; expected "
                f"{self.stems[0] if self.stems else 'files'}.jsonl.gz, or rows with {', '.join(self.keys)}; "
                f"{self.name} is in {self.where}"
            )
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
        """Whether the first row has the keys. A damaged file fits: reading it says what is wrong."""
        _, row = next(entries(path), (0, None))
        if isinstance(row, UserError):
            return not path.name.endswith(".json")  # of which clones have many that others read
        return isinstance(row, dict) and row.keys() >= set(self.keys)

    def rows(self, data: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        """The rows of all files, each with its place."""
        for path in self.find(data):
            yield from ((f"{path}:{number}", row) for number, row in numbered_rows(path, LARGEST))

    def problems(self, data: Path, convert: Callable[[dict[str, Any], str, int], Problem | None]) -> list[Problem]:
        """The problems, which `convert` makes of a row, its place and its number from 0; None is left out.

        Raises:
            UserError: there is no file, a row is none of this benchmark, two have one id, or there are none.
        """

        def found() -> Iterator[tuple[str, Problem]]:
            for index, (where, row) in enumerate(self.rows(data)):
                try:
                    problem = convert(row, where, index)
                except NO_PROBLEM as error:
                    reason = f"not a problem of {self.name} ({type(error).__name__} {error})"
                    raise UserError(f"{where}: {reason}; a row {self.form}; restore it") from None
                if problem is not None:
                    yield where, problem

        return distinct(found(), f"{data}: no problems of {self.name}; a row {self.form}; it is in {self.where}")


def _version(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", stem(path))]


def _listed(paths: Sequence[Path], root: Path) -> str:
    names = [path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name for path in paths]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more if names else "nothing"


def value_of(row: Mapping[str, Any], key: str, kinds: Any, where: str, form: str) -> Any:
    """The value of a key, which is of one of these kinds, no bool; otherwise a `UserError` that says that "a row
    `form`"."""
    value = row.get(key)
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise UserError(f"{where}: {key} is {type(value).__name__}; a row {form}")
    return value


def distinct(found: Iterable[tuple[str, Problem]], lacking: str) -> list[Problem]:
    """The problems, each given with its position in a file. Two of one id are a `UserError`; none at all are one that
    says `lacking`."""
    problems = dict[str, Problem]()
    for where, problem in found:
        if problem.id in problems:
            raise UserError(f"{where}: task_id {problem.id[:60]} occurs twice; give each file and each problem once")
        problems[problem.id] = problem
    if not problems:
        raise UserError(lacking)
    return list(problems.values())
