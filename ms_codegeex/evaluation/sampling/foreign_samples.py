"""Read samples made elsewhere: our own rows and the formats of CodeGeeX, CodeGeeX2 and HumanEval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import sha256
from ms_codegeex.evaluation.jsonl import read_rows
from ms_codegeex.evaluation.rows import SAMPLE, flaws, sample_from
from ms_codegeex.evaluation.task import Problem, Sample, SampledAnswer, Stop, Task

FINISH = {0: "length", 1: "stop", 2: "eos"}  # CodeGeeX's codes
OURS = ("completion_id", "prompt", "generation", "finish", "extra")


def read_samples(path: Path, task: Task, problems: Sequence[Problem]) -> Iterator[Sample]:
    """The samples of these problems in a .jsonl or .jsonl.gz file, numbered in file order.

    Rows have `task_id` and either `completion` (HumanEval's format: judged unchanged), `solution` (EvalPlus's: a
    complete program) or `generation` (the published formats: cleaned up like a model's text). Our own rows are kept
    unchanged. A row about an unknown problem is a `UserError`.
    """
    chosen, known = {problem.id: problem for problem in problems}, {problem.id for problem in task.problems}
    count: Counter[str] = Counter()
    for number, row in enumerate(read_rows(path), 1):
        name = row.get("task_id")
        if not isinstance(name, str) or name not in known:
            raise UserError(f"{path}: row {number}: task_id {name!r} is not a problem of {task.name}; check --data")
        if name in chosen:
            yield _sample(row, task, chosen[name], count[name], f"{path}: row {number}")
            count[name] += 1


def _sample(row: Mapping[str, Any], task: Task, problem: Problem, number: int, where: str) -> Sample:
    if all(name in row for name in OURS):
        ours = {**row, "completion_id": number}
        if flaw := flaws(task, SAMPLE)(ours):
            raise UserError(f"{where}: {flaw}; remove the row, or restore the file")
        return sample_from(ours)
    names = ("completion", "generation", *(("solution",) if task.whole_programs else ()))
    name = next((name for name in names if name in row), None)
    if name is None:
        raise UserError(f"{where}: none of {', '.join(names)}; it has {', '.join(row)}")
    if not isinstance(row[name], str):
        raise UserError(f"{where}: {name}: found {type(row[name]).__name__}, expected text")
    finish = FINISH.get(row.get("finish"), "given") if isinstance(row.get("finish"), int) else "given"

    def replay(prompt: str, *, seed: int, stop: Stop | None = None, max_new_tokens: int | None = None) -> SampledAnswer:
        return SampledAnswer(row[name], finish)

    sample = task.produce(problem, number, 0, replay)  # adds the prompt and the task's `extra`
    if name == "solution":
        return replace(sample, prompt="", generation=row[name])
    return replace(sample, generation=row[name]) if name == "completion" else sample


def identity(path: Path) -> dict[str, Any]:
    """The file's path and hash."""
    return {"samples": str(path), "sha256": sha256(path)}
