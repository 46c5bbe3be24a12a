"""HumanEval+ and MBPP+: functions are called with many arguments, and must return the reference's values.

In EvalPlus's own files `base_input` and `plus_input` have the list of arguments of each call; `atol` is the absolute
tolerance. On Hugging Face (evalplus/mbppplus) `prompt` is the sentence alone, `test_list` has MBPP's assertions, and
`test` is a program: its line `inputs = [...]` holds the arguments of each call, MBPP's first, and its last line is
`assertion(NAME(*inp), exp, ATOL)`, or with `ref_func(*inp)` for `exp`. EvalPlus's `tools/mbpp/to_original_fmt.py`
writes this format.
"""

from __future__ import annotations

import ast
import base64
import json
import math
import pickle
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.extras.evaluation import stop_rules
from ms_codegeex.extras.evaluation.benchmarks.tables import ProblemFiles, listed, values_of
from ms_codegeex.extras.evaluation.jsonl import record_files
from ms_codegeex.extras.evaluation.judging.python_program import (
    PythonTask,
    encoded,
    judgement,
    read_report,
    tail,
    witness,
)
from ms_codegeex.extras.evaluation.judging.reasons import reason, remedy
from ms_codegeex.extras.evaluation.sandbox import Command, Execution, ResourceLimits, Sandbox, Verdict
from ms_codegeex.extras.evaluation.sandbox.limits import MIB
from ms_codegeex.extras.evaluation.task import Judgement, Problem, Sample, TextSource

INPUTS = "inputs = "
CALL = re.compile(r"^    assertion\((?P<name>\w+)\(\*inp\), (?:exp|ref_func\(\*inp\)), (?P<atol>[0-9.e+-]+)\)$")
CONSTANTS = {"inf": math.inf, "nan": math.nan}


