"""Judge the samples of an evaluation. The canonical solutions are judged first: where they fail, a model's score would
reflect this machine, not the model. An interrupted run continues where it stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ms_codegeex.extras.evaluation.jsonl import RowFile
from ms_codegeex.extras.evaluation.judging.engines import JudgeEngine
from ms_codegeex.extras.evaluation.judging.reasons import reason
from ms_codegeex.extras.evaluation.progress import in_parallel
from ms_codegeex.extras.evaluation.rows import fingerprint, in_order, judgement_row, key
from ms_codegeex.extras.evaluation.sandbox import Verdict
from ms_codegeex.extras.evaluation.task import Judgement, Problem, Sample, Task

TRIALS = 3  # programs of a group that are tried until one passes; where none does, the machine cannot judge the group


def judge_samples(
    task: Task,
    problems: Sequence[Problem],
    engine: JudgeEngine,
    samples: Sequence[Sample],
    results: RowFile,
    progress: bool,
    name: str = "judged",
) -> None:
    """Judge the samples that have no verdict in `results`, each distinct program of a problem once.

    Rows about other samples stay, at the end of the file; rows about an earlier text of a sample are removed.
    """
    by_id = {problem.id: problem for problem in problems}
    fingerprints = {(sample.task_id, sample.completion_id): fingerprint(sample) for sample in samples}
    valid = [row for row in results.rows if fingerprints.get(key(row), row["sample"]) == row["sample"]]
    known = {row["sample"]: row for row in valid}
    judged = {key(row) for row in valid}
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        if (sample.task_id, sample.completion_id) not in judged:
            groups.setdefault(fingerprints[sample.task_id, sample.completion_id], []).append(sample)
    results.replace(valid)
    results.append(_copy(known[program], one) for program, group in groups.items() if program in known for one in group)
    waiting = [group for program, group in groups.items() if program not in known]

    def decide(group: list[Sample]) -> dict[str, Any]:
        first = group[0]
        if first.ran.startswith("nothing"):
            judgement = Judgement(*key(asdict(first)), dict.fromkeys(task.modes, Verdict.ERROR), 0.0, None, first.ran)
        else:
            judgement = engine.judge(by_id[first.task_id], first)
        return judgement_row(replace(judgement, extra={**judgement.extra, "ran": first.ran}), first)

    for group, row in in_parallel(waiting, decide, engine.workers, name, progress, len(groups) - len(waiting)):
        results.append(_copy(row, sample) for sample in group)
    results.replace(in_order(results.rows, fingerprints))


def _copy(row: Mapping[str, Any], sample: Sample) -> dict[str, Any]:
    return {**row, "task_id": sample.task_id, "completion_id": sample.completion_id}


@dataclass
class Findings:
    """The results of the references of a group of problems. If some fail, verdicts on the group mean nothing."""

    total: int = 0
    passed: int = 0
    defects: dict[str, str] = field(default_factory=dict)  # expected failures: problem -> reason
    failing: dict[str, str] = field(default_factory=dict)  # the others: problem -> verdict and last line of stderr


def check_references(
    task: Task,
    problems: Sequence[Problem],
    engine: JudgeEngine,
    known: Mapping[str, str],
    rows: RowFile,
    progress: bool,
) -> dict[str, Findings]:
    """Group -> findings. Verdicts are kept in `rows` and not computed again. `known`: problems that may fail -> why."""
    samples = [sample for problem in problems if (sample := task.reference(problem)) is not None]
    judge_samples(task, problems, engine, samples, rows, progress, name="references")
    wanted = {sample.task_id for sample in samples}
    groups = {problem.id: group(problem) for problem in problems}
    result: dict[str, Findings] = {}
    for row in rows.rows:
        if (name := row["task_id"]) in wanted:
            findings = result.setdefault(groups[name], Findings())
            findings.total += 1
            if all(verdict == Verdict.PASSED.value for verdict in row["verdicts"].values()):
                findings.passed += 1
            elif name in known:
                findings.defects[name] = known[name]
            else:
                findings.failing[name] = reason(row["verdicts"], row["stderr"])
    return result


def unjudgeable(
    task: Task, problems: Sequence[Problem], engine: JudgeEngine, known: Mapping[str, str], rows: RowFile
) -> dict[str, str]:
    """Group -> verdict and last line of stderr, for groups in which no `Task.trial` passes: any model would get 0 %
    there, and the machine is at fault. Verdicts and `known` are as in `check_references`."""
    groups: dict[str, list[Sample]] = {}
    for problem in problems:
        if problem.id not in known and (sample := task.trial(problem)) is not None:
            groups.setdefault(group(problem), []).append(sample)
    failing = dict.fromkeys(groups, "")
    for number in range(TRIALS):
        turn = {name: groups[name][len(groups[name]) * number // TRIALS] for name in failing}
        judge_samples(task, problems, engine, list(turn.values()), rows, progress=False)
        found = {row["task_id"]: row for row in rows.rows}
        tried = {name: found[sample.task_id] for name, sample in turn.items()}
        failing = {
            name: reason(row["verdicts"], row["stderr"])
            for name, row in tried.items()
            if row["verdicts"].get("strict") != "passed"
        }
    return failing


def group(problem: Problem) -> str:
    return problem.labels.get("language") or problem.labels.get("library") or "all"


def summary(name: str, findings: Findings) -> list[str]:
    """A group's findings as lines for the user."""
    lines = [f"references, {name}: {findings.passed} of {findings.total} pass"]
    lines += [f"  {each} does not, as expected: {reason}" for each, reason in findings.defects.items()]
    lines += [f"  {each} FAILS ({why})" for each, why in findings.failing.items()]
    return lines
