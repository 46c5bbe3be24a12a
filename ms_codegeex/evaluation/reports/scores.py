"""The content of `report.json`: scores by judging mode and by every label of the problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ms_codegeex.evaluation.reports import estimators
from ms_codegeex.evaluation.task import Problem, Task

FORMAT = "ms-codegeex evaluation report"
KS = (1, 10, 100)
ProblemCounts = dict[str, tuple[int, int]]  # problem -> samples judged, samples passed


def build(task: Task, problems: Sequence[Problem], samples: Iterable[Mapping], results: Iterable[Mapping]) -> dict:
    """The report of the problems that have verdicts. The session adds settings, references and more."""
    rows = [row for row in results if row["task_id"] in {problem.id for problem in problems}]
    chosen = {problem.id: problem for problem in problems}
    finishes = Counter(row["finish"] for row in samples if row["task_id"] in chosen)
    modes = [mode for mode in task.modes if any(mode in row["verdicts"] for row in rows)]
    cases = task.samples_per_problem(1) > 1
    return {
        "format": FORMAT,
        "version": 1,
        "task": task.name,
        "problems": {"chosen": len(chosen), "judged": len({row["task_id"] for row in rows})},
        "samples": {"drawn": sum(finishes.values()), "judged": len(rows), "finish": dict(sorted(finishes.items()))},
        "scores": {mode: _scores(problems, _counts(rows, mode), cases) for mode in modes},
        "verdicts": {mode: _verdicts(chosen, rows, mode) for mode in modes},
        "seconds": {"median": _median([row["seconds"] for row in rows])} if rows else {},
        "by_problem": _by_problem(problems, rows, modes),
    }


def _counts(rows: Iterable[Mapping[str, Any]], mode: str) -> ProblemCounts:
    samples: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    for row in rows:
        if mode in row["verdicts"]:
            samples[row["task_id"]] += 1
            passed[row["task_id"]] += row["verdicts"][mode] == "passed"
    return {name: (count, passed[name]) for name, count in samples.items()}


def _scores(problems: Sequence[Problem], counts: ProblemCounts, cases: bool) -> dict[str, Any]:
    judged = [problem for problem in problems if problem.id in counts]
    by: dict[str, dict[str, list[Problem]]] = {}
    for problem in judged:
        for label, value in problem.labels.items():
            by.setdefault(label, {}).setdefault(value, []).append(problem)
    return {
        "all": _score(judged, counts, cases),
        "by": {label: {v: _score(p, counts, cases) for v, p in groups.items()} for label, groups in by.items()},
    }


def _score(problems: Sequence[Problem], counts: ProblemCounts, cases: bool) -> dict[str, Any]:
    """If `cases`, a problem's samples answer different questions, and pass@k is meaningless."""
    pairs = [counts[problem.id] for problem in problems]
    score = {
        "problems": len(pairs),
        "samples": sum(samples for samples, _ in pairs),
        "passed": sum(passed for _, passed in pairs),
        "solved": sum(passed > 0 for _, passed in pairs),
        "pass_rate": estimators.pass_rate(pairs),
    }
    return score if cases else {**score, "pass_at": estimators.pass_rates(pairs, KS), "curve": estimators.curve(pairs)}


def model_of(report: Mapping[str, Any]) -> str:
    """The name of the model or server's model, or the file that samples came from; empty if it is not recorded."""
    model = report.get("settings", {}).get("model", {})
    return str(model.get("model") or model.get("path") or model.get("samples") or "")


def first_label(problems: Iterable[Problem]) -> str | None:
    """The label that tables are grouped by, such as a language, a library or a category."""
    return next((label for problem in problems for label in problem.labels), None)


def _verdicts(chosen: Mapping[str, Problem], rows: Iterable[Mapping], mode: str) -> dict[str, dict[str, int]]:
    label, groups = first_label(chosen.values()), dict[str, Counter[str]]()
    for row in rows:
        if mode in row["verdicts"]:
            name = chosen[row["task_id"]].labels.get(label or "", "all")
            groups.setdefault(name, Counter())[row["verdicts"][mode]] += 1
    return {name: dict(sorted(found.items())) for name, found in groups.items()}


def _by_problem(problems: Sequence[Problem], rows: Sequence[Mapping], modes: Sequence[str]) -> list[dict[str, Any]]:
    counts = {mode: _counts(rows, mode) for mode in modes}
    return [
        {
            "task_id": problem.id,
            "labels": dict(problem.labels),
            "samples": max(counts[mode].get(problem.id, (0, 0))[0] for mode in modes),
            "passed": {mode: counts[mode][problem.id][1] for mode in modes if problem.id in counts[mode]},
        }
        for problem in problems
        if any(problem.id in counts[mode] for mode in modes)
    ]


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def lines(report: Mapping[str, Any]) -> list[str]:
    """The scores in a few lines for the user."""
    found = []
    for mode, scores in report["scores"].items():
        groups = {"all": scores["all"]}
        for values in scores["by"].values():
            groups |= values if len(values) > 1 else {}
        for name, score in groups.items():
            rates = [
                f"pass@{k} {percent(rate)}" for k, rate in score.get("pass_at", {}).items() if "value" in rate
            ] or [f"pass rate {percent(score['pass_rate'])}"]
            found.append(f"{mode}, {name}: {', '.join(rates)} of {score['problems']} problems")
    return found


def percent(rate: Mapping[str, float]) -> str:
    """An estimate with its interval, in per cent."""
    if "value" not in rate:
        return ""
    return f"{100 * rate['value']:.2f} % ({100 * rate['low']:.1f} to {100 * rate['high']:.1f})"
