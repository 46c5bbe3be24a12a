"""MultiPL-E's files, each with problems in one or more languages.

A row has `name`, `language` (as in file names: cpp, rs, go_test.go), `prompt`, `tests` and `stop_tokens`; other keys
are not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.evaluation.benchmarks.tables import ProblemFiles, value_of
from ms_codegeex.evaluation.recipe import ALIASES
from ms_codegeex.evaluation.task import Problem
from ms_codegeex.evaluation.toolchains import PLAIN_TOOL_CHAINS

KEYS = ("name", "language", "prompt", "tests", "stop_tokens")
FORM = f"has {', '.join(KEYS)}"
FILES = ProblemFiles("MultiPL-E", (), KEYS, FORM, "huggingface.co/datasets/nuprl/MultiPL-E")


@dataclass(frozen=True)
class MultiPlEProblem:
    """A row."""

    language: str
    prompt: str
    tests: str
    stops: tuple[str, ...]


def read_problems(data: Path, languages: Sequence[str]) -> list[Problem]:
    """The problems in these languages (none: in all that the data has) of a file, or of all
    files of a directory.

    Raises:
        UserError: there is no such file, a row lacks something or occurs twice, a language has no problems, or the
            data has languages without a tool chain and `languages` is not given.
    """
    foreign = set[str]()

    def convert(row: Mapping[str, Any], where: str, _: int) -> Problem | None:
        if (problem := _problem(row, where)) is None:
            foreign.add(row["language"])
        return problem

    problems = FILES.problems(data, convert)
    known = list(dict.fromkeys(problem.labels["language"] for problem in problems))
    if foreign and not languages:
        raise UserError(
            f"{data}: there is no tool chain for {', '.join(sorted(foreign))}; leave them out by naming the others: "
            f"--language {' '.join(known)}"
        )
    if absent := [name for name in languages if name not in known]:
        raise UserError(f"--language: {data} has no problems in {', '.join(absent)}; it has {', '.join(known)}")
    return [problem for problem in problems if problem.labels["language"] in (languages or known)]


def _problem(row: Mapping[str, Any], where: str) -> Problem | None:
    """The problem in a row; None if its language has no tool chain here."""
    name, given, prompt, tests = (
        value_of(row, key, str, where, FORM) for key in ("name", "language", "prompt", "tests")
    )
    stops = row.get("stop_tokens")
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise UserError(f"{where}: stop_tokens is not a list of texts; a row {FORM}")
    language = "go" if given == "go_test.go" else ALIASES.get(given, given)
    if language not in PLAIN_TOOL_CHAINS:
        return None
    labels = {"language": language, "benchmark": name.partition("_")[0].lower()}
    return Problem(f"{language}/{name}", labels, MultiPlEProblem(language, prompt, tests, tuple(stops)))