def converted_row(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A row of Hugging Face as in EvalPlus's own file, but with arguments that already have their types."""
    number, prompt, code, tests, test = values_of(row, HUB, where, f"on Hugging Face has {listed(HUB)}")
    if not tests or not all(isinstance(each, str) for each in tests):
        raise UserError(f"{where}: test_list is not a list of assertions; fetch the file again")
    inputs, name, tolerance = _calls_of(test, where)
    return {
        "task_id": f"Mbpp/{number}",
        "prompt": f'"""\n{prompt.strip()}\n{tests[0].strip()}\n"""\n',
        "entry_point": name,
        "canonical_solution": code,
        "base_input": inputs[: len(tests)],
        "plus_input": inputs[len(tests) :],
        "atol": tolerance,
    }


def _calls_of(test: str, where: str) -> tuple[list[Any], str, float]:
    lines = test.rstrip().split("\n")
    given = [line[len(INPUTS) :] for line in lines if line.startswith(INPUTS)]
    call = CALL.match(lines[-1])
    if len(given) != 1 or call is None:
        expected = f"one line {INPUTS!r} and the last '    assertion(NAME(*inp), exp, ATOL)', or with ref_func(*inp)"
        form = f"another form than MBPP+'s on Hugging Face, {expected} instead of exp"
        raise UserError(f"{where}: test has {form}; fetch the file again")
    try:
        inputs = ast.literal_eval(_Constants().visit(ast.parse(given[0], mode="eval")))
        tolerance = float(call["atol"])
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise UserError(f"{where}: the inputs of test are not plain values ({error}); fetch the file again") from None
    if not isinstance(inputs, list) or not all(isinstance(each, list | tuple) for each in inputs):
        raise UserError(f"{where}: the inputs of test are not a list of calls; fetch the file again")
    return [list(each) for each in inputs], call["name"], tolerance


class _Constants(ast.NodeTransformer):
    """Replaces `inf` and `nan`, which `repr` writes for numbers."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.copy_location(ast.Constant(CONSTANTS[node.id]), node) if node.id in CONSTANTS else node


FILE_STEMS = ("HumanEvalPlus", "MbppPlus")  # a version may follow
DATASETS = {"HumanEval": "humaneval", "Mbpp": "mbpp"}  # by the part of task_id before the number
OTHER = "HumanEval+ from there is for `evaluate humaneval`"
WHERE = f"github.com/evalplus, releases of humanevalplus_release and mbppplus_release, and on Hugging Face ({OTHER})"
OWN = {"task_id": str, "prompt": str, "entry_point": str, "canonical_solution": str, "atol": (int, float)}
HUB = {"task_id": int, "prompt": str, "code": str, "test_list": list, "test": str}
FORM = f"has {listed([*OWN, 'base_input', 'plus_input'])}, or as MBPP+ on Hugging Face {listed(HUB)} ({OTHER})"
Calls = list[list[Any]]  # the arguments of each call
Convert = Callable[[Any], Any]


@dataclass(frozen=True)
class EvalPlusProblem:
    """A row."""

    dataset: str
    prompt: str
    entry_point: str
    canonical_solution: str
    base: Calls
    plus: Calls
    tolerance: float


class EvalPlusFiles(ProblemFiles):
    """Both benchmarks may lie in one directory."""

    def find(self, data: Path) -> list[Path]:
        """EvalPlus's own files in a directory, or else those of a copy of the dataset on Hugging Face."""
        files = record_files(data) if data.is_dir() else ()
        named = [path for stem in FILE_STEMS if (path := self.named(files, (stem, f"{stem}-v*")))]
        return named or super().find(data)


FILES = EvalPlusFiles("EvalPlus", FILE_STEMS, ("task_id", "prompt", "test_list"), FORM, WHERE)


def read_problem(row: Mapping[str, Any], where: str, _: int) -> Problem:
    """The problem in a row of either form."""
    from_hub = "test_list" in row and "base_input" not in row
    row = converted_row(row, where) if from_hub else row
    name, *texts, tolerance = values_of(row, OWN, where, FORM)
    dataset = DATASETS.get(name.partition("/")[0])
    if dataset is None:
        raise UserError(f"{where}: task_id is {name[:60]!r}; expected one such as HumanEval/2 or Mbpp/2")
    if not 0 <= tolerance <= sys.float_info.max:
        raise UserError(f"{where}: atol is {tolerance!r}, expected a number of 0 or more")
    calls = [_calls(row, key, name, from_hub, where) for key in ("base_input", "plus_input")]
    if not calls[0]:
        raise UserError(f"{where}: base_input is empty; expected a list of calls")
    return Problem(name, {"dataset": dataset}, EvalPlusProblem(dataset, *texts, *calls, float(tolerance)))


def _calls(row: Mapping[str, Any], key: str, name: str, typed: bool, where: str) -> Calls:
    calls = row.get(key) or []  # an empty object where there are none
    if not isinstance(calls, list) or not all(isinstance(call, list) for call in calls):
        raise UserError(f"{where}: {key} is not a list of calls; expected a list of arguments for each")
    try:
        return calls if typed else [converted(name, call) for call in calls]
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(f"{where}: {key} has other types than {name} takes ({error}); fetch the file again") from None


def each(convert: Convert, kind: Convert = list) -> Convert:
    return lambda items: kind([convert(item) for item in items])


def tuples(value: Any) -> Any:
    return tuple(map(tuples, value)) if isinstance(value, list) else value


# JSON has no tuples, sets and complex numbers. By MBPP's numbers: the type of each argument, None: it stays; the last
# one repeats. An empty list is not a set but an empty dictionary.
# Source: EvalPlus's release 0.3.1 converts these arguments when it reads the file (`evalplus/data/mbpp.py`).
TYPES: tuple[tuple[str, Sequence[Convert | None]], ...] = (
    ("2 116 132 143 222 261 273 394 399 421 424 429 470 560 579 596 616 630 726 740 744 809", [tuple]),
    ("63 64 70 94 120 237 272 299 400 409 417 438 473 614 780", [each(tuple)]),
    ("75 413 444 753", [each(tuple), None]),
    ("106 750", [None, tuple, None]),
    ("115", [each(lambda item: (set(item) if item else {}) if isinstance(item, list) else item)]),
    ("124", [float, complex]),
    ("250 307 405 446 617 720 763 808", [tuple, None]),
    ("252", [complex]),
    ("259 401 445", [each(tuple, tuple)]),
    ("278", [each(lambda item: tuple(item) if isinstance(item, list) else item, tuple)]),
    ("580 615 791", [tuples]),
    ("722", [lambda value: {key: tuple(items) for key, items in value.items()}, None]),
)
CONVERTERS = {f"Mbpp/{number}": rules for numbers, rules in TYPES for number in numbers.split()}


def converted(name: str, arguments: list[Any]) -> list[Any]:
    """A call's arguments with the types that the problem's function takes."""
    rules = CONVERTERS.get(name, [None])
    chosen = [rules[min(index, len(rules) - 1)] for index in range(len(arguments))]
    return [rule(given) if rule else given for rule, given in zip(chosen, arguments, strict=True)]


SECONDS, FACTOR = 1.0, 4.0  # a call's limit: at least this many seconds, or this many times the canonical solution's
MAXIMUM = 60.0  # seconds of all calls of one kind
START = 5.0  # seconds for the program's own statements
LOADING = 10.0  # seconds for the interpreter's start, and to load what the published runner has loaded
REFERENCE = 120.0  # seconds for the canonical solution
MEMORY = 4096 * MIB
STOPS = ("\nif __name__", "\ndef main(", "\nprint(", "\n```")
STOPS_OF = {"humaneval": ("\ndef ", "\nclass ", "\nimport ", "\nfrom ", "\nassert "), "mbpp": ('\n"""', "\nassert")}


@dataclass(frozen=True)
class ReferenceValues:
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
        self._expected: dict[tuple[str, str], ReferenceValues] = {}
        self._locks = {problem.id: threading.Lock() for problem in self.problems}

    def produce(self, problem: Problem, completion_id: int, seed: int, complete: TextSource) -> Sample:
        """One completion of the prompt, stripped and with a line break, truncated at the first stop word."""
        words = (*STOPS, *STOPS_OF[problem.data.dataset])
        prompt = f"{problem.data.prompt.strip()}\n"
        answer = complete(prompt, seed=seed, stop=stop_rules.words(words))
        return self.sample(problem, completion_id, prompt, answer, partial(stop_rules.cut, known=words))

    def reference(self, problem: Problem) -> Sample:
        return Sample(problem.id, 0, problem.data.prompt, problem.data.canonical_solution, "eos")

    def judge(self, problem: Problem, sample: Sample, sandbox: Sandbox) -> Judgement:
        """Base: right values for the original tests. Strict and published, which are the same: for the additional
        tests, too. The process must have reached its end."""
        row: EvalPlusProblem = problem.data
        program = f"{sample.program}\n"
        executions, base = self._verdict(problem, "base", row.base, program, sandbox)
        both = base
        if row.plus and base is Verdict.PASSED:
            more, both = self._verdict(problem, "plus", row.plus, program, sandbox)
            executions += more
        return judgement(sample, {"strict": both, "published": both, "base": base}, executions)

    def _verdict(
        self, problem: Problem, kind: str, calls: Calls, program: str, sandbox: Sandbox
    ) -> tuple[list[Execution], Verdict]:
        expected = self._expect(problem, kind, calls, sandbox)
        limits = [max(self.seconds, FACTOR * spent) for spent in expected.seconds]
        files = {"program.py": encoded(program), "calls": pickle.dumps((problem.data.entry_point, calls, limits), 4)}
        secret, checked, wall = witness(), witness(), LOADING + START + min(MAXIMUM, sum(limits))
        command = self._command("run_calls.py", secret.encode("ascii"), wall, str(START), "keep")
        comparison = self._comparison(problem, calls, expected, checked, wall)
        executions = sandbox.run([command, comparison], files, self.runner.readable)
        report = read_report(executions[0], secret)
        if not report.finished or len(executions) < 2:
            return executions, report.verdict
        right = executions[1].succeeded and executions[1].stdout == f"{len(calls)}\n{checked}\n".encode("ascii")
        return executions, Verdict.PASSED if right else Verdict.WRONG

    def _expect(self, problem: Problem, kind: str, calls: Calls, sandbox: Sandbox) -> ReferenceValues:
        with self._locks[problem.id]:
            if (problem.id, kind) not in self._expected:
                self._expected[problem.id, kind] = self._returned(problem, calls, sandbox)
            return self._expected[problem.id, kind]

    def _returned(self, problem: Problem, calls: Calls, sandbox: Sandbox) -> ReferenceValues:
        row: EvalPlusProblem = problem.data
        given = pickle.dumps((row.entry_point, calls, [REFERENCE] * len(calls)), 4)
        files = {"program.py": encoded(row.prompt + row.canonical_solution), "calls": given}
        secret = witness()
        command = self._command("run_calls.py", secret.encode("ascii"), REFERENCE, str(REFERENCE), "report")
        executions = sandbox.run([command], files, self.runner.readable)
        report = read_report(executions[-1], secret)
        if not report.finished or report.printed is None or report.printed["calls"] != len(calls):
            why = reason({"reference": report.verdict.value}, tail(executions))
            raise RunFailure(f"{problem.id}: its canonical solution fails here ({why}); {remedy([why], ['python'])}")
        return ReferenceValues(base64.b64decode(report.printed["values"]), report.printed["seconds"])

    def _comparison(self, problem: Problem, calls: Calls, known: ReferenceValues, secret: str, wall: float) -> Command:
        row: EvalPlusProblem = problem.data
        arguments = b"".join(pickle.dumps(call, 4) for call in calls)
        given = {
            "entry_point": row.entry_point,
            "dataset": row.dataset,
            "tolerance": row.tolerance,
            "arguments": base64.b64encode(arguments).decode("ascii"),
            "expected": base64.b64encode(known.values).decode("ascii"),
            "secret": secret,
        }
        return self._command("compare_calls.py", json.dumps(given).encode("ascii") + b"\n", wall)

    def _command(self, script: str, stdin: bytes, wall: float, *arguments: str) -> Command:
        return self.script(script, stdin, ResourceLimits(wall=wall, memory=MEMORY, output=64 * MIB), *arguments)


build = EvalPlus
