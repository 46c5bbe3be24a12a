"""EvalPlus's files, HumanEvalPlus.jsonl and MbppPlus.jsonl, and MBPP+ from Hugging Face (`hub`).

A row has `task_id` (HumanEval/0, Mbpp/2), `prompt`, `entry_point`, `canonical_solution`, `base_input` and `plus_input`
(for each call the list of its arguments) and `atol`, the absolute tolerance.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.evaluation.benchmarks.evalplus import hub
from ms_codegeex.evaluation.benchmarks.tables import ProblemFiles, value_of
from ms_codegeex.evaluation.jsonl import record_files
from ms_codegeex.evaluation.task import Problem

STEMS = ("HumanEvalPlus", "MbppPlus")  # of the files; a version may follow
DATASETS = {"HumanEval": "humaneval", "Mbpp": "mbpp"}  # by the part of task_id before the number
WHERE = "github.com/evalplus: the releases of humanevalplus_release and mbppplus_release"
KEYS = "task_id, prompt, entry_point, canonical_solution, base_input, plus_input and atol"
FORM = f"has {KEYS}, or as MBPP+ on Hugging Face {hub.KEYS} (HumanEval+ from there is for `evaluate humaneval`)"
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
    from_hub = hub.is_hub_row(row)
    row = hub.converted_row(row, where) if from_hub else row
    name, *texts = (
        value_of(row, key, str, where, FORM) for key in ("task_id", "prompt", "entry_point", "canonical_solution")
    )
    dataset = DATASETS.get(name.partition("/")[0])
    if dataset is None:
        raise UserError(f"{where}: task_id {name[:60]!r} begins with neither {' nor '.join(DATASETS)}")
    tolerance = value_of(row, "atol", (int, float), where, FORM)
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
