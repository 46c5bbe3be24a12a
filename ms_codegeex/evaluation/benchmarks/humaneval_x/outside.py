"""Python's tests run outside the answer's process, and the answer's process has no test.

First the tests run with the canonical solution, once for all problems, which records the calls and the values. An
answer's process gets the arguments only, and returns typed plain values. If they are the recorded ones, letter by
letter, the tests pass. Otherwise the tests run again, in another sandbox, with a function that returns these values.
"""

from __future__ import annotations

import ast
import json
import marshal
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.evaluation.benchmarks.humaneval_x import programs
from ms_codegeex.evaluation.benchmarks.humaneval_x.problems import HumanEvalXProblem
from ms_codegeex.evaluation.benchmarks.python_task import encoded
from ms_codegeex.evaluation.judging import python_program, verdicts
from ms_codegeex.evaluation.sandbox import Command, Execution, ResourceLimits, Sandbox, Verdict
from ms_codegeex.evaluation.sandbox.limits import MIB
from ms_codegeex.evaluation.task import Judgement, Sample
from ms_codegeex.evaluation.toolchains import ToolChain
from ms_codegeex.evaluation.toolchains.base import ALONE, TAIL
from ms_codegeex.evaluation.toolchains.python import ENVIRONMENT

RECORDING = 300.0  # seconds for all problems
OUTPUT = 16 * MIB
PASSED, FAILED, OTHER, MORE = b"None", b"assertion", b"other", b"more"


@dataclass(frozen=True)
class RecordedTests:
    """A problem's tests, and what the canonical solution did: JSON values, see `replay_tests.py`."""

    problem: Mapping[str, Any]
    calls: bytes  # the answer's file
    report: bytes  # of the right values


class PythonOutside:
    """Judges the problems of Python's file. Safe to share between threads."""

    def __init__(self, chain: ToolChain, rows: Iterable[HumanEvalXProblem]) -> None:
        self._chain, self._rows = chain, list(rows)
        self._lock = threading.Lock()
        self._known: dict[int, RecordedTests] | None = None

    def judge(self, row: HumanEvalXProblem, sample: Sample, sandbox: Sandbox, wall: float) -> Judgement | None:
        """A sample's judgement; None if this problem's tests cannot run outside. `extra` has "plain": whether all
        values were plain data as far as the tests got."""
        known = self._recorded(sandbox).get(row.number)
        if known is None:
            return None
        secret = verdicts.witness()
        limits = ResourceLimits(wall=wall, processes=ALONE, output=OUTPUT)
        files = {"program.py": encoded(_program(row, sample.generation)), "calls": known.calls}
        (execution,) = sandbox.run([self._command("typed_calls.py", secret.encode(), limits)], files, self._readable)
        report = python_program.read_report(execution, secret)
        verdict = Verdict.ERROR if report.ended == "assertion" else report.verdict
        last, plain, seconds = execution, True, execution.seconds
        if execution.stdout == known.report + secret.encode() + b"\n" and execution.succeeded:
            verdict = Verdict.PASSED
        elif execution.succeeded and report.printed and report.printed.get("values"):
            given = marshal.dumps({**known.problem, "values": report.printed["values"]}, 2)
            limits = ResourceLimits(wall=wall, output=OUTPUT)
            (last,) = sandbox.run([self._command("replay_tests.py", given, limits, "replay")], {}, self._readable)
            seconds += last.seconds
            verdict, plain = _replayed(last, report, verdict), last.stdout != OTHER
            last = execution if last.stdout == MORE else last
        output = last.stderr[-TAIL:].decode("utf-8", "replace")
        extra = {"compile_seconds": 0, "run_seconds": round(seconds, 3), "plain": plain}
        both = {"strict": verdict, "published": verdict}
        return Judgement(sample.task_id, sample.completion_id, both, seconds, execution.code, output, extra)

    def _recorded(self, sandbox: Sandbox) -> dict[int, RecordedTests]:
        """The problems whose tests can run outside, by number."""
        with self._lock:
            if self._known is None:
                found = {row.number: problem for row in self._rows if (problem := _problem(row)) is not None}
                limits = ResourceLimits(wall=RECORDING, output=OUTPUT)
                command = self._command("replay_tests.py", marshal.dumps(list(found.values()), 2), limits, "record")
                (execution,) = sandbox.run([command], {}, self._readable)
                results = parse_json(execution.stdout) if execution.succeeded else [None] * len(found)
                pairs = zip(found.items(), results, strict=True)
                self._known = {number: _known(problem, result) for (number, problem), result in pairs if result}
            return self._known

    def _command(self, script: str, stdin: bytes, limits: ResourceLimits, *words: str) -> Command:
        options = ["-E", "-s", "-S"] if "replay" in words else ["-s"]  # it starts faster without `site`
        command = [sys.executable, *options, f"{python_program.PLACE}/{script}", *words]
        return Command(command, limits, ENVIRONMENT, stdin)

    @property
    def _readable(self) -> dict[str, Path]:
        return {**self._chain.readable(), python_program.PLACE: python_program.INSIDE}


def _program(row: HumanEvalXProblem, answer: str) -> str:
    """The program without its tests."""
    return programs.python(row, answer).others["program.py"]


def _problem(row: HumanEvalXProblem) -> dict[str, Any] | None:
    """A problem for `replay_tests.py`. None unless the tests end with `check(FUNCTION)`, and `check` only calls its
    parameter, never with arguments that it has returned."""
    try:
        tree = ast.parse(row.test)
    except (SyntaxError, ValueError):
        return None
    last = tree.body[-1].value if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    names = [name for name in getattr(last, "args", []) if isinstance(name, ast.Name)]
    checks = [each for each in tree.body if isinstance(each, ast.FunctionDef) and each.name == "check"]
    if len(names) != 1 or len(checks) != 1 or len(checks[0].args.args) != 1:
        return None
    parameter = checks[0].args.args[0].arg
    calls = [each for each in ast.walk(checks[0]) if isinstance(each, ast.Call) and _uses(each.func, parameter)]
    nested = any(_uses(word, parameter) for call in calls for word in (*call.args, *call.keywords))
    if nested or _uses(checks[0], parameter) != len(calls):
        return None
    return {"names": _program(row, row.solution), "tests": f"{row.test}\n", "function": names[0].id}


def _uses(tree: ast.AST, name: str) -> int:
    """How often a tree has a name."""
    return sum(isinstance(each, ast.Name) and each.id == name for each in ast.walk(tree))


def _known(problem: Mapping[str, Any], result: Mapping[str, Any]) -> RecordedTests:
    report = {"ended": None, "printed": {"values": result["values"]}}
    calls = marshal.dumps([problem["function"], result["calls"]], 2)
    kept = {**problem, "calls": result["calls"], "bare": result["bare"]}
    return RecordedTests(kept, calls, json.dumps(report).encode("ascii") + b"\n")


def _replayed(execution: Execution, report: python_program.ProgramReport, otherwise: Verdict) -> Verdict:
    """The verdict of tests that ran with an answer's values. `otherwise`: if they need more values than there are."""
    if not execution.succeeded:
        return verdicts.ENDS.get(execution.end, Verdict.ERROR)
    named = {PASSED: Verdict.PASSED if report.finished else otherwise, MORE: otherwise}
    failed = {FAILED: Verdict.WRONG, OTHER: Verdict.WRONG}
    return {**named, **failed}.get(execution.stdout, Verdict.ERROR)
