"""The files of own problems: a `.jsonl` for each `.yaml` of a directory, with HumanEval-X's keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.evaluation.benchmarks.humaneval_x.problems import KEYS, LARGEST
from ms_codegeex.evaluation.benchmarks.own_problems.language import LanguageDescription, read_language
from ms_codegeex.evaluation.jsonl import entries, stem

BROKEN = "broken"  # the key of wrong solutions


@dataclass(frozen=True)
class OwnProblem:
    """A problem as in the file. `broken`: wrong solutions, each of which the tests must find."""

    language: str
    number: int
    prompt: str
    declaration: str
    solution: str
    test: str
    broken: tuple[str, ...] = ()


@dataclass(frozen=True)
class DescribedFile:
    """A language's description and the file of its problems."""

    language: LanguageDescription
    path: Path


def described_files(data: Path) -> list[DescribedFile]:
    """The languages of a directory, by name of their files.

    Raises:
        UserError: a description is wrong, has no problems beside it, or two have one name.
    """
    files = dict[str, DescribedFile]()
    for path in sorted(data.glob("*.yaml")) if data.is_dir() else ():
        language = read_language(path)
        found = [file for file in sorted(data.glob("*.json*"), reverse=True) if stem(file) == path.stem]
        if not found:
            raise UserError(f"{path}: no {path.stem}.jsonl beside it, which has the problems")
        if language.name in files:
            raise UserError(f"{path}: name: {language.name} is also that of another description here")
        files[language.name] = DescribedFile(language, found[0])
    return list(files.values())


def rows(file: DescribedFile) -> Iterator[tuple[int, OwnProblem | UserError]]:
    """The problems of a file with their lines; in place of one that is wrong, the reason."""
    seen: dict[int, int] = {}
    for number, row in entries(file.path, LARGEST):
        where = f"{file.path}:{number}"
        try:
            problem = parse(row, file.language, where)
            first = seen.setdefault(problem.number, number)
            if first != number:
                raise UserError(f"{where}: {file.language.name}/{problem.number} is also in line {first}")
            yield number, problem
        except UserError as error:
            yield number, error


def parse(row: Mapping[str, Any] | UserError, language: LanguageDescription, where: str) -> OwnProblem:
    """The problem in a row, or a `UserError`: what is given, or what is wrong."""
    if isinstance(row, UserError):
        raise row
    if not isinstance(row, dict):
        raise UserError(f"{where}: found {type(row).__name__}, expected an object")
    if unknown := row.keys() - {*KEYS, BROKEN, "example_test", "text", "docstring"}:
        raise UserError(f"{where}: {min(unknown)}: unknown key; known: {', '.join((*KEYS, BROKEN))}")
    for key in KEYS:
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise UserError(f"{where}: {key} is missing or no text")
    prefix, _, digits = row["task_id"].partition("/")
    if prefix != language.name or not (digits.isascii() and digits.isdigit() and len(digits) < 7):
        raise UserError(f"{where}: task_id is {row['task_id'][:60]!r}, expected one such as {language.name}/0")
    broken = row.get(BROKEN, [])
    if not isinstance(broken, list) or not all(isinstance(each, str) for each in broken):
        raise UserError(f"{where}: {BROKEN} is no list of texts")
    texts = (row[key] for key in KEYS[1:])
    return OwnProblem(language.name, int(digits), *texts, tuple(broken))
