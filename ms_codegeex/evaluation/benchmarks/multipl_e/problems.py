"""MultiPL-E's files: .jsonl, .json (a list) or .parquet, each with problems in one or more languages.

A row has `name`, `language` (as in file names: cpp, rs, go_test.go), `prompt`, `tests` and `stop_tokens`; other keys
are not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.evaluation.benchmarks.tables import read_table
from ms_codegeex.evaluation.task import Problem
from ms_codegeex.evaluation.toolchains import PLAIN_TOOL_CHAINS

# MultiPL-E's names -> ours.
LANGUAGES = {
    "py": "python",
    "rs": "rust",
    "sh": "bash",
    "go_test.go": "go",
    **{name: name for name in PLAIN_TOOL_CHAINS},
}
PATTERNS = ("*.jsonl", "*.jsonl.gz", "*.json", "*.parquet")
LEVELS = ("", "*/", "*/*/")
WHERE = "huggingface.co/datasets/nuprl/MultiPL-E"
KEYS = "name, language, prompt, tests and stop_tokens"


@dataclass(frozen=True)
class MultiPlEProblem:
    """A row."""

    language: str
    prompt: str
    tests: str
    stops: tuple[str, ...]


def read_problems(data: Path, languages: Sequence[str] | None) -> list[Problem]:
    """The problems in these languages (None: in all that the data has) of a file, or of all files of a directory.

    Raises:
        UserError: there is no such file, a row lacks something or occurs twice, a language has no problems, or the
            data has languages without a tool chain and `languages` is not given.
    """
    files = [data] if data.is_file() else _files(data)
    problems, foreign = dict[str, Problem](), set[str]()
    for path in files:
        for number, row in enumerate(read_table(path, KEYS)):
            problem = _problem(row, f"{path}: problem {number}")
            if problem is None:
                foreign.add(row["language"])
                continue
            if problem.id in problems:
                raise UserError(f"{path}: problem {number}: {problem.id[:80]} occurs twice; give each file once")
            problems[problem.id] = problem
    known = list(dict.fromkeys(problem.labels["language"] for problem in problems.values()))
    if not problems:
        raise UserError(f"{data}: no problems in {', '.join(PLAIN_TOOL_CHAINS)}; they are at {WHERE}")
    if languages is None and foreign:
        raise UserError(
            f"{data}: there is no tool chain for {', '.join(sorted(foreign))}; leave them out by naming the others: "
            f"--language {' '.join(known)}"
        )
    if absent := [name for name in languages or () if name not in known]:
        raise UserError(f"--language: {data} has no problems in {', '.join(absent)}; it has {', '.join(known)}")
    return [problem for problem in problems.values() if languages is None or problem.labels["language"] in languages]


def _files(directory: Path) -> list[Path]:
    """The files of a directory, and of up to two levels below."""
    found = [path for level in LEVELS for pattern in PATTERNS for path in sorted(directory.glob(f"{level}{pattern}"))]
    if not found:
        raise UserError(f"{directory}: no {', '.join(PATTERNS)} there; the files are at {WHERE}")
    return found


def _problem(row: Mapping[str, Any], where: str) -> Problem | None:
    """The problem in a row; None if its language has no tool chain here."""
    for key in ("name", "language", "prompt", "tests"):
        if not isinstance(row.get(key), str):
            raise UserError(f"{where}: {key} is {type(row.get(key)).__name__}; a row has {KEYS}")
    stops = row.get("stop_tokens")
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise UserError(f"{where}: stop_tokens is not a list of texts; a row has {KEYS}")
    language = LANGUAGES.get(row["language"])
    if language is None:
        return None
    labels = {"language": language, "benchmark": row["name"].partition("_")[0].lower()}
    content = MultiPlEProblem(language, row["prompt"], row["tests"], tuple(stops))
    return Problem(f"{language}/{row['name']}", labels, content)
