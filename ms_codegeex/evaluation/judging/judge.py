"""Judge the samples of an evaluation. An interrupted run continues where it stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from ms_codegeex.evaluation.jsonl import RowFile
from ms_codegeex.evaluation.judging.engines import JudgeEngine
from ms_codegeex.evaluation.progress import in_parallel
from ms_codegeex.evaluation.rows import fingerprint, in_order, judgement_row, key
from ms_codegeex.evaluation.sandbox import Verdict
from ms_codegeex.evaluation.task import Judgement, Problem, Sample, Task


def judge(
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
