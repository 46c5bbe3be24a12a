"""A comparison of evaluations as one HTML page: tables, curves, and every problem's answers to open."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ms_codegeex.base.errors import escaped
from ms_codegeex.base.webpage import Html, charts, count, curves, element, joined, lines, note, page, table, text
from ms_codegeex.extras.evaluation.jsonl import read_rows
from ms_codegeex.extras.evaluation.reports.comparison import Evaluation, target_languages, warning
from ms_codegeex.extras.evaluation.reports.estimators import INTERVALS
from ms_codegeex.extras.evaluation.reports.page import label_of, published_table, rate_bars
from ms_codegeex.extras.evaluation.reports.scores import percent
from ms_codegeex.extras.evaluation.rows import current_results, key

MAX_PROBLEMS_IN_CELL, MAX_ERROR_LINES = 40, 60
TOKEN = re.compile(r"pre \.(?!err)")
LEXERS = {"js": "javascript"}  # where a language's name is not that of its lexer
Answer = tuple[Mapping[str, Any], Mapping[str, Any]]  # a sample, and its verdicts


def render(comparison: Mapping[str, Any], evaluations: Sequence[Evaluation], maximum: int) -> str:
    sections = [
        ("Evaluations", _evaluations(comparison), note(warning(comparison))),
        ("Scores on the common problems", _scores(comparison["groups"], comparison["published_rows"])),
        ("Charts", _charts(comparison["groups"], comparison["published_rows"])),
        ("Checkpoints of one run", *(_steps(*each) for each in comparison["steps"].items())),
        ("Differences", _pairs(comparison["pairs"])),
        ("Against published figures", _against(comparison)),
        ("Translation", *(_translation(*each) for each in comparison["translation"].items())),
        ("Budget of samples over languages", _budget(comparison["budget"])),
        ("Published results", *map(published_table, comparison["published"])),
        ("Problems", *_problems(comparison, evaluations, maximum)),
    ]
    return page(f"{comparison['task']}: {', '.join(comparison['evaluations'])}", sections, _highlighting())


def _evaluations(comparison: Mapping[str, Any]) -> Html:
    rows = [
        [name, entry["problems"], entry["model"], element("code", entry["directory"])]
        for name, entry in comparison["evaluations"].items()
    ]
    each = ", each in all evaluations of its direction" if comparison["translation"] else ""
    where = each or " were judged in all evaluations"
    words = f"{comparison['task']}, judged {comparison['mode']}; {len(comparison['problems'])} problems{where}."
    return table(("", "problems judged", "model", "directory"), rows, 1, words)


def _scores(groups: Mapping[str, Mapping[str, Any]], published: Mapping[str, Mapping[str, Any]]) -> Html:
    every = groups["all"].values()
    first = next(iter(every))
    rate = "pass@1" if "pass_at" in first else "pass rate"
    ks = [k for k in first.get("pass_at", {}) if k != "1" and all("value" in score["pass_at"][k] for score in every)]
    rows = []
    for group, scores in groups.items():
        for name, score in scores.items():
            cells = [percent(score["pass_rate"]), *(percent(score["pass_at"][k]) for k in ks)]
            rows.append([f"{group}: {name}", *(score[each] for each in ("problems", "samples", "solved")), *cells])
        for name, row in published.items():
            if rates := row["rates"].get(group):
                cells = [f"{100 * rates[k]:.2f} %" if k in rates else "" for k in ("1", *ks)]
                rows.append([f"{group}: {name} (published)", "", "", "", *cells])
    heads = ("", "problems", "samples", "solved", rate, *(f"pass@{k}" for k in ks))
    return table(heads, rows, len(heads) - 1, f"In parentheses: {INTERVALS}. Solved: at least one sample passes.")


def _charts(groups: Mapping[str, Mapping[str, Any]], published: Mapping[str, Mapping[str, Any]]) -> Html:
    series = {name: score["curve"] for name, score in groups["all"].items() if "curve" in score}
    figures = [curves("pass@k", series, "k", "pass@k")]
    for group, scores in groups.items():
        rates = [(name, score["pass_rate"]["value"]) for name, score in scores.items()]
        quoted = ((name, row["rates"].get(group, {}).get("1")) for name, row in published.items())
        figures.append(rate_bars(group, [*rates, *((name, rate) for name, rate in quoted if rate is not None)]))
    return charts(*figures)


def _pairs(pairs: Iterable[Mapping[str, Any]]) -> Html:
    rows = []
    for pair in pairs:
        solved = [_names(pair["solved_only_after"]), _names(pair["solved_only_before"])]
        figures = [percent(pair["difference"]), f"{pair['p']:.3g}", f"{pair['adjusted_p']:.3g}"]
        rows.append([f"{pair['to']} minus {pair['from']}", *figures, *solved])
    small = (
        "Mean differences in pass rate per problem, with 95 % intervals. p: sign-flip permutation test; adjusted: for "
        "the number of pairs (Holm). Use the adjusted one: below 0.05, chance is an unlikely explanation."
    )
    heads = ("", "difference of the rate", "p", "adjusted_p", "newly solved", "no longer solved")
    return table(heads, rows, 3, small)


def _steps(run: str, points: Sequence[Mapping[str, Any]]) -> Html:
    rows = [[point["step"], point["name"], percent(point)] for point in points]
    shown = table(("step", "", "pass rate"), rows)
    rates = [(point["step"], point["value"]) for point in points]
    heights = 0.0, max(rate for _, rate in rates) or 0.01
    how = {"heights": heights, "shown": lambda rate: f"{100 * rate:.1f} %"}
    figure = charts(lines("by step", {"pass rate": rates}, "step", "pass rate", **how))
    return joined(element("h3", element("code", run)), shown, figure)


def _against(comparison: Mapping[str, Any]) -> Html:
    rows = []
    for each in comparison["against_published"]:
        names = f"{each['evaluation']} minus {each['row']}", f"{each['group']}, pass@{each['k']}"
        figures = f"{100 * each['published']:.2f} %", percent(each["difference"])
        rows.append([*names, *figures, "outside" if each["outside"] else "within"])
    sources = "; ".join(f"{name}: {row['source']}" for name, row in comparison["published_rows"].items())
    small = (
        "The intervals are those of the evaluations: published figures have none, and cannot be paired problem by "
        "problem. Last column: whether the published figure is within the evaluation's 95 % interval. Published "
        f"figures are of the whole benchmark; the evaluations, of {len(comparison['problems'])} problems. {sources}."
    )
    return table(("", "figure", "published", "difference", "interval"), rows, 2, small)


def _names(problems: Sequence[str]) -> Html:
    shown = [
        joined(", " if number else ": ", element("code", x)) for number, x in enumerate(problems[:MAX_PROBLEMS_IN_CELL])
    ]
    more = f" and {len(problems) - MAX_PROBLEMS_IN_CELL} more" if len(problems) > MAX_PROBLEMS_IN_CELL else ""
    return joined(count(len(problems)), *shown, more)


def matrix(sources: Mapping[str, Mapping[str, str]], small: str = "") -> Html:
    """A table of translations: source -> target -> cell. Rows are translated from, columns to; empty without any."""
    targets = target_languages(sources)
    rows = [[label_of(source), *map(row.get, targets)] for source, row in sources.items()]
    return table(("from", *(f"to {label_of(target)}" for target in targets)), rows, len(targets), small)


def _translation(model: str, sources: Mapping[str, Mapping[str, Any]]) -> Html:
    rates = {name: {to: percent(each["pass_rate"]) for to, each in row.items()} for name, row in sources.items()}
    return joined(element("h3", f"{model}: pass@1"), matrix(rates))


def _budget(budgets: Mapping[str, Sequence[Mapping[str, Any]]]) -> Html:
    rows: dict[str, dict[str, str]] = {}
    for name, entries in budgets.items():
        for entry in entries:
            label = f"{entry['samples']} samples, {entry['strategy']}"
            rows.setdefault(label, {})[name] = f"{100 * entry['rate']:.2f} %"
    return table(("", *budgets), [[label, *map(rates.get, budgets)] for label, rates in rows.items()], len(budgets))


def _problems(comparison: Mapping[str, Any], evaluations: Sequence[Evaluation], maximum: int) -> Iterator[Html]:
    mode = comparison["mode"]
    answers = {each.name: _answers(each) for each in evaluations}
    counts = {each.name: each.counts(mode) for each in evaluations}
    labels = {name: value for each in evaluations for name, value in each.labels().items()}
    shown = "All distinct answers" if not maximum else f"Up to {maximum} distinct answers of each evaluation"
    yield note(f"{shown}, those that pass first.")
    for problem in comparison["problems"]:
        judged = {name: counts[name][problem] for name in counts if problem in counts[name]}
        rates = ", ".join(f"{name} {passed} of {samples}" for name, (samples, passed) in judged.items())
        language = labels.get(problem, {}).get("language", "python")
        lexer = LEXERS.get(language, language)
        inner = (_of_one(name, answers[name].get(problem, []), mode, lexer, maximum) for name in judged)
        yield element("details", element("summary", element("code", problem), f": {rates}"), *inner)


def _answers(evaluation: Evaluation) -> dict[str, list[Answer]]:
    paths = [evaluation.directory / name for name in ("samples.jsonl", "results.jsonl")]
    samples, results = (read_rows(path) if path.is_file() else [] for path in paths)
    judged = {key(row): row for row in current_results(samples, results)}
    answers: dict[str, list[Answer]] = {}
    for row in samples:
        if key(row) in judged:
            answers.setdefault(row["task_id"], []).append((row, judged[key(row)]))
    return answers


def _of_one(name: str, answers: Sequence[Answer], mode: str, lexer: str, maximum: int) -> Html:
    alike: dict[tuple[str, str], list[Answer]] = {}
    for sample, result in answers:
        alike.setdefault((result["verdicts"][mode], sample["generation"]), []).append((sample, result))
    groups = sorted(alike.values(), key=lambda group: (group[0][1]["verdicts"][mode] != "passed", -len(group)))
    parts = [element("h3", name)]
    for (sample, result), *others in groups[: maximum or None]:
        times = f", {1 + len(others)} times" if others else ""
        parts.append(note(f"{result['verdicts'][mode]}{times}, {result['seconds']:.2f} s"))
        parts.append(element("pre", _highlighted(sample["generation"], lexer)))
        if result["stderr"].strip():
            last = "\n".join(result["stderr"].splitlines()[-MAX_ERROR_LINES:])
            parts.append(element("pre", text(last, keep="\n")))
    if maximum and len(groups) > maximum:
        parts.append(note(f"{len(groups) - maximum} more are not shown."))
    return joined(*parts)


def _highlighted(source: str, lexer: str) -> Html:
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        pygments_lexer = get_lexer_by_name(lexer, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return text(source, keep="\n\t")
    return Html(highlight(escaped(source, "\n\t"), pygments_lexer, HtmlFormatter(nowrap=True)))


def _highlighting() -> str:
    from pygments.formatters import HtmlFormatter

    light, dark = (
        "\n".join(line for line in HtmlFormatter(style=style).get_style_defs("pre").splitlines() if TOKEN.match(line))
        for style in ("default", "github-dark")
    )
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"
