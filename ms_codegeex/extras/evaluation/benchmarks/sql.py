"""Questions about databases, answered by queries on SQLite and judged by the rows that they return.

A row has `question`, `query` (or `SQL`), and either `db_id`, which names `DIR/DB/DB.sqlite` in one of `FOLDERS` next to
the file, or `schema`, a script that creates the database. `evidence` and `difficulty` (BIRD) are optional.
"""

from __future__ import annotations

import functools
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.evaluation.benchmarks.tables import ProblemFiles
from ms_codegeex.extras.evaluation.judging.python_program import (
    INSIDE,
    PythonTask,
    encoded,
    judgement,
    read_report,
    witness,
)
from ms_codegeex.extras.evaluation.replies.blocks import CodeBlock, ReplyCode, blocks
from ms_codegeex.extras.evaluation.replies.code import TICKS, reason
from ms_codegeex.extras.evaluation.sandbox import ResourceLimits, Sandbox, Verdict
from ms_codegeex.extras.evaluation.task import Judgement, Problem, Sample, SampledAnswer, TextSource

FOLDERS = ("database", "dev_databases", "databases", "test_database")
TABLES = "SELECT sql FROM sqlite_master WHERE type = 'table' AND sql IS NOT NULL"
FORM = "has question, query (or SQL) and db_id or schema"
STEMS = ("dev", "test", "sql", "mini_dev_sqlite")
FILES = ProblemFiles("Spider or BIRD", STEMS, ("question",), FORM, "their downloads")
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
    """The rows of a file, or of the one in a directory, whose databases are checked."""
    tables_of = functools.cache(_tables)
    files = FILES.find(data)

    def convert(row: Mapping[str, Any], where: str, index: int) -> Problem:
        question, query = _text(row, where, "question"), _text(row, where, "query", "SQL")
        labels = {"difficulty": row["difficulty"]} if isinstance(row.get("difficulty"), str) else {}
        script = _text(row, where, "schema") if "schema" in row else ""
        file = None if script else _database(files[0].parent, _text(row, where, "db_id"), where)
        if file is not None:
            labels["database"] = file.stem
        shown = script if file is None else tables_of(file)
        evidence = row["evidence"] if isinstance(row.get("evidence"), str) else ""
        content = Question(question, evidence, query, shown, file, script)
        return Problem(f"{labels.get('database', 'sql')}/{index}", labels, content)

    return FILES.problems(data, convert, files)


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
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            rows = connection.execute(TABLES).fetchall()
    except sqlite3.Error as error:
        raise UserError(f"{file}: not an SQLite database ({error}); download it again") from None
    return "\n\n".join(f"{statement};" for (statement,) in rows)


SECONDS = 30.0  # per query, as in BIRD's runner
GRACE = 2.0
BEGIN = "SELECT"
# A string, which may be unfinished, or the end of a query.
STRING_OR_END = re.compile(r"'(?:[^']|'')*(?:'|\Z)|\"[^\"]*(?:\"|\Z)|(?P<end>;|\n\n|--|```|\n#)")
QUERY = re.compile(r"(?:\s|--[^\n]*(?:\n|\Z)|/\*(?:[^*]|\*(?!/))*\*/)*(?:select|with|values)\b", re.IGNORECASE)
# a line of a text without a fence that begins a query; sentences may begin with these words, too
WITH = r"(?i:with (?:recursive )?\w+ *(?:\([^()\n]*\) *)?as)"
LINE = re.compile(rf"^[ \t]*(?:SELECT|select|VALUES|values|{WITH})\b", re.MULTILINE)
SEPARATOR = re.compile(
    r"--[^\n]*|/\*.*?(?:\*/|\Z)|'[^']*(?:'|\Z)|\"[^\"]*(?:\"|\Z)|`[^`]*(?:`|\Z)|(?P<end>;)", re.DOTALL
)
PLACE = "/database"  # where a database's directory is seen in the sandbox
RULES = {"strict": "multiset", "published": "set"}


