"""EvalPlus as a task: functions are called with many arguments, and must return the canonical solution's values."""

from __future__ import annotations

import base64
import json
import pickle
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.evaluation import stop_rules
from ms_codegeex.evaluation.benchmarks.evalplus.problems import FILES, Calls, EvalPlusProblem, read_problem
from ms_codegeex.evaluation.benchmarks.python_task import PythonTask, encoded, judgement
from ms_codegeex.evaluation.judging import python_program
from ms_codegeex.evaluation.judging import verdicts as judging
from ms_codegeex.evaluation.replies.blocks import Asked
from ms_codegeex.evaluation.sandbox import Command, Execution, ResourceLimits, Sandbox, Verdict
from ms_codegeex.evaluation.sandbox.limits import MIB
from ms_codegeex.evaluation.task import Complete, Judgement, Problem, Sample

SECONDS, FACTOR = 1.0, 4.0  # a call's limit: at least this many seconds, or this many times the canonical solution's
MAXIMUM = 60.0  # seconds of all calls of one kind
START = 5.0  # seconds for the interpreter's start and the program's own statements
REFERENCE = 120.0  # seconds for the canonical solution
MEMORY = 4096 * MIB
STOPS = ("\nif __name__", "\ndef main(", "\nprint(", "\n```")
STOPS_OF = {
    "humaneval": ("\ndef ", "\nclass ", "\nimport ", "\nfrom ", "\nassert "),
    "mbpp": ('\n"""', "\nassert"),
}


@dataclass(frozen=True)
class Expected:
    """The values that the canonical solution returns, as consecutive pickles, and the seconds of each call."""

    values: bytes
    seconds: Sequence[float]


class EvalPlus(PythonTask):
    """The problems of HumanEval+, MBPP+ or both. `timeout`: the least limit of a call in seconds; None: `SECONDS`."""

    name = "evalplus"
    modes = ("strict", "published", "base")
    packages = ("numpy",)  # some solutions use it

    def __init__(self, data: Path, timeout: float | None = None, python: Path | None = None):
        super().__init__(FILES.problems(data, read_problem), python)
        self.seconds = timeout or SECONDS
        self._expected: dict[tuple[str, str], Expected] = {}
        self._locks = {problem.id: threading.Lock() for problem in self.problems}

    def produce(self, problem: Problem, completion_id: int, seed: int, complete: Complete) -> Sample:
        """One completion, truncated at the first stop word. The model continues the prompt, stripped of surrounding
        white space, and a line break."""
        words = (*STOPS, *STOPS_OF[problem.data.dataset])
        prompt = f"{problem.data.prompt.strip()}\n"
        answer = complete(prompt, seed=seed, stop=stop_rules.words(words))
        return self.sample(problem, completion_id, prompt, answer, partial(stop_rules.cut, known=words))

    def asked(self, problem: Problem, prompt: str) -> Asked:
        """The function that is called."""
        return Asked("python", prompt, problem.data.entry_point)

    def reference(self, problem: Problem) -> Sample:
        """The canonical solution."""
        return Sample(problem.id, 0, problem.data.prompt, problem.data.canonical_solution, "eos")

    def judge(self, problem: Problem, sample: Sample, sandbox: Sandbox) -> Judgement:
        """Base: right values for the original tests. Strict and published, which are the same: for the additional
        tests, too. The process must have reached its end."""
        row: EvalPlusProblem = problem.data
        program = f"{sample.program}\n"
        executions, base = self._judge(problem, "base", row.base, program, sandbox)
        both = base
        if row.plus and base is Verdict.PASSED:
            more, both = self._judge(problem, "plus", row.plus, program, sandbox)
            executions += more
        verdicts = {"strict": both, "published": both, "base": base}
        return judgement(sample, verdicts, executions)

    def _judge(
        self, problem: Problem, kind: str, calls: Calls, program: str, sandbox: Sandbox
    ) -> tuple[list[Execution], Verdict]:
        """The executions of one kind of calls, and the verdict."""
        expected = self._expect(problem, kind, calls, sandbox)
        limits = [max(self.seconds, FACTOR * spent) for spent in expected.seconds]
        files = self._files(calls, limits, problem.data.entry_point, program)
        secret, checked, wall = judging.witness(), judging.witness(), START + min(MAXIMUM, sum(limits))
        command = self._command("run_calls.py", secret.encode("ascii"), wall, str(START), "keep")
        comparison = self._comparison(problem, calls, expected, checked, wall)
        executions = sandbox.run([command, comparison], files, self.runner.readable)
        report = python_program.read_report(executions[0], secret)
        if not report.finished or len(executions) < 2:
            return executions, report.verdict
        right = _right_calls(executions[1], checked) == len(calls)
        return executions, Verdict.PASSED if right else Verdict.WRONG

    def _expect(self, problem: Problem, kind: str, calls: Calls, sandbox: Sandbox) -> Expected:
        """The values that the canonical solution returns, computed once."""
        key = (problem.id, kind)
        with self._locks[problem.id]:
            if key not in self._expected:
                self._expected[key] = self._returned(problem, calls, sandbox)
            return self._expected[key]

    def _returned(self, problem: Problem, calls: Calls, sandbox: Sandbox) -> Expected:
        row: EvalPlusProblem = problem.data
        files = self._files(calls, [REFERENCE] * len(calls), row.entry_point, row.prompt + row.canonical_solution)
        secret = judging.witness()
        command = self._command("run_calls.py", secret.encode("ascii"), REFERENCE, str(REFERENCE), "report")
        executions = sandbox.run([command], files, self.runner.readable)
        report = python_program.read_report(executions[-1], secret)
        if not report.finished or report.printed is None or report.printed["calls"] != len(calls):
            lines = python_program.tail(executions).strip().splitlines() or [report.verdict.value]
            remedy = "give --python an interpreter with what it needs, and run the same command again"
            raise RunFailure(f"{problem.id}: its canonical solution fails here ({lines[-1][:200]}); {remedy}")
        return Expected(base64.b64decode(report.printed["values"]), report.printed["seconds"])

    def _files(self, calls: Calls, limits: Sequence[float], entry_point: str, program: str) -> dict[str, bytes]:
        """The files of a run."""
        return {"program.py": encoded(program), "calls": pickle.dumps((entry_point, calls, list(limits)), 4)}

    def _comparison(self, problem: Problem, calls: Calls, expected: Expected, secret: str, wall: float) -> Command:
        row: EvalPlusProblem = problem.data
        arguments = b"".join(pickle.dumps(call, 4) for call in calls)
        given = {
            "entry_point": row.entry_point,
            "dataset": row.dataset,
            "tolerance": row.tolerance,
            "arguments": base64.b64encode(arguments).decode("ascii"),
            "expected": base64.b64encode(expected.values).decode("ascii"),
            "secret": secret,
        }
        return self._command("compare_calls.py", json.dumps(given).encode("ascii") + b"\n", wall)

    def _command(self, script: str, stdin: bytes, wall: float, *arguments: str) -> Command:
        return self.script(script, stdin, ResourceLimits(wall=wall, memory=MEMORY, output=64 * MIB), *arguments)


def _right_calls(execution: Execution, secret: str) -> int:
    """The number of calls with a right value, -1 if the comparison did not end."""
    lines = execution.stdout.split(b"\n")
    if not execution.succeeded or len(lines) != 3 or lines[1] != secret.encode("ascii") or not lines[0].isdigit():
        return -1
    return int(lines[0])


build = EvalPlus
