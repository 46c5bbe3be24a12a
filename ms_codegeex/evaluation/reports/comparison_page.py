"""A comparison of evaluations as one HTML page: tables, curves, and every problem's answers to open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ms_codegeex.base.webpage import bars, charts, code, code_style, count, curves, lines, note, page, table, text
from ms_codegeex.evaluation.jsonl import read_rows
from ms_codegeex.evaluation.reports.comparison import Evaluation, target_languages, warning
from ms_codegeex.evaluation.reports.estimators import INTERVALS
from ms_codegeex.evaluation.reports.page import label_of, published_table
from ms_codegeex.evaluation.reports.scores import percent
from ms_codegeex.evaluation.rows import current_results, key

MAX_NAMES, MAX_LINES = 40, 60  # of problems in a cell; of standard error
LEXERS = {"js": "javascript"}  # where a language's name is not that of its lexer
Answer = tuple[Mapping[str, Any], Mapping[str, Any]]  # a sample, and its verdicts


def render(comparison: Mapping[str, Any], evaluations: Sequence[Evaluation], maximum: int) -> str:
    """The page. `maximum`: distinct answers shown of each problem and evaluation; 0: all."""
    parts = [
        ("Evaluations", _evaluations(comparison)),
        ("Scores on the common problems", _scores(comparison["groups"], comparison["published_rows"])),
        ("Charts", _charts(comparison["groups"], comparison["published_rows"])),
        ("Checkpoints of one run", "".join(_steps(*each) for each in comparison["steps"].items())),
        ("Differences", _pairs(comparison["pairs"])),
        ("Against published figures", _against(comparison)),
        ("Translation", "".join(_translation(*each) for each in comparison["translation"].items())),
        ("Budget of samples over languages", _budget(comparison["budget"])),
        ("Published results", "".join(published_table(each) for each in comparison["published"])),
        ("Problems", _problems(comparison, evaluations, maximum)),
    ]
    title = f"{comparison['task']}: {', '.join(comparison['evaluations'])}"
    return page(title, [(name, part) for name, part in parts if part], code_style())


def _evaluations(comparison: Mapping[str, Any]) -> str:
    rows = [
        [text(name), count(entry["problems"]), text(entry["model"]), f"<code>{text(entry['directory'])}</code>"]
        for name, entry in comparison["evaluations"].items()
    ]
    each = ", each in all evaluations of its direction" if comparison["translation"] else ""
    where = each or " were judged in all evaluations"
    words = f"{comparison['task']}, judged {comparison['mode']}; {len(comparison['problems'])} problems{where}."
    heads = ("", "problems judged", "model", "directory")
    return table(heads, rows, 1) + note(text(words)) + note(text(warning(comparison)))


def _scores(groups: Mapping[str, Mapping[str, Any]], published: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each evaluation, and each published row with rates, in each group of problems."""
    first = next(iter(groups["all"].values()))
    rate = "pass@1" if "pass_at" in first else "pass rate"
    every = groups["all"].values()
    ks = [k for k in first.get("pass_at", {}) if k != "1" and all("value" in score["pass_at"][k] for score in every)]
    rows = []
    for group, scores in groups.items():
        for name, score in scores.items():
            cells = [percent(score["pass_rate"]), *(percent(score["pass_at"][k]) for k in ks)]
            sizes = [count(score[each]) for each in ("problems", "samples", "solved")]
            rows.append([f"{text(group)}: {text(name)}", *sizes, *cells])
        for name, row in published.items():
            if rates := row["rates"].get(group):
                cells = [f"{100 * rates[k]:.2f} %" if k in rates else "" for k in ("1", *ks)]
                rows.append([f"{text(group)}: {text(name)} (published)", "", "", "", *cells])
    heads = ("", "problems", "samples", "solved", rate, *(f"pass@{k}" for k in ks))
    small = f"In parentheses: {INTERVALS}. Solved: at least one sample passes."
    return table(heads, rows, len(heads) - 1) + note(small)


