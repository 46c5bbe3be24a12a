"""Judge the canonical solutions first: where they fail, a model's score would reflect this machine, not the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ms_codegeex.evaluation.jsonl import RowFile
from ms_codegeex.evaluation.judging.engines import JudgeEngine
from ms_codegeex.evaluation.judging.judge import judge
from ms_codegeex.evaluation.sandbox import Verdict
from ms_codegeex.evaluation.task import Problem, Task


@dataclass(frozen=True)
class Findings:
    """The results of the references of one group of problems, such as a language."""

    total: int
    passed: int
    defects: Mapping[str, str] = field(default_factory=dict)  # expected failures: problem -> reason
    failing: Mapping[str, str] = field(default_factory=dict)  # the others: problem -> verdict and last line of stderr

    @property
    def sound(self) -> bool:
        """Whether verdicts on this group mean something."""
        return not self.failing


def check(
    task: Task,
    problems: Sequence[Problem],
    engine: JudgeEngine,
    known: Mapping[str, str],
    rows: RowFile,
    progress: bool,
) -> dict[str, Findings]:
    """Group -> findings. Verdicts are kept in `rows` and not computed again. `known` are the problems whose references
    need not pass, with reasons."""
    samples = [sample for problem in problems if (sample := task.reference(problem)) is not None]
    judge(task, problems, engine, samples, rows, progress, name="references")
    wanted = {sample.task_id for sample in samples}
    groups = {problem.id: group(problem) for problem in problems}
    result: dict[str, dict[str, Any]] = {}
    for row in rows.rows:
        if row["task_id"] not in wanted:
            continue
        found = result.setdefault(groups[row["task_id"]], {"total": 0, "passed": 0, "defects": {}, "failing": {}})
        found["total"] += 1
        if all(verdict == Verdict.PASSED.value for verdict in row["verdicts"].values()):
            found["passed"] += 1
        elif row["task_id"] in known:
            found["defects"][row["task_id"]] = known[row["task_id"]]
        else:
            found["failing"][row["task_id"]] = _why(row)
    return {name: Findings(**found) for name, found in result.items()}


def group(problem: Problem) -> str:
    """The problem's group, which is accepted or refused as a whole: its language, its library, or "all"."""
    return problem.labels.get("language") or problem.labels.get("library") or "all"


def _why(row: Mapping[str, Any]) -> str:
    verdicts = ", ".join(f"{mode} {verdict}" for mode, verdict in row["verdicts"].items())
    lines = [line for line in row["stderr"].splitlines() if line.strip()]
    return f"{verdicts}: {lines[-1].strip()[:200]}" if lines else verdicts


def summary(name: str, found: Findings) -> list[str]:
    """A group's findings as lines for the user."""
    lines = [f"references, {name}: {found.passed} of {found.total} pass"]
    lines += [f"  {each} does not, as expected: {reason}" for each, reason in found.defects.items()]
    lines += [f"  {each} FAILS ({why})" for each, why in found.failing.items()]
    return lines
