"""The rows of `samples.jsonl` and `results.jsonl`: their keys and types, and their conversion from and to objects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from ms_codegeex.base.digests import json_digest
from ms_codegeex.extras.evaluation.sandbox import Verdict
from ms_codegeex.extras.evaluation.task import UNREAD, Judgement, Problem, Sample, Task

Row = Mapping[str, Any]
RowKey = tuple[str, int]  # task_id, completion_id
NOTES = ("raw", "turns", "reason")  # keys of `extra` that record how a text was made; they do not affect its verdict
TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("task_id", "prompt", "generation", "finish", "stderr", "sample"), (str,)),
    **{"extra": (dict,), "verdicts": (dict,), "completion_id": (int,)},
    **{"seconds": (int, float), "exit_code": (int, type(None))},
}
SAMPLE = ("task_id", "completion_id", "prompt", "generation", "finish", "extra")
JUDGEMENT = ("task_id", "completion_id", "verdicts", "seconds", "exit_code", "stderr", "extra", "sample")


def key(row: Mapping[str, Any]) -> RowKey:
    return row["task_id"], row["completion_id"]


def flaws(task: Task, keys: Sequence[str]) -> Callable[[Mapping[str, Any]], str]:
    """A function that says why a row is invalid, "" for a valid one: it needs these keys and a problem of the task."""
    known = {problem.id for problem in task.problems}

    def flaw(row: Mapping[str, Any]) -> str:
        for name in keys:
            value = row.get(name)
            if name not in row or not isinstance(value, TYPES[name]) or isinstance(value, bool):
                types = " or ".join("null" if kind is type(None) else kind.__name__ for kind in TYPES[name])
                return f"{name} is {json.dumps(value)[:60] if name in row else 'missing'}, expected {types}"
        if row["task_id"] not in known:
            return f"task_id {row['task_id'][:60]!r} is not a problem of {task.name}"
        if row["completion_id"] < 0:
            return f"completion_id is {row['completion_id']}, expected 0 or more"
        return _flaw_of_verdicts(row, task.modes) if "verdicts" in keys else task.flaw(sample_from(row))

    return flaw


def _flaw_of_verdicts(row: Mapping[str, Any], modes: Sequence[str]) -> str:
    known = [verdict.value for verdict in Verdict]
    for mode, verdict in row["verdicts"].items():
        if mode not in modes or verdict not in known:
            return f"verdicts has {mode[:60]} {json.dumps(verdict)[:60]}, expected one of {', '.join(known)}"
    if set(row["verdicts"]) != set(modes):
        return f"verdicts is of {', '.join(row['verdicts']) or 'nothing'}, expected {', '.join(modes)}"
    return "" if 0 <= row["seconds"] < float("inf") else f"seconds is {row['seconds']}, expected 0 or more"


def sample_from(row: Mapping[str, Any]) -> Sample:
    return Sample(**{name: row[name] for name in SAMPLE})


def judgement_row(judgement: Judgement, sample: Sample) -> dict[str, Any]:
    verdicts = {mode: verdict.value for mode, verdict in judgement.verdicts.items()}
    return {**asdict(judgement), "verdicts": verdicts, "extra": dict(judgement.extra), "sample": fingerprint(sample)}


def judgement_from(row: Mapping[str, Any]) -> Judgement:
    verdicts = {mode: Verdict(value) for mode, value in row["verdicts"].items()}
    return Judgement(**{**{name: row[name] for name in JUDGEMENT if name != "sample"}, "verdicts": verdicts})


def fingerprint(sample: Sample) -> str:
    """A hash of all that decides a sample's verdict. Samples with the same hash are judged once."""
    extra = {name: value for name, value in sample.extra.items() if name not in NOTES}
    program = [sample.task_id, sample.prompt, sample.generation, sample.finish == UNREAD, extra]
    return json_digest(program)[:32]


def problems_fingerprint(problems: Sequence[Problem]) -> str:
    """A hash of the problems' content, independent of the files they came from and of the process."""

    def plain(value: Any) -> Any:
        if isinstance(value, set | frozenset):
            return _text(value)
        return asdict(value) if is_dataclass(value) and not isinstance(value, type) else repr(value)

    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps([problem.id, problem.data], sort_keys=True, default=plain).encode())
    return digest.hexdigest()


def _text(value: Any) -> str:
    if isinstance(value, set | frozenset):
        items = f"{{{', '.join(sorted(map(_text, value)))}}}"
        if isinstance(value, set):
            return items
        return f"frozenset({items})" if value else "frozenset()"
    if isinstance(value, tuple):
        return f"({', '.join(map(_text, value))}{',' if len(value) == 1 else ''})"
    return repr(value)


def current_results(samples: Iterable[Row], results: Iterable[Row]) -> list[Row]:
    fingerprints = {key(row): fingerprint(sample_from(row)) for row in samples}
    return [row for row in results if fingerprints.get(key(row)) == row["sample"]]


def in_order(rows: Iterable[dict[str, Any]], order: Iterable[RowKey]) -> list[dict[str, Any]]:
    """Rows in the order of these keys; rows with other keys follow, sorted."""
    positions = {each: position for position, each in enumerate(order)}
    return sorted(rows, key=lambda row: (positions.get(key(row), len(positions)), *key(row)))
