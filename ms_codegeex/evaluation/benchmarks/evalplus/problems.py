"""EvalPlus's files, HumanEvalPlus.jsonl and MbppPlus.jsonl, and MBPP+ from Hugging Face (evalplus/mbppplus).

In EvalPlus's own files `base_input` and `plus_input` have the list of arguments of each call; `atol` is the absolute
tolerance. On Hugging Face `prompt` is the sentence alone, `test_list` has MBPP's assertions, and `test` is a program:
its line `inputs = [...]` holds the arguments of each call, MBPP's first, and its last line is `assertion(NAME(*inp),
exp, ATOL)`, or with `ref_func(*inp)` for `exp`. EvalPlus's `tools/mbpp/to_original_fmt.py` writes this format.
"""

from __future__ import annotations

import ast
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.evaluation.benchmarks.tables import ProblemFiles, listed, values_of
from ms_codegeex.evaluation.jsonl import record_files
from ms_codegeex.evaluation.task import Problem

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
    """The arguments of each call, the function's name and the tolerance. Nothing of the program is run."""
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


STEMS = ("HumanEvalPlus", "MbppPlus")  # of the files; a version may follow
DATASETS = {"HumanEval": "humaneval", "Mbpp": "mbpp"}  # by the part of task_id before the number
WHERE = "github.com/evalplus: the releases of humanevalplus_release and mbppplus_release"
OWN = {"task_id": str, "prompt": str, "entry_point": str, "canonical_solution": str, "atol": (int, float)}
HUB = {"task_id": int, "prompt": str, "code": str, "test_list": list, "test": str}
FORM = (
    f"has {listed([*OWN, 'base_input', 'plus_input'])}, or as MBPP+ on Hugging Face {listed(HUB)} "
    "(HumanEval+ from there is for `evaluate humaneval`)"
)
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
        named = [path for stem in STEMS if (path := self.named(files, (stem, f"{stem}-v*")))]
        return named or super().find(data)


FILES = EvalPlusFiles("EvalPlus", STEMS, ("task_id", "prompt", "test_list"), FORM, WHERE)


def read_problem(row: Mapping[str, Any], where: str, _: int) -> Problem:
    """The problem in a row of either form."""
    from_hub = "test_list" in row and "base_input" not in row
    row = converted_row(row, where) if from_hub else row
    name, *texts, tolerance = values_of(row, OWN, where, FORM)
    dataset = DATASETS.get(name.partition("/")[0])
    if dataset is None:
        raise UserError(f"{where}: task_id {name[:60]!r} begins with neither {' nor '.join(DATASETS)}")
    if not 0 <= tolerance <= sys.float_info.max:
        raise UserError(f"{where}: atol is {tolerance!r}, expected a number of 0 or more")
    calls = [_calls(row, key, name, from_hub, where) for key in ("base_input", "plus_input")]
    if not calls[0]:
        raise UserError(f"{where}: base_input is empty; expected a list of calls")
    return Problem(name, {"dataset": dataset}, EvalPlusProblem(dataset, *texts, *calls, float(tolerance)))


def _calls(row: Mapping[str, Any], key: str, name: str, typed: bool, where: str) -> Calls:
    """`typed`: Python's literals already have their types."""
    calls = row.get(key) or []  # an empty object where there are none
    if not isinstance(calls, list) or not all(isinstance(call, list) for call in calls):
        raise UserError(f"{where}: {key} is not a list of calls; expected a list of arguments for each")
    try:
        return calls if typed else [converted(name, call) for call in calls]
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(f"{where}: {key} has other types than {name[:60]} takes ({error})") from None


def each(convert: Convert, kind: Convert = list) -> Convert:
    """A function that converts every item of a list."""
    return lambda items: kind([convert(item) for item in items])


def as_it_is(value: Any) -> Any:
    """The value."""
    return value


def tuples(value: Any) -> Any:
    """Lists as tuples, at every depth."""
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def set_or_dict(value: Any) -> Any:
    """A list as a set, an empty one as an empty dictionary."""
    return (set(value) if value else {}) if isinstance(value, list) else value


def values_as_tuples(value: dict[str, Any]) -> dict[str, Any]:
    """A dictionary whose values are lists, as tuples."""
    return {key: tuple(items) for key, items in value.items()}


# JSON has no tuples, sets and complex numbers. By MBPP's numbers: the type of each argument; the last one repeats.
# Source: EvalPlus's release 0.3.1 converts these arguments when it reads the file (`evalplus/data/mbpp.py`).
TYPES: tuple[tuple[str, Sequence[Convert]], ...] = (
    ("2 116 132 143 222 261 273 394 399 421 424 429 470 560 579 596 616 630 726 740 744 809", [tuple]),
    ("63 64 70 94 120 237 272 299 400 409 417 438 473 614 780", [each(tuple)]),
    ("75 413 444 753", [each(tuple), as_it_is]),
    ("106 750", [as_it_is, tuple, as_it_is]),
    ("115", [each(set_or_dict)]),
    ("124", [float, complex]),
    ("250 307 405 446 617 720 763 808", [tuple, as_it_is]),
    ("252", [complex]),
    ("259 401 445", [each(tuple, tuple)]),
    ("278", [each(lambda item: tuple(item) if isinstance(item, list) else item, tuple)]),
    ("580 615 791", [tuples]),
    ("722", [values_as_tuples, as_it_is]),
)
CONVERTERS = {f"Mbpp/{number}": rules for numbers, rules in TYPES for number in numbers.split()}


def converted(name: str, arguments: list[Any]) -> list[Any]:
    """A call's arguments with the types that the problem's function takes."""
    rules = CONVERTERS.get(name, [as_it_is])
    return [rules[min(index, len(rules) - 1)](argument) for index, argument in enumerate(arguments)]
