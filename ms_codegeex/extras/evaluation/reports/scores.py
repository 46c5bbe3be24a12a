"""The content of `report.json`: scores by judging mode and by every label of the problems."""

from __future__ import annotations

import statistics
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ms_codegeex.extras.evaluation.judging.reasons import last_line, told
from ms_codegeex.extras.evaluation.reports import estimators
from ms_codegeex.extras.evaluation.task import Problem, Task

FORMAT = "ms-codegeex evaluation report"
KS = (1, 10, 100)
ENDING = 4  # lines of a failed answer that are kept, and of its error half as many
MAX_WIDTH = 120  # characters of each
MAX_FAILED = 10  # failed problems that the lines for people name
ProblemCounts = dict[str, tuple[int, int]]  # problem -> samples judged, samples passed


def build(task: Task, problems: Sequence[Problem], samples: Iterable[Mapping], results: Iterable[Mapping]) -> dict:
    """The report of the problems that have verdicts. The session adds settings, references and more."""
    chosen = {problem.id: problem for problem in problems}
    rows = [row for row in results if row["task_id"] in chosen]
    drawn = [row for row in samples if row["task_id"] in chosen]
    finishes = Counter(row["finish"] for row in drawn)
    lacking = Counter(why for row in drawn if (why := row.get("extra", {}).get("lacking")))
    counts = {mode: judged for mode in task.modes if (judged := _counts(rows, mode))}
    cases = task.samples_per_problem(1) > 1
    measured = {"measures": _measures(problems, rows, task.measures)} if task.measures else {}
    return {
        "format": FORMAT,
        "version": 1,
        "task": task.name,
        "problems": {"chosen": len(chosen), "judged": len({row["task_id"] for row in rows})},
        "samples": {"drawn": sum(finishes.values()), "judged": len(rows), "finish": dict(sorted(finishes.items()))},
        "scores": {mode: _scores(problems, judged, cases) for mode, judged in counts.items()},
        "verdicts": {mode: _verdicts(chosen, rows, mode) for mode in counts},
        "seconds": {"median": statistics.median_high(row["seconds"] for row in rows)} if rows else {},
        "by_problem": _by_problem(problems, counts),
        "failed": _failed(problems, drawn, rows, next(iter(task.modes), "")),
        **measured,
        **({"no_code": dict(lacking.most_common())} if lacking else {}),
    }


def _measures(problems: Sequence[Problem], rows: Sequence[Mapping], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    by_problem: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_problem.setdefault(row["task_id"], []).append(row["extra"])
    judged = [problem for problem in problems if problem.id in by_problem]
    groups = {"all": judged} if judged else {}
    for problem in judged:
        groups.setdefault(problem.labels.get("language", "all"), []).append(problem)

    def measured(members: Sequence[Problem]) -> dict[str, Any]:
        own = [by_problem[problem.id] for problem in members]
        sizes = {"problems": len(own), "samples": sum(map(len, own))}
        each = {name: [statistics.fmean(one.get(name, 0.0) for one in extras) for extras in own] for name in names}
        return {**sizes, **{name: estimators.mean_share(values) for name, values in each.items()}}

    return {name: measured(members) for name, members in groups.items()}


def _counts(rows: Iterable[Mapping[str, Any]], mode: str) -> ProblemCounts:
    counts: ProblemCounts = {}
    for row in rows:
        if mode in row["verdicts"]:
            samples, passed = counts.get(row["task_id"], (0, 0))
            counts[row["task_id"]] = samples + 1, passed + (row["verdicts"][mode] == "passed")
    return counts


def _scores(problems: Sequence[Problem], counts: ProblemCounts, cases: bool) -> dict[str, Any]:
    labels = {problem.id: problem.labels for problem in problems if problem.id in counts}

    def score_of(names: Iterable[str]) -> dict[str, Any]:
        return score([counts[name] for name in names], cases)

    groups = by_label(labels).items()
    by = {label: {value: score_of(names) for value, names in values.items()} for label, values in groups}
    return {"all": score_of(labels), "by": by}


def by_label(labels: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, list[str]]]:
    """The names of problems by label and its value, from each problem's labels."""
    groups: dict[str, dict[str, list[str]]] = {}
    for name, values in labels.items():
        for label, value in values.items():
            groups.setdefault(label, {}).setdefault(value, []).append(name)
    return groups


def score(pairs: Sequence[tuple[int, int]], cases: bool) -> dict[str, Any]:
    """The score of problems, of each its samples judged and samples passed. If `cases`, a problem's samples answer
    different questions, and pass@k is meaningless."""
    samples, passed = (sum(column) for column in zip(*pairs, strict=True))
    tally = {"problems": len(pairs), "samples": samples, "passed": passed, "solved": sum(n > 0 for _, n in pairs)}
    tally["pass_rate"] = estimators.pass_rate(pairs)
    return tally if cases else {**tally, "pass_at": estimators.pass_rates(pairs, KS), "curve": estimators.curve(pairs)}


