"""The canonical solutions first: where they fail, so does a model, and its score would be this machine's fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ms_codegeex.evaluation.rows import RowFile
from ms_codegeex.evaluation.run import judge
from ms_codegeex.evaluation.sandbox import Sandbox, Verdict
from ms_codegeex.evaluation.task import Problem, Task


@dataclass(frozen=True)
class Findings:
    """What became of the references of one group of problems, such as a language."""

    total: int
    passed: int
    defects: Mapping[str, str] = field(default_factory=dict)  # that did not pass and were known for it: reasons
    failing: Mapping[str, str] = field(default_factory=dict)  # that did not pass: verdict and last line of stderr

    @property
    def sound(self) -> bool:
        """Whether verdicts of this group mean something."""
        return not self.failing


def check(
    task: Task, problems: Sequence[Problem], sandbox: Sandbox, rows: RowFile, workers: int, progress: bool
) -> dict[str, Findings]:
    """Findings by group. Verdicts are kept in `rows`, and what stands there is not run again."""
    samples = [sample for problem in problems if (sample := task.reference(problem)) is not None]
    judge(task, problems, sandbox, samples, rows, workers, progress, name="references")
    wanted = {sample.task_id for sample in samples}
    known, groups = task.known_defects(), {problem.id: group(problem) for problem in problems}
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
    """What stands or falls together: a language, a library, or the whole."""
    return problem.labels.get("language") or problem.labels.get("library") or "all"


def _why(row: Mapping[str, Any]) -> str:
    verdicts = ", ".join(f"{mode} {verdict}" for mode, verdict in row["verdicts"].items())
    lines = [line for line in row["stderr"].splitlines() if line.strip()]
    return f"{verdicts}: {lines[-1].strip()[:200]}" if lines else verdicts


def told(name: str, found: Findings) -> list[str]:
    """A group's findings in lines for people."""
    lines = [f"references, {name}: {found.passed} of {found.total} pass"]
    lines += [f"  {each} does not, as is known: {reason}" for each, reason in found.defects.items()]
    lines += [f"  {each} FAILS ({why})" for each, why in found.failing.items()]
    return lines
