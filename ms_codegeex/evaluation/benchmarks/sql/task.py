"""Questions answered by queries on SQLite, judged by the rows that they return."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from ms_codegeex.evaluation.benchmarks.python_task import PythonTask, encoded, judgement
from ms_codegeex.evaluation.benchmarks.sql.problems import Question, read_questions
from ms_codegeex.evaluation.judging import verdicts as judging
from ms_codegeex.evaluation.judging.python_program import INSIDE, read_report
from ms_codegeex.evaluation.replies.blocks import CodeBlock, ReplyCode, blocks
from ms_codegeex.evaluation.replies.code import TICKS, reason
from ms_codegeex.evaluation.sandbox import ResourceLimits, Sandbox, Verdict
from ms_codegeex.evaluation.task import Complete, Judgement, Problem, Sample, SampledAnswer

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
    """Text to SQL over the questions of one file; see `problems`.

    The prompt is that of Rajkumar et al. (2022): the tables, the question as a comment, and `SELECT`.

    Args:
        data: a file, or a directory with it and the databases.
        timeout: seconds of a query; None: `SECONDS`.
        python: the interpreter whose SQLite runs the queries; None: ours.
    """

    name = "sql"
    whole_programs = True

    def __init__(self, data: Path, timeout: float | None = None, python: Path | None = None):
        super().__init__(read_questions(data), python)
        self.timeout = timeout or SECONDS
        self.limits = ResourceLimits(wall=self.timeout + GRACE)

    def produce(self, problem: Problem, completion_id: int, seed: int, complete: Complete) -> Sample:
        """One query."""
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
        """The benchmark's query."""
        query, prompt = problem.data.query.strip().rstrip(";"), prompt_of(problem.data)
        if query[: len(BEGIN)].upper() != BEGIN:
            return Sample(problem.id, 0, prompt, query, "eos", {"whole": True})
        return Sample(problem.id, 0, prompt, query[len(BEGIN) :], "eos")


def is_query(text: str) -> bool:
    """Whether a text is a whole query: it begins with SELECT, WITH or VALUES, perhaps after comments."""
    return bool(QUERY.match(text))


def statements(block: CodeBlock) -> Iterator[str]:
    """The statements of a reply's block, with the comments before them; without a fence, those of paragraphs in which
    a line begins a query, from there on."""
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
    """The end of the first statement: a semicolon, blank line, comment or fence outside of strings."""
    return next((match.start() for match in STRING_OR_END.finditer(text) if match["end"]), None)


def prompt_of(question: Question) -> str:
    """The tables, the question and its evidence as comments, and the beginning of the query."""
    lines = ["-- Using valid SQLite, answer the following questions for the tables provided above.", ""]
    lines += [f"-- {line}" for line in (*question.evidence.splitlines(), *question.question.splitlines())]
    return "\n".join([question.tables.strip(), "", *lines, BEGIN])


build = Sql
