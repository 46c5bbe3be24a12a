"""Shared by the benchmarks that Python judges: one interpreter runs the programs, and scripts of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ms_codegeex.evaluation.judging import python_program
from ms_codegeex.evaluation.judging.python_program import PLACE, ProgramReport, Runner
from ms_codegeex.evaluation.sandbox import Command, Execution, ResourceLimits, Sandbox, Verdict
from ms_codegeex.evaluation.task import Judgement, Problem, Sample, Task


class PythonTask(Task):
    """A task with an interpreter, `python`; None: this process's. `packages` are those whose versions matter."""

    packages: Sequence[str] = ()
    limits: ResourceLimits

    def __init__(self, problems: Sequence[Problem], python: Path | None) -> None:
        self.problems, self.runner = problems, Runner.open(python)

    def tools(self) -> Mapping[str, str]:
        """The versions of the interpreter and its libraries."""
        return self.runner.interpreter.versions(self.packages)

    def run(self, program: str, sandbox: Sandbox, **how: Any) -> ProgramReport:
        """Run a program; `how` as in `Runner.command`."""
        secret = python_program.witness()
        command = self.runner.command(secret, self.limits, "program.py", **how)
        (execution,) = sandbox.run([command], {"program.py": encoded(program)}, self.runner.readable)
        return python_program.read_report(execution, secret)

    def script(self, name: str, stdin: bytes, limits: ResourceLimits, *arguments: str) -> Command:
        """The command for one of our scripts. -s: without modules that programs have installed in /tmp, their home."""
        words = [str(self.runner.interpreter.path), "-s", f"{PLACE}/{name}", *arguments]
        return Command(words, limits, python_program.ENVIRONMENT, stdin)


def encoded(text: str) -> bytes:
    """A program as a file; a model may write half a character."""
    return text.encode("utf-8", "surrogatepass")


def both_verdicts(report: ProgramReport) -> dict[str, Verdict]:
    """Published: no exception, and the process was not left. Strict: and it ended by itself with status 0."""
    return {
        "strict": Verdict.PASSED if report.finished else report.verdict,
        "published": Verdict.PASSED if report.ended is None else report.verdict,
    }


def judgement(sample: Sample, modes: Mapping[str, Verdict], executions: Sequence[Execution], **extra: Any) -> Judgement:
    """The judgement of a sample after the executions of its program."""
    seconds, stderr = python_program.seconds(executions), python_program.tail(executions)
    return Judgement(sample.task_id, sample.completion_id, modes, seconds, executions[-1].code, stderr, extra)
