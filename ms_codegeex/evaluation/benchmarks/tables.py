"""Reads files of benchmarks in all published formats: .jsonl, .jsonl.gz, .json (a list), .parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import read_json
from ms_codegeex.evaluation.jsonl import read_rows

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
        return _parquet(path)
    return _list(path, keys) if path.suffix == ".json" else read_rows(path)


def _parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not readable as Parquet ({error}); download it again") from None


def _list(path: Path, keys: str) -> list[dict[str, Any]]:
    rows = read_json(path, MAX_BYTES)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: expected a list of objects with {keys}")
    return rows
