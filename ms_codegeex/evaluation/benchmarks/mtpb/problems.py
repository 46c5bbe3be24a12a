"""Read and check the file of MTPB's problems, and fill in the inputs of each test case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.base.reading import sha256
from ms_codegeex.evaluation.benchmarks.tables import ProblemFiles
from ms_codegeex.evaluation.task import Problem

FORM = "has id, name, category, prompts, inputs and outputs"
FILES = ProblemFiles("MTPB", ("mtpb",), ("prompts", "inputs", "outputs"), FORM, "github.com/salesforce/CodeGen")
KNOWN_SHA256 = "3ab79ddb160f484a63491330ba72204930d56cc946f7c0c5fb469622a941f89c"  # of Salesforce's file
MAX_GEN_LENGTH = 256  # tokens per turn if the problem sets none, as in the release


@dataclass(frozen=True)
class Case:
    """One test case: the prompts of all turns with their values filled in, and the value the program has to print."""

    prompts: tuple[str, ...]
    inputs: Mapping[str, Any]
    gold: Any


@dataclass(frozen=True)
class MtpbProblem:
    """A problem. `max_gen_length` is in tokens per turn."""

    id: str
    name: str
    category: str
    cases: tuple[Case, ...]
    max_gen_length: int


def read_problems(data: Path) -> list[Problem]:
    """The problems of a file, or of the one in a directory.

    As in the release, an output without an input is dropped (id 57 has one). Any other flaw is a `UserError` that
    names the problem.
    """

    def convert(row: Mapping[str, Any], _where: str, _index: int) -> Problem:
        problem = _problem(row)
        labels = {"category": problem.category, "turns": str(len(problem.cases[0].prompts))}
        return Problem(problem.id, labels, problem)

    return FILES.problems(data, convert)


def provenance(data: Path) -> dict[str, Any]:
    """The description of the file in a report: name, hash, and whether it is the published one."""
    path = FILES.find(data)[0]
    digest = sha256(path)
    return {"file": path.name, "sha256": digest, "known": digest == KNOWN_SHA256}


def _problem(row: Mapping[str, Any]) -> MtpbProblem:
    prompts, inputs, outputs = row["prompts"], row["inputs"], row["outputs"]
    for name, value in (("prompts", prompts), ("inputs", inputs), ("outputs", outputs)):
        if not isinstance(value, list) or not value:
            raise ValueError(f"{name} is not a list, or is empty")
    if len(outputs) < len(inputs):
        raise ValueError(f"{len(outputs)} outputs for {len(inputs)} inputs")
    length = row.get("max_gen_length", MAX_GEN_LENGTH)
    if not isinstance(length, int) or length < 1:
        raise ValueError(f"max_gen_length is {length}")
    cases = tuple(
        Case(tuple(prompt.format(**values) for prompt in prompts), values, gold)
        for values, gold in zip(inputs, outputs, strict=False)
    )
    return MtpbProblem(str(row["id"]), str(row["name"]), str(row["category"]), cases, length)
