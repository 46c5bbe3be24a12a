"""Questions answered by queries on SQLite, judged by the rows that they return."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ms_codegeex.evaluation.benchmarks.python_task import PythonTask, encoded, judgement
from ms_codegeex.evaluation.benchmarks.sql.problems import Question, read_questions
from ms_codegeex.evaluation.judging import verdicts as judging
from ms_codegeex.evaluation.judging.python_program import INSIDE, read_report
from ms_codegeex.evaluation.sandbox import ResourceLimits, Sandbox, Verdict
from ms_codegeex.evaluation.task import Complete, Judgement, Problem, Sample

SECONDS = 30.0  # per query, as in BIRD's runner
GRACE = 2.0
BEGIN = "SELECT"
# A string, which may be unfinished, or the end of a query.
STRING_OR_END = re.compile(r"'(?:[^']|'')*(?:'|\Z)|\"[^\"]*(?:\"|\Z)|(?P<end>;|\n\n|--|```|\n#)")
PLACE = "/database"  # where a database's directory is seen in the sandbox
RULES = {"strict": "multiset", "published": "set"}


class Sql(PythonTask):
    """Text to SQL over the questions of one file; see `problems`.

    The prompt is that of Rajkumar et al. (2022): the tables, the question as a comment, and `SELECT`.

    Args:
        data: a file, or a directory with it and the databases.
        timeout: seconds of a query; None: `SECONDS`.
        python: the interpreter whose SQLite runs the queries; None: ours.
    """

    name = "sql"

    def __init__(self, data: Path, timeout: float | None = None, python: Path | None = None):
        super().__init__(read_questions(data), python)
        self.timeout = timeout or SECONDS
        self.limits = ResourceLimits(wall=self.timeout + GRACE)

    def produce(self, problem: Problem, completion_id: int, seed: int, complete: Complete) -> Sample:
        """One query."""
        prompt = prompt_of(problem.data)
        answer = complete(prompt, seed=seed, stop=lambda text: end_of_query(text) is not None)
        return self.sample(problem, completion_id, prompt, answer, lambda text: text[: end_of_query(text)])

    def judge(self, problem: Problem, sample: Sample, sandbox: Sandbox) -> Judgement:
        """Strict: the same rows with the same multiplicity, in the same order if the reference query ends with ORDER
        BY; columns may be in any order (Spider's test suites). Published: the same set of rows (BIRD)."""
        question: Question = problem.data
        files = {
            "check.py": (INSIDE / "check_query.py").read_bytes(),
            "schema.sql": encoded(question.script),
            "expected.sql": encoded(question.query),
            "query.sql": encoded(f"{BEGIN}{sample.generation}"),
        }
        readable, database = dict(self.runner.readable), "-"
        if question.file is not None:
            readable[PLACE] = question.file.parent
            database = f"{PLACE}/{question.file.name}"
        verdicts, executions = {}, []
        for mode, rule in RULES.items():
            secret = judging.witness()
            command = self.runner.command(secret, self.limits, "check.py", database, rule, seconds=self.timeout)
            executions += sandbox.run([command], files, readable)
            report = read_report(executions[-1], secret)
            verdicts[mode] = Verdict.PASSED if report.finished else report.verdict
        return judgement(sample, verdicts, executions)

    def tools(self) -> Mapping[str, str]:
        """The versions of the interpreter and of SQLite."""
        (version,) = self.runner.interpreter.ask("import sqlite3; print(sqlite3.sqlite_version)")
        return {**super().tools(), "SQLite": version}

    def reference(self, problem: Problem) -> Sample | None:
        """The benchmark's query; None for one that does not begin with `SELECT`, such as `WITH`."""
        query = problem.data.query.strip().rstrip(";")
        if query[: len(BEGIN)].upper() != BEGIN:
            return None
        return Sample(problem.id, 0, prompt_of(problem.data), query[len(BEGIN) :], "eos")


def end_of_query(text: str) -> int | None:
    """The end of the first statement: a semicolon, blank line, comment or fence outside of strings."""
    return next((match.start() for match in STRING_OR_END.finditer(text) if match["end"]), None)


def prompt_of(question: Question) -> str:
    """The tables, the question and its evidence as comments, and the beginning of the query."""
    lines = ["-- Using valid SQLite, answer the following questions for the tables provided above.", ""]
    lines += [f"-- {line}" for line in (*question.evidence.splitlines(), *question.question.splitlines())]
    return "\n".join([question.tables.strip(), "", *lines, BEGIN])


build = Sql