def _charts(groups: Mapping[str, Mapping[str, Any]], published: Mapping[str, Mapping[str, Any]]) -> str:
    series = {name: score["curve"] for name, score in groups["all"].items() if "curve" in score}
    figures = [curves("pass@k", series, "k", "pass@k")]
    for group, scores in groups.items():
        rates = [(name, score["pass_rate"]["value"]) for name, score in scores.items()]
        quoted = ((name, row["rates"].get(group, {}).get("1")) for name, row in published.items())
        rates += [(name, rate) for name, rate in quoted if rate is not None]
        figures.append(bars(text(group), [(name, rate, f"{100 * rate:.1f} %") for name, rate in rates], 1.0))
    return charts(figures)


def _pairs(pairs: Iterable[Mapping[str, Any]]) -> str:
    rows = []
    for pair in pairs:
        solved = [_names(pair["solved_only_after"]), _names(pair["solved_only_before"])]
        figures = [percent(pair["difference"]), f"{pair['p']:.3g}", f"{pair['adjusted_p']:.3g}"]
        rows.append([f"{text(pair['to'])} minus {text(pair['from'])}", *figures, *solved])
    small = (
        "Mean differences in pass rate per problem, with 95 % intervals. p: sign-flip permutation test; adjusted: for "
        "the number of pairs (Holm). Use the adjusted one: below 0.05, chance is an unlikely explanation."
    )
    heads = ("", "difference of the rate", "p", "adjusted_p", "newly solved", "no longer solved")
    return table(heads, rows, 3) + note(small) if rows else ""


def _steps(run: str, points: Sequence[Mapping[str, Any]]) -> str:
    """A run's evaluated checkpoints, by step."""
    rows = [[count(point["step"]), text(point["name"]), percent(point)] for point in points]
    return f"<h3><code>{text(run)}</code></h3>" + table(("step", "", "pass rate"), rows, 0) + steps_figure(points)


def steps_figure(
    points: Sequence[Mapping[str, Any]], losses: Mapping[str, Sequence[tuple[int, float]]] = MappingProxyType({})
) -> str:
    """The pass rate of a run's checkpoints, each with `step` and `value`, and `losses`, in nats per token by step."""
    rates = [(point["step"], point["value"]) for point in points]
    heights = 0.0, max((rate for _, rate in rates), default=0.0) or 0.01
    how = {"shown": lambda rate: f"{100 * rate:.1f} %", "beside": ("nats per token", losses)}
    series = {"pass rate": rates} if rates else {}
    return charts([lines("by step", series, "step", "pass rate", heights=heights, **how)])


def _against(comparison: Mapping[str, Any]) -> str:
    rows = []
    for each in comparison["against_published"]:
        names = f"{text(each['evaluation'])} minus {text(each['row'])}", text(f"{each['group']}, pass@{each['k']}")
        figures = f"{100 * each['published']:.2f} %", percent(each["difference"])
        rows.append([*names, *figures, "outside" if each["outside"] else "within"])
    sources = "; ".join(f"{name}: {row['source']}" for name, row in comparison["published_rows"].items())
    small = (
        "The intervals are those of the evaluations: published figures have none, and cannot be paired problem by "
        "problem. Last column: whether the published figure is within the evaluation's 95 % interval. Published "
        f"figures are of the whole benchmark; the evaluations, of {len(comparison['problems'])} problems. {sources}."
    )
    heads = ("", "figure", "published", "difference", "interval")
    return table(heads, rows, 2) + note(text(small)) if rows else ""


def _names(problems: Sequence[str]) -> str:
    shown = ", ".join(f"<code>{text(name)}</code>" for name in problems[:MAX_NAMES])
    more = f" and {len(problems) - MAX_NAMES} more" if len(problems) > MAX_NAMES else ""
    return f"{count(len(problems))}: {shown}{more}" if problems else "0"


