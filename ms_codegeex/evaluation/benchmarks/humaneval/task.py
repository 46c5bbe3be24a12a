"""HumanEval, and any JSONL file of the same form.

A row has task_id, prompt, test, and optionally entry_point and canonical_solution. The program is prompt, completion
and test, followed by `check(entry_point)` if the test defines `check`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.evaluation.benchmarks import truncation
from ms_codegeex.evaluation.jsonl import find_file, read_rows
from ms_codegeex.evaluation.judging import python_program
from ms_codegeex.evaluation.judging import verdicts as judging
from ms_codegeex.evaluation.judging.python_program import Runner
from ms_codegeex.evaluation.sandbox import ResourceLimits, Sandbox, Verdict
from ms_codegeex.evaluation.task import Complete, Judgement, Problem, Sample, Stop, Task
from ms_codegeex.generation import stopping

SECONDS = 3.0  # per program, as in the published runner
GRACE = 2.0  # extra seconds for the interpreter's start and for programs that cannot be interrupted
STOPS = ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```")  # text that follows a function's body
WHERE = "github.com/openai/human-eval (data)"
TRUNCATIONS = ("stops", "codegen", "none")


@dataclass(frozen=True)
class HumanEvalProblem:
    """A row of the file."""

    prompt: str
    test: str
    entry_point: str | None
    canonical_solution: str | None


class HumanEval(Task):
    """The problems of one file.

    Args:
        data: a .jsonl or .jsonl.gz file, or a directory with HumanEval.jsonl.gz.
        cut: where a completion ends: "stops" at the first of `stops`, "codegen" by CodeGen's rule, "none" nowhere.
        strip: strip white space from the prompt's end, as some harnesses do; this changes its last tokens.
        timeout: seconds of a program.
        python: the interpreter of the programs; None: this process's.
    """

    name = "humaneval"
    whole_programs = True

    def __init__(
        self,
        data: Path,
        cut: str = "stops",
        stops: Sequence[str] = STOPS,
        strip: bool = False,
        timeout: float = SECONDS,
        python: Path | None = None,
    ):
        if cut not in TRUNCATIONS:
            raise UserError(f'cut: "{cut}", expected one of {", ".join(TRUNCATIONS)}')
        if not timeout > 0:
            raise UserError(f"timeout: {timeout}, expected seconds above 0")
        self.cut, self.stops, self.strip, self.timeout = cut, tuple(stops), strip, timeout
        self.problems = read_problems(data)
        self.runner = Runner.open(python)
        self.limits = ResourceLimits(wall=timeout + GRACE)

    def samples_per_problem(self, n: int) -> int:
        """n."""
        return n

    def end(self, text: str) -> int | None:
        """The position at which a completion is truncated, None if it is not."""
        if self.cut == "codegen":
            return truncation.cut(text)
        places = [text.find(stop) for stop in self.stops] if self.cut == "stops" else []
        return min((place for place in places if place >= 0), default=None)

    def stop(self) -> Stop:
        """A stop rule: the completion has an end."""
        return truncation.stop() if self.cut == "codegen" else stopping.words(self.stops if self.cut == "stops" else ())

    def produce(self, problem: Problem, completion_id: int, seed: int, complete: Complete) -> Sample:
        """One completion, cut at its end."""
        prompt = problem.data.prompt.rstrip() if self.strip else problem.data.prompt
        answer = complete(prompt, seed=seed, stop=self.stop())
        return Sample(problem.id, completion_id, prompt, answer.text[: self.end(answer.text)], answer.finish)

    def judge(self, problem: Problem, sample: Sample, sandbox: Sandbox) -> Judgement:
        """The program runs in an empty dictionary, not as `__main__`. Published: it raised no exception and did not
        leave its process, as the original runner checks. Strict: its process also exited by itself with status 0,
        with no threads left running."""
        secret = judging.witness()
        files = {"program.py": program(problem.data, sample).encode("utf-8", "surrogatepass")}
        command = self.runner.command(secret, self.limits, "program.py", seconds=self.timeout, bare=True)
        executions = sandbox.run([command], files, self.runner.readable)
        report = python_program.read_report(executions[-1], secret)
        verdicts = {
            "strict": Verdict.PASSED if report.finished else report.verdict,
            "published": Verdict.PASSED if report.ended is None else report.verdict,
        }
        last = executions[-1]
        seconds, stderr = python_program.seconds(executions), python_program.tail(executions)
        return Judgement(sample.task_id, sample.completion_id, verdicts, seconds, last.code, stderr)

    def segments(self, problem: Problem, sample: Sample) -> list[tuple[str, bool]]:
        """For prompt perplexity: the prompt, scored."""
        return [(sample.prompt, True)]

    def tools(self) -> Mapping[str, str]:
        """The versions of the interpreter and its libraries."""
        return self.runner.interpreter.versions(("numpy",))

    def reference(self, problem: Problem) -> Sample | None:
        """The canonical solution, if the file has one."""
        row: HumanEvalProblem = problem.data
        if row.canonical_solution is None:
            return None
        return Sample(problem.id, 0, row.prompt, row.canonical_solution, "eos")


def program(row: HumanEvalProblem, sample: Sample) -> str:
    """The program that judges a sample."""
    call = f"check({row.entry_point})\n" if row.entry_point and "def check(" in row.test else ""
    return f"{sample.prompt}{sample.generation}\n{row.test}\n{call}"


def read_problems(data: Path) -> list[Problem]:
    """The rows of the file, or of HumanEval's file in a directory.

    A row without a prompt or a test, or a duplicate task_id, is a `UserError`.
    """
    found = find_file(data, "HumanEval", "humaneval")
    if found is None:
        raise UserError(f"{data}: no HumanEval.jsonl.gz there; give the file, it is in {WHERE}")
    data, problems = found, dict[str, Problem]()
    for number, row in enumerate(read_rows(data), 1):
        texts = {name: _text(row, name, f"{data}:{number}") for name in ("prompt", "test")}
        rest = {name: _text(row, name, f"{data}:{number}", True) for name in ("entry_point", "canonical_solution")}
        name = str(row.get("task_id", number - 1))
        if name in problems:
            raise UserError(f"{data}:{number}: task_id {name} occurs twice; give each problem its own")
        problems[name] = Problem(name, {}, HumanEvalProblem(**texts, **rest))
    if not problems:
        raise UserError(f"{data}: no problems; expected rows with task_id, prompt, test and entry_point")
    return list(problems.values())


def _text(row: Mapping[str, Any], name: str, where: str, optional: bool = False) -> Any:
    value = row.get(name)
    if isinstance(value, str) or (optional and value is None):
        return value
    raise UserError(f"{where}: {name} is {type(value).__name__}, expected text; a row has task_id, prompt, test")


def build(
    data: Path,
    cut: str = "stops",
    stops: Sequence[str] = STOPS,
    strip: bool = False,
    timeout: float | None = None,
    python: Path | None = None,
) -> HumanEval:
    """The task; see `HumanEval`."""
    return HumanEval(Path(data), cut, stops, strip, SECONDS if timeout is None else timeout, python)
