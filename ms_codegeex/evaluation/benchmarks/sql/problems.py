"""Questions and their databases, in the format of Spider and BIRD, or with the database as a script.

A row has `question`, `query` (or `SQL`), and either `db_id`, which names `DIR/DB/DB.sqlite` in one of `FOLDERS` next to
the file, or `schema`, a script that creates the database. `evidence` and `difficulty` (BIRD) are optional.
"""

from __future__ import annotations

import functools
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.evaluation.benchmarks.tables import ProblemFiles
from ms_codegeex.evaluation.task import Problem

FOLDERS = ("database", "dev_databases", "databases", "test_database")
TABLES = "SELECT sql FROM sqlite_master WHERE type = 'table' AND sql IS NOT NULL"
FORM = "has question, query (or SQL) and db_id or schema"
FILES = ProblemFiles(
    "Spider or BIRD", ("dev", "test", "sql", "mini_dev_sqlite"), ("question",), FORM, "their downloads"
)
NAME = re.compile(r"[A-Za-z0-9_ .()-]{1,100}")


@dataclass(frozen=True)
class Question:
    """A row: the question with its evidence, the query that answers it, the tables as `CREATE` statements, and the
    database: a file, or a script if `file` is None."""

    question: str
    evidence: str
    query: str
    tables: str
    file: Path | None
    script: str


def read_questions(data: Path) -> list[Problem]:
    """The rows of a file, or of the one in a directory.

    Raises:
        UserError: there is no such file, a row lacks something, or a database is missing or not SQLite's.
    """
    tables_of = functools.cache(_tables)
    root = FILES.find(data)[0].parent

    def convert(row: Mapping[str, Any], where: str, index: int) -> Problem:
        question, query = _text(row, where, "question"), _text(row, where, "query", "SQL")
        labels = {"difficulty": row["difficulty"]} if isinstance(row.get("difficulty"), str) else {}
        script = _text(row, where, "schema") if "schema" in row else ""
        file = None if script else _database(root, _text(row, where, "db_id"), where)
        if file is not None:
            labels["database"] = file.stem
        shown = script if file is None else tables_of(file)
        evidence = row["evidence"] if isinstance(row.get("evidence"), str) else ""
        content = Question(question, evidence, query, shown, file, script)
        return Problem(f"{labels.get('database', 'sql')}/{index}", labels, content)

    return FILES.problems(data, convert)


def _text(row: Mapping[str, Any], where: str, *names: str) -> str:
    value = next((row[name] for name in names if name in row), None)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: {' or '.join(names)} is missing or not text; a row {FORM}")
    return value


def _database(root: Path, name: str, where: str) -> Path:
    if not NAME.fullmatch(name) or name in (".", ".."):
        raise UserError(f"{where}: db_id {name[:60]!r} is not the name of a database")
    for folder in FOLDERS:
        if (file := root / folder / name / f"{name}.sqlite").is_file():
            return file.resolve()
    raise UserError(f"{where}: no database {name}/{name}.sqlite in {', '.join(FOLDERS)} of {root}; download them too")


def _tables(file: Path) -> str:
    """The statements that created a database's tables. No query of a benchmark runs here."""
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            rows = connection.execute(TABLES).fetchall()
    except sqlite3.Error as error:
        raise UserError(f"{file}: not an SQLite database ({error}); download it again") from None
    return "\n\n".join(f"{statement};" for (statement,) in rows)
