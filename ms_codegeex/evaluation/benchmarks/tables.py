"""Reads files of benchmarks in all published formats: .jsonl, .jsonl.gz, .json (a list), .parquet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import read_json
from ms_codegeex.evaluation.jsonl import read_rows
from ms_codegeex.evaluation.task import Problem

MAX_BYTES = 1 << 30  # of a whole benchmark


def read_table(path: Path, keys: str) -> list[dict[str, Any]]:
    """The rows of a file; the ending of its name decides the format.

    Args:
        path: a file; if it is neither .json nor .parquet, it is read as JSONL.
        keys: the keys of a row, for error messages.

    Raises:
        UserError: it cannot be read, or holds anything other than objects.
    """
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        try:
            return parquet.read_table(path).to_pylist()
        except (OSError, pyarrow.ArrowException) as error:
            raise UserError(f"{path}: not readable as Parquet ({error}); download it again") from None
    if path.suffix != ".json":
        return read_rows(path)
    rows = read_json(path, MAX_BYTES)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: expected a list of objects with {keys}")
    return rows


def value_of(row: Mapping[str, Any], key: str, kinds: Any, where: str, form: str) -> Any:
    """The value of a key, which is of one of these kinds, no bool; otherwise a `UserError` that says that "a row
    `form`"."""
    value = row.get(key)
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise UserError(f"{where}: {key} is {type(value).__name__}; a row {form}")
    return value


def distinct(entries: Iterable[tuple[str, Problem]], lacking: str) -> list[Problem]:
    """The problems, each given with its position in a file. Two of one id are a `UserError`; none at all are one that
    says `lacking`."""
    problems = dict[str, Problem]()
    for where, problem in entries:
        if problem.id in problems:
            raise UserError(f"{where}: task_id {problem.id[:60]} occurs twice; give each file and each problem once")
        problems[problem.id] = problem
    if not problems:
        raise UserError(lacking)
    return list(problems.values())