def model_of(report: Mapping[str, Any]) -> str:
    model = report.get("settings", {}).get("model", {})
    return str(model.get("model") or model.get("path") or model.get("samples") or "")


def _verdicts(chosen: Mapping[str, Problem], rows: Iterable[Mapping], mode: str) -> dict[str, dict[str, int]]:
    first = next((label for problem in chosen.values() for label in problem.labels), "")  # such as the language
    groups: dict[str, Counter[str]] = {}
    for row in rows:
        if mode in row["verdicts"]:
            name = chosen[row["task_id"]].labels.get(first, "all")
            groups.setdefault(name, Counter())[row["verdicts"][mode]] += 1
    return {name: dict(sorted(verdicts.items())) for name, verdicts in groups.items()}


def _by_problem(problems: Sequence[Problem], counts: Mapping[str, ProblemCounts]) -> list[dict[str, Any]]:
    rows = []
    for problem in problems:
        if by_mode := {mode: each[problem.id] for mode, each in counts.items() if problem.id in each}:
            samples = max(samples for samples, _ in by_mode.values())
            passed = {mode: passed for mode, (_, passed) in by_mode.items()}
            rows.append({"task_id": problem.id, "labels": dict(problem.labels), "samples": samples, "passed": passed})
    return rows


def _failed(problems: Sequence[Problem], samples: Sequence[Mapping], rows: Sequence[Mapping], mode: str) -> list[dict]:
    """The problems that no answer solves: of the first answer the verdict, how it ends, and the end of its error."""
    texts = {(row["task_id"], row["completion_id"]): row["generation"] for row in samples}
    by_problem: dict[str, list[Mapping]] = {}
    for row in rows:
        if mode in row["verdicts"]:
            by_problem.setdefault(row["task_id"], []).append(row)
    failed = []
    for name in (problem.id for problem in problems):
        judged = by_problem.get(name, ())
        if judged and all(row["verdicts"][mode] != "passed" for row in judged):
            first = min(judged, key=lambda row: row["completion_id"])
            answer = texts.get((name, first["completion_id"]), "").splitlines()
            error = [*told(first["stderr"])[:-1], last_line(first["stderr"])]
            ends = {"answer": _ending(answer, ENDING), "error": _ending(error, ENDING // 2)}
            failed.append({"task_id": name, "samples": len(judged), "verdict": first["verdicts"][mode], **ends})
    return failed


def _ending(lines: Sequence[str], count: int) -> str:
    kept = [line.expandtabs(4).rstrip() for line in lines if line.strip()][-count:]
    return "\n".join(line[:MAX_WIDTH] for line in textwrap.dedent("\n".join(kept)).split("\n"))


def failed_in_words(failed: Mapping[str, Any]) -> str:
    """A failed problem in a line: its verdict, and the last lines of its error and of its answer."""
    error, answer = (failed[key].rpartition("\n")[2].strip() for key in ("error", "answer"))
    says = f"{failed['verdict']}: {error}" if error else failed["verdict"]
    return f"failed {failed['task_id']}: {says}; " + (f"its answer ends: {answer}" if answer else "its answer is empty")


def lines(report: Mapping[str, Any]) -> list[str]:
    """The scores in a few lines for the user, and the first failed problems."""
    summary = []
    for mode, scores in report["scores"].items():
        groups = {"all": scores["all"]}
        for values in scores["by"].values():
            groups |= values if len(values) > 1 else {}
        summary += [f"{mode}, {name}: {in_words(score)}" for name, score in groups.items()]
    summary += filter(None, [no_code(report)])
    summary += (f"{name}: {measures_in_words(each)}" for name, each in report.get("measures", {}).items())
    failed = report.get("failed", [])
    summary += map(failed_in_words, failed[:MAX_FAILED])
    return summary + ([f"... and {more} more failed problems"] if (more := len(failed) - MAX_FAILED) > 0 else [])


def no_code(report: Mapping[str, Any]) -> str:
    """How many replies of a chat model have no code, and why; empty if all have."""
    reasons = report.get("no_code", {})
    why = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    return f"{sum(reasons.values())} of {report['samples']['drawn']} replies have no code: {why}" if reasons else ""


def measures_in_words(group: Mapping[str, Any]) -> str:
    shares = {name: value for name, value in group.items() if isinstance(value, Mapping)}
    return f"{', '.join(f'{name} {percent(share)}' for name, share in shares.items())} of {group['problems']} problems"


def in_words(score: Mapping[str, Any]) -> str:
    rates = [f"pass@{k} {percent(rate)}" for k, rate in score.get("pass_at", {}).items() if "value" in rate]
    return f"{', '.join(rates) or 'pass rate ' + percent(score['pass_rate'])} of {score['problems']} problems"


def percent(rate: Mapping[str, float]) -> str:
    """An estimate with its interval, in per cent."""
    if "value" not in rate:
        return ""
    return f"{100 * rate['value']:.2f} % ({100 * rate['low']:.1f} to {100 * rate['high']:.1f})"
