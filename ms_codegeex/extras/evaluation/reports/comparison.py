"""Compare evaluations of one benchmark: scores on the problems that all of them judged, and whether they differ.

Each evaluation is a directory of `ms-codegeex evaluate`. A problem's rate is the share of its samples that pass. Two
evaluations are compared problem by problem, so that their problems' difficulty cancels.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import read_json
from ms_codegeex.extras.evaluation.reports import estimators
from ms_codegeex.extras.evaluation.reports.published import PublishedRow
from ms_codegeex.extras.evaluation.reports.scores import FORMAT, by_label, in_words, model_of, percent, score

PERMUTATIONS, SEED = 10_000, 0
HARD, EASY = 0.3, 0.7  # mean rate of a problem over the evaluations; the split of CodeGen's paper, as recalled
STEP = re.compile(r"step-(\d{8,})")  # a checkpoint's name
SAME = "compare evaluations of the same problems, by --verdicts that they have"
Counts = tuple[int, int]  # samples judged, samples passed
Judged = Mapping[str, Mapping[str, Counts]]  # evaluation -> problem -> counts
Members = dict[str, dict[str, list[str]]]  # group -> evaluation -> problems


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: its name in tables, its directory, and its report."""

    name: str
    directory: Path
    report: Mapping[str, Any]

    @property
    def source(self) -> str | None:
        """The language that is translated from; None: nothing is translated."""
        return self.report.get("settings", {}).get("recipe", {}).get("translate_from")

    @property
    def model(self) -> str:
        return model_of(self.report) or "unknown"

    def counts(self, mode: str) -> dict[str, Counts]:
        rows = self.report["by_problem"]
        return {row["task_id"]: (row["samples"], row["passed"][mode]) for row in rows if mode in row["passed"]}

    def labels(self) -> dict[str, Mapping[str, str]]:
        return {row["task_id"]: row["labels"] for row in self.report["by_problem"]}


def read_evaluations(given: Sequence[str]) -> list[Evaluation]:
    """Evaluations from `DIR` or `NAME=DIR`; without a name, the directory's, preceded by its parent's if two are equal.
    `UserError`: fewer than two, one without verdicts, two of one name, or of different benchmarks."""
    if len(given) < 2:
        raise UserError("compare: expected two or more evaluations, such as evaluate compare full int8 --output both")
    named = [_named(word) for word in given]
    paths = [Path(path).resolve() for _, path in named]
    names = Counter(path.name for path in paths)
    evaluations = []
    for (name, directory), path in zip(named, paths, strict=True):
        own = path.name if names[path.name] == 1 else f"{path.parent.name}/{path.name}"
        evaluations.append(Evaluation(name or own, Path(directory), _read(Path(directory))))
    if twice := {each.name for each in evaluations if [other.name for other in evaluations].count(each.name) > 1}:
        raise UserError(f"compare: {min(twice)} is named twice; give NAME=DIR, with another name for each")
    # MTPB turn by turn and MTPB as one prompt have the same problems.
    if len(tasks := {str(each.report["task"]).removesuffix("-single-turn") for each in evaluations}) > 1:
        raise UserError(f"compare: evaluations of {', '.join(sorted(tasks))}; compare those of one benchmark")
    return evaluations


def _named(word: str) -> tuple[str, str]:
    splits = [("", word), *((word[: match.start()], word[match.end() :]) for match in re.finditer("=", word))]
    return next((each for each in splits if Path(each[1]).is_dir()), splits[-1])


def _read(directory: Path) -> Mapping[str, Any]:
    path = directory / "report.json"
    if not path.is_file():
        raise UserError(f"{directory}: no report.json; give a directory that `ms-codegeex evaluate` has written")
    report = read_json(path)
    known = isinstance(report, dict) and report.get("format") == FORMAT and isinstance(report.get("by_problem"), list)
    if not known or not report.get("scores"):
        remedy = "judge its samples with --judge-only; perplexities are compared as evaluate perplexity prints them"
        raise UserError(f"{path}: has no verdicts of problems; {remedy}")
    if not all(_is_row(row, report["scores"]) for row in report["by_problem"]):
        raise UserError(f"{path}: by_problem is damaged; write it again with --judge-only")
    settings, sections = report.get("settings", {}), ("recipe", "model", "data")
    sound = isinstance(settings, dict) and all(isinstance(settings.get(section, {}), dict) for section in sections)
    if not sound or not isinstance(settings.get("recipe", {}).get("translate_from"), str | None):
        raise UserError(f"{path}: settings is damaged; write it again with --judge-only")
    return report