def matrix(sources: Mapping[str, Mapping[str, str]]) -> str:
    """A table of translations: source -> target -> cell. Rows are translated from, columns to; "" without any."""
    targets = target_languages(sources)
    rows = [[text(label_of(source)), *(row.get(target, "") for target in targets)] for source, row in sources.items()]
    return table(("from", *(f"to {label_of(target)}" for target in targets)), rows, len(targets)) if rows else ""


def _translation(model: str, sources: Mapping[str, Mapping[str, Any]]) -> str:
    rates = {name: {to: percent(each["pass_rate"]) for to, each in row.items()} for name, row in sources.items()}
    return f"<h3>{text(model)}: pass@1</h3>" + matrix(rates)


def _budget(budgets: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    rows: dict[str, dict[str, str]] = {}
    for name, entries in budgets.items():
        for entry in entries:
            label = f"{entry['samples']} samples, {entry['strategy']}"
            rows.setdefault(label, {})[name] = f"{100 * entry['rate']:.2f} %"
    cells = [[text(label), *(rates.get(name, "") for name in budgets)] for label, rates in rows.items()]
    return table(("", *budgets), cells, len(budgets)) if cells else ""


def _problems(comparison: Mapping[str, Any], evaluations: Sequence[Evaluation], maximum: int) -> str:
    """A line for each problem that opens to the answers of every evaluation."""
    mode, parts = comparison["mode"], []
    answers = {each.name: _answers(each) for each in evaluations}
    counts = {each.name: each.counts(mode) for each in evaluations}
    labels = {name: value for each in evaluations for name, value in each.labels().items()}
    for problem in comparison["problems"]:
        judged = {name: counts[name][problem] for name in counts if problem in counts[name]}
        rates = ", ".join(f"{text(name)} {passed} of {samples}" for name, (samples, passed) in judged.items())
        language = labels.get(problem, {}).get("language", "python")
        lexer = LEXERS.get(language, language)
        inner = "".join(_of_one(name, answers[name].get(problem, []), mode, lexer, maximum) for name in judged)
        parts.append(f"<details><summary><code>{text(problem)}</code>: {rates}</summary>{inner}</details>")
    shown = "All distinct answers" if not maximum else f"Up to {maximum} distinct answers of each evaluation"
    return note(f"{shown}, those that pass first.") + "".join(parts)


def _answers(evaluation: Evaluation) -> dict[str, list[Answer]]:
    """Samples and their verdicts by problem."""
    paths = [evaluation.directory / name for name in ("samples.jsonl", "results.jsonl")]
    samples, results = (read_rows(path) if path.is_file() else [] for path in paths)
    judged = {key(row): row for row in current_results(samples, results)}
    answers: dict[str, list[Answer]] = {}
    for row in samples:
        if key(row) in judged:
            answers.setdefault(row["task_id"], []).append((row, judged[key(row)]))
    return answers


def _of_one(name: str, answers: Sequence[Answer], mode: str, lexer: str, maximum: int) -> str:
    """The distinct answers of one evaluation to one problem."""
    alike: dict[tuple[str, str], list[Answer]] = {}
    for sample, result in answers:
        alike.setdefault((result["verdicts"][mode], sample["generation"]), []).append((sample, result))
    groups = sorted(alike.values(), key=lambda group: (group[0][1]["verdicts"][mode] != "passed", -len(group)))
    parts = [f"<h3>{text(name)}</h3>"]
    for (sample, result), *others in groups[: maximum or None]:
        times = f", {1 + len(others)} times" if others else ""
        parts.append(note(f"{text(result['verdicts'][mode])}{times}, {result['seconds']:.2f} s"))
        parts.append(f"<pre>{code(sample['generation'], lexer)}</pre>")
        if result["stderr"].strip():
            last = "\n".join(result["stderr"].splitlines()[-MAX_LINES:])
            parts.append(f"<pre>{text(last, keep=chr(10))}</pre>")
    if maximum and len(groups) > maximum:
        parts.append(note(f"{len(groups) - maximum} more are not shown."))
    return "".join(parts)
