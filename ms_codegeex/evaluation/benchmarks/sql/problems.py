"""Questions and their databases, in the format of Spider and BIRD, or with the database as a script.

A row has `question`, `query` (or `SQL`), and either `db_id`, which names `DIR/DB/DB.sqlite` in one of `FOLDERS` next to
the file, or `schema`, a script that creates the database. `evidence` and `difficulty` (BIRD) are optional.
"""

from __future__ import annotations

import functools
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.evaluation.benchmarks.tables import distinct, read_table
from ms_codegeex.evaluation.task import Problem

FILES = ("dev.json", "dev.jsonl", "test.json", "sql.jsonl")  # looked for in a directory, in this order
FOLDERS = ("database", "dev_databases", "databases", "test_database")
TABLES = "SELECT sql FROM sqlite_master WHERE type = 'table' AND sql IS NOT NULL"
KEYS = "question, query and db_id or schema"
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
    """The rows of a file, or of the first of `FILES` in a directory.

    Raises:
        UserError: there is no such file, a row lacks something, or a database is missing or not SQLite's.
    """
    path = data if data.is_file() else next((data / name for name in FILES if (data / name).is_file()), None)
    if path is None:
        raise UserError(f"{data}: none of {', '.join(FILES)}; give the directory or file of Spider, BIRD or your own")
    tables_of = functools.cache(_tables)

    def found() -> Iterator[tuple[str, Problem]]:
        for number, row in enumerate(read_table(path, KEYS)):
            where = f"{path}: question {number}"
            question, query = _text(row, where, "question"), _text(row, where, "query", "SQL")
            labels = {"difficulty": row["difficulty"]} if isinstance(row.get("difficulty"), str) else {}
            script = _text(row, where, "schema") if "schema" in row else ""
            file = None if script else _database(path.parent, _text(row, where, "db_id"), where)
            if file is not None:
                labels["database"] = file.stem
            shown = script if file is None else tables_of(file)
            evidence = row["evidence"] if isinstance(row.get("evidence"), str) else ""
            content = Question(question, evidence, query, shown, file, script)
            yield where, Problem(f"{labels.get('database', 'sql')}/{number}", labels, content)

    return distinct(found(), f"{path}: no questions; expected rows with {KEYS}")


def _text(row: Mapping[str, Any], where: str, *names: str) -> str:
    value = next((row[name] for name in names if name in row), None)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: {' or '.join(names)} is missing or not text; a row has {KEYS}")
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