def _is_row(row: object, modes: Any) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("passed"), dict) or not isinstance(row.get("labels"), dict):
        return False
    samples, passed = row.get("samples"), row["passed"].values()
    whole = row["passed"].keys() <= set(modes) and type(samples) is int and all(type(count) is int for count in passed)
    return isinstance(row.get("task_id"), str) and whole and all(0 <= count <= samples > 0 for count in passed)


def _other_files(evaluations: Sequence[Evaluation]) -> list[str]:
    marks = [each.report.get("settings", {}).get("data", {}).get("problems") for each in evaluations]
    first: dict[str | None, object] = {}
    pairs = zip(evaluations, marks, strict=True)
    return [each.name for each, mark in pairs if mark != first.setdefault(each.source, mark)]


def compare(evaluations: Sequence[Evaluation], mode: str, published: Sequence[PublishedRow] = ()) -> dict[str, Any]:
    """The content of `comparison.json`."""
    if known := {row.name for row in published} & {each.name for each in evaluations}:
        raise UserError(f"--published: {min(known)} is an evaluation's name, too; rename one of them")
    counts = {each.name: each.counts(mode) for each in evaluations}
    grouped = _directions if any(each.source for each in evaluations) else _common_groups
    groups_of = grouped(evaluations, counts, mode)
    cases = "pass_at" not in evaluations[0].report["scores"][mode]["all"]
    groups = {
        group: {name: _score([counts[name][each] for each in problems], cases) for name, problems in members.items()}
        for group, members in groups_of.items()
    }
    about = {each.name: {"directory": str(each.directory), "model": each.model} for each in evaluations}
    for each in evaluations:
        about[each.name] |= {"from": each.source, "problems": len(counts[each.name])}
    return {
        "format": "ms-codegeex comparison",
        "version": 1,
        "task": evaluations[0].report["task"],
        "mode": mode,
        "evaluations": about,
        "problems": sorted({name for members in groups_of["all"].values() for name in members}, key=_natural),
        "other_files": _other_files(evaluations),
        "groups": groups,
        "steps": _steps(evaluations, groups["all"]),
        "published_rows": {row.name: {"source": row.source, "rates": row.rates} for row in published},
        "against_published": _against(groups, published),
        "pairs": _pairs(evaluations, counts, groups_of["all"]),
        "translation": _translation(evaluations, mode),
        "budget": {each.name: rows for each in evaluations if (rows := each.report.get("budget"))},
        "published": evaluations[0].report.get("published", []),
    }


def _common_groups(evaluations: Sequence[Evaluation], counts: Judged, mode: str) -> Members:
    common = sorted(set.intersection(*(set(judged) for judged in counts.values())), key=_natural)
    if not common:
        raise UserError(f"compare: no problem was judged ({mode}) in all of {', '.join(counts)}; {SAME}")
    groups = _groups(common, evaluations[0].labels(), counts)
    return {group: dict.fromkeys(counts, members) for group, members in groups.items()}


def _directions(evaluations: Sequence[Evaluation], counts: Judged, mode: str) -> Members:
    members: dict[str, dict[str, set[str]]] = {}
    for each in evaluations:
        labels = each.labels()
        for problem in counts[each.name]:
            direction = f"{each.source or 'text'} → {labels[problem].get('language', 'python')}"
            members.setdefault(direction, {}).setdefault(each.name, set()).add(problem)
    groups: Members = {"all": {each.name: [] for each in evaluations}}
    for direction, judged in members.items():
        common = sorted(set.intersection(*judged.values()), key=_natural)
        if common:
            groups[direction] = dict.fromkeys(judged, common)
            for name in judged:
                groups["all"][name] += common
    if empty := [name for name, problems in groups["all"].items() if not problems]:
        raise UserError(f"compare: {empty[0]} judged ({mode}) no problem in common with the others; {SAME}")
    return groups