class Sql(PythonTask):
    """Text to SQL over the questions of one file. The prompt is that of Rajkumar et al. (2022): the tables, the
    question as a comment, and `SELECT`. The interpreter's SQLite runs the queries, each for `timeout` seconds."""

    name = "sql"

    def __init__(self, data: Path, timeout: float | None = None, python: Path | None = None):
        super().__init__(read_questions(data), python)
        self.timeout = timeout or SECONDS
        self.limits = ResourceLimits(wall=self.timeout + GRACE)

    def produce(self, problem: Problem, completion_id: int, seed: int, complete: TextSource) -> Sample:
        prompt = prompt_of(problem.data)
        answer = complete(prompt, seed=seed, stop=lambda text: end_of_query(text) is not None)
        if not answer.is_reply and is_query(answer.text):  # nothing that begins so can follow `SELECT`
            answer = replace(answer, is_reply=True)
        return self.sample(problem, completion_id, prompt, answer, lambda text: text[: end_of_query(text)])

    def read(self, problem: Problem, prompt: str, done: SampledAnswer) -> ReplyCode:
        """The last query of a reply, or what follows `SELECT`."""
        found = blocks(done.text, done.finish != "length")
        for block in reversed(found):
            if queries := [each for each in statements(block) if is_query(each)]:
                return ReplyCode(queries[-1].strip(), True)
        code = next((block.code for block in reversed(found) if block.code.strip()), "")
        if re.search(r"\bfrom\b", code, re.IGNORECASE) and len(code.split("\n\n")) == 1:
            return ReplyCode(code, False)
        return ReplyCode("", False, reason(done.text, done.finish != "length"))

    def judge(self, problem: Problem, sample: Sample, sandbox: Sandbox) -> Judgement:
        """Strict: the same rows with the same multiplicity, in the same order if the reference query ends with ORDER
        BY; columns may be in any order (Spider's test suites). Published: the same set of rows (BIRD)."""
        question, text = problem.data, sample.generation
        files = {
            "check.py": (INSIDE / "check_query.py").read_bytes(),
            "schema.sql": encoded(question.script),
            "expected.sql": encoded(question.query),
            "query.sql": encoded(text if sample.whole or is_query(text) else f"{BEGIN}{text}"),
        }
        readable, database = dict(self.runner.readable), "-"
        if question.file is not None:
            readable[PLACE] = question.file.parent
            database = f"{PLACE}/{question.file.name}"
        verdicts, executions = {}, []
        for mode, rule in RULES.items():
            secret = witness()
            command = self.runner.command(secret, self.limits, "check.py", database, rule, seconds=self.timeout)
            executions += sandbox.run([command], files, readable)
            report = read_report(executions[-1], secret)
            verdicts[mode] = Verdict.PASSED if report.finished else report.verdict
        return judgement(sample, verdicts, executions)

    def tools(self) -> Mapping[str, str]:
        (version,) = self.runner.interpreter.ask("import sqlite3; print(sqlite3.sqlite_version)")
        return {**super().tools(), "SQLite": version}

    def reference(self, problem: Problem) -> Sample | None:
        query, prompt = problem.data.query.strip().rstrip(";"), prompt_of(problem.data)
        if query[: len(BEGIN)].upper() != BEGIN:
            return Sample(problem.id, 0, prompt, query, "eos", {"whole": True})
        return Sample(problem.id, 0, prompt, query[len(BEGIN) :], "eos")


def is_query(text: str) -> bool:
    return bool(QUERY.match(text))


def statements(block: CodeBlock) -> Iterator[str]:
    """The statements of a reply's block; without a fence, those of paragraphs from a line on that begins a query."""
    texts = [block.code]
    if not block.fenced:
        paragraphs = re.split(r"\n\s*\n", TICKS.sub("", block.code))
        texts = [each[found.start() :] for each in paragraphs if (found := LINE.search(each))]
    for text in texts:
        start = 0
        for found in SEPARATOR.finditer(text):
            if found["end"]:
                yield text[start : found.start()]
                start = found.end()
        yield text[start:]


def end_of_query(text: str) -> int | None:
    return next((match.start() for match in STRING_OR_END.finditer(text) if match["end"]), None)


def prompt_of(question: Question) -> str:
    """The tables, the question and its evidence as comments, and the beginning of the query."""
    lines = ["-- Using valid SQLite, answer the following questions for the tables provided above.", ""]
    lines += [f"-- {line}" for line in (*question.evidence.splitlines(), *question.question.splitlines())]
    return "\n".join([question.tables.strip(), "", *lines, BEGIN])


build = Sql