def _score(pairs: Sequence[Counts], cases: bool) -> dict[str, Any]:
    return {name: value for name, value in score(pairs, cases).items() if name != "passed"}


def _steps(evaluations: Sequence[Evaluation], scores: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    runs: dict[str, list[dict[str, Any]]] = {}
    for each in evaluations:
        path = Path(str(each.report.get("settings", {}).get("model", {}).get("path", "")))
        if step := STEP.fullmatch(path.name):
            row = {"step": int(step[1]), "name": each.name, **scores[each.name]["pass_rate"]}
            runs.setdefault(str(path.parent.parent), []).append(row)
    several = {run: rows for run, rows in runs.items() if len({row["step"] for row in rows}) > 1}
    return {run: sorted(rows, key=lambda row: row["step"]) for run, rows in several.items()}


def _against(groups: Mapping[str, Any], published: Sequence[PublishedRow]) -> list[dict[str, Any]]:
    differences = []
    for row in published:
        if absent := row.rates.keys() - groups.keys():
            raise UserError(f"--published: {row.name} has {min(absent)!r}; the groups here are {', '.join(groups)}")
        for group, rates in row.rates.items():
            for k, rate in rates.items():
                for name, scored in groups[group].items():
                    own = scored["pass_rate"] if k == "1" else scored.get("pass_at", {}).get(k, {})
                    if "value" in own:
                        difference = {key: own[key] - rate for key in ("value", "low", "high")}
                        outside = not own["low"] <= rate <= own["high"]
                        which = {"evaluation": name, "row": row.name, "group": group, "k": int(k), "published": rate}
                        differences.append({**which, "difference": difference, "outside": outside})
    return differences


def _groups(common: Sequence[str], labels: Mapping[str, Mapping[str, str]], counts: Judged) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {"all": list(common)}
    for label, values in by_label({name: labels[name] for name in common}).items():
        if len(values) > 1:
            groups |= {f"{label}: {value}": values[value] for value in sorted(values, key=_natural)}
    means = {name: np.mean([_rate(judged[name]) for judged in counts.values()]) for name in common}
    levels = {
        f"hard (mean rate below {HARD:.0%})": [name for name in common if means[name] < HARD],
        "medium": [name for name in common if HARD <= means[name] <= EASY],
        f"easy (above {EASY:.0%})": [name for name in common if means[name] > EASY],
    }
    return groups | {level: members for level, members in levels.items() if members}


def _rate(counts: Counts) -> float:
    return counts[1] / counts[0]


def _natural(value: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", value)]


def _pairs(
    evaluations: Sequence[Evaluation], counts: Judged, problems: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    pairs = []
    for one, other in itertools.combinations(evaluations, 2):
        theirs = set(problems[other.name])
        common = [name for name in problems[one.name] if name in theirs]
        if one.source != other.source or not common:
            continue
        rates = np.array([[_rate(counts[each.name][name]) for each in (one, other)] for name in common])
        differences, solved = rates[:, 1] - rates[:, 0], list(zip(common, rates > 0, strict=True))
        low, high = estimators.difference_interval(differences)
        difference = {"value": float(differences.mean()), "low": low, "high": high}
        pair = {"from": one.name, "to": other.name, "difference": difference, "p": permutation_p(differences)}
        pair["solved_only_before"] = [name for name, (before, after) in solved if before and not after]
        pair["solved_only_after"] = [name for name, (before, after) in solved if after and not before]
        pairs.append(pair)
    for pair, adjusted in zip(pairs, holm([pair["p"] for pair in pairs]), strict=True):
        pair["adjusted_p"] = adjusted
    return pairs


def permutation_p(differences: np.ndarray) -> float:
    """Two-sided p of the permutation test that paired differences are as often positive as negative. Signs are flipped
    in all combinations if there are fewer than `PERMUTATIONS`, otherwise in that many random ones."""
    from scipy import stats

    nonzero = differences[differences != 0]
    if len(nonzero) < 2:  # either sign has the same sum
        return 1.0
    how = {"permutation_type": "samples", "vectorized": True, "n_resamples": PERMUTATIONS, "random_state": SEED}
    return float(stats.permutation_test((nonzero,), np.mean, **how).pvalue)


def holm(values: Sequence[float]) -> list[float]:
    """Holm's adjustment of p values for testing all of them, in their order."""
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=lambda index: values[index])):
        highest = max(highest, min(1.0, values[index] * (len(values) - rank)))
        adjusted[index] = highest
    return adjusted


def _translation(evaluations: Iterable[Evaluation], mode: str) -> dict[str, dict[str, dict[str, Any]]]:
    matrices: dict[str, dict[str, dict[str, Any]]] = {}
    for each in evaluations:
        if each.source is None:
            continue
        labels, targets = each.labels(), {}
        for name, counts in each.counts(mode).items():
            targets.setdefault(labels[name]["language"], []).append(counts)
        taken = matrices.get(each.model, {}).get(each.source, {})
        model = f"{each.model} ({each.name})" if taken.keys() & targets.keys() else each.model
        row = matrices.setdefault(model, {}).setdefault(each.source, {})
        row |= {language: _score(pairs, False) for language, pairs in sorted(targets.items())}
    return matrices


def target_languages(sources: Mapping[str, Mapping[str, Any]]) -> list[str]:
    targets = dict.fromkeys([*sources, *(target for row in sources.values() for target in row)])
    return [target for target in targets if any(target in row for row in sources.values())]


def _matrix_lines(sources: Mapping[str, Mapping[str, Any]]) -> list[str]:
    targets = target_languages(sources)
    matrix = ["".join(f"{word:>10}" for word in ("", *targets))]
    for source, row in sources.items():
        rates = (f"{100 * row[target]['pass_rate']['value']:.2f}" if target in row else "-" for target in targets)
        matrix.append("".join(f"{word:>10}" for word in (source, *rates)))
    return matrix


def warning(comparison: Mapping[str, Any]) -> str:
    """A warning that problems of the same name may differ; empty if they do not."""
    names = ", ".join(comparison["other_files"])
    first = next(iter(comparison["evaluations"]))
    return f"the problems of {names} are not all those of {first}: compare only if the texts agree" if names else ""


def lines(comparison: Mapping[str, Any]) -> list[str]:
    """The comparison in a few lines for the user."""
    summary = [f"note: {words}"] if (words := warning(comparison)) else []
    summary += [f"{name}: {in_words(each)}" for name, each in comparison["groups"]["all"].items()]
    for model, sources in comparison["translation"].items():
        summary += [f"{model}, pass@1 from each language (rows) to each", *_matrix_lines(sources)]
    for pair in comparison["pairs"]:
        gained, lost = len(pair["solved_only_after"]), len(pair["solved_only_before"])
        p = f"p {pair['adjusted_p']:.3g} (of {len(comparison['pairs'])} pairs)"
        words = f"{percent(pair['difference'])}, {p}, solves {gained} more problems and {lost} no longer"
        summary.append(f"{pair['to']} - {pair['from']}: {words}")
    for each in comparison["against_published"]:
        group = "" if each["group"] == "all" else f" ({each['group']})"
        side = "outside of" if each["outside"] else "within"
        words = f"{percent(each['difference'])}, published {100 * each['published']:.2f} % is {side} the interval"
        summary.append(f"{each['evaluation']} - {each['row']}, pass@{each['k']}{group}: {words}")
    compared = {(each["row"], each["group"], str(each["k"])) for each in comparison["against_published"]}
    for name, row in comparison["published_rows"].items():
        given = [(group, k) for group, rates in row["rates"].items() for k in rates]
        left = [f"pass@{k} ({group})" for group, k in given if (name, group, k) not in compared]
        summary += [f"{name}: {', '.join(left)} in none of the evaluations"] if left else []
    return summary
