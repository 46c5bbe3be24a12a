"""The report of an evaluation as an HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ms_codegeex.base import webpage
from ms_codegeex.base.files import atomic_file, write_json
from ms_codegeex.base.webpage import bars, charts, count, curves, note, page, table, text
from ms_codegeex.evaluation.output_directory import RecordedSettings, versions
from ms_codegeex.evaluation.reports.estimators import INTERVALS
from ms_codegeex.evaluation.reports.scores import FORMAT, model_of, no_code, percent

VERDICTS = ("passed", "wrong", "error", "compile error", "timeout", "memory", "killed")
Report = Mapping[str, Any]
LABELS = {"cpp": "C++", "js": "JavaScript", "python": "Python", "java": "Java", "go": "Go", "rust": "Rust"}


def render(report: Mapping[str, Any]) -> str:
    """The page for a `report.json`. The same report gives the same bytes; missing parts are left out."""
    scores, nothing = report.get("scores", {}), note("Nothing has been judged.")
    unscored = report.get("measures") or report.get("task") in ("perplexity", "infilling")
    parts = [
        ("Summary", _summary(report)),
        ("Scores", _scores(scores) or ("" if unscored else nothing)),
        ("Measures", measures_table(report.get("measures", {}))),
        ("Charts", _charts(scores)),
        ("Verdicts", verdicts_table(report.get("verdicts", {}))),
        ("Left out, references and known defects", _references(report)),
        ("A budget of samples split over languages", _budget(report.get("budget", []))),
        ("Perplexity", _perplexity(report.get("perplexity", {}))),
        ("Infilling", _infilling(report.get("infilling", {}))),
        ("Published results", "".join(published_table(each) for each in report.get("published", []))),
        ("Settings", webpage.settings(report.get("settings", {}))),
    ]
    title = ": ".join(filter(None, (report.get("task", "evaluation"), model_of(report))))
    return page(title, [(name, content) for name, content in parts if content])


def write(output: Path, report: Mapping[str, Any]) -> None:
    """Write `report.json` and `report.html`."""
    write_json(output / "report.json", report)
    with atomic_file(output / "report.html") as temporary:
        temporary.write_text(render(report), encoding="utf-8")


def write_measures(settings: RecordedSettings, sections: Report, figures: Report) -> dict[str, Any]:
    """Record these sections of the settings; write and return the report of figures without a judged program."""
    output = settings.path.parent
    for section, values in {**sections, "versions": versions()}.items():
        settings.write(section, values)
    about = {"format": FORMAT, "version": 1, "task": settings.values["task"]["name"], "output": str(output)}
    report = {**about, **figures, "settings": {key: each for key, each in settings.values.items() if key != "format"}}
    write(output, report)
    return report


def label_of(value: str) -> str:
    """A language as people write it."""
    return LABELS.get(value, value)


def _summary(report: Mapping[str, Any]) -> str:
    settings, problems, samples = report.get("settings", {}), report.get("problems", {}), report.get("samples", {})
    finish = ", ".join(f"{text(name)} {count(number)}" for name, number in samples.get("finish", {}).items())
    rows = [["task", text(report.get("task", ""))], ["model", text(model_of(report))]]
    for name, totals, whole in (("problems", problems, "chosen"), ("samples", samples, "drawn")):
        rows += [[name, f"{count(totals['judged'])} judged of {count(totals[whole])}"]] if totals else []
    rows += [["finish reasons", finish]] if finish else []
    rows += [["equal answers", text(samples["equal"])]] if "equal" in samples else []
    rows += [["replies", text(no_code(report))]] if report.get("no_code") else []
    layers = settings.get("machine", {}).get("sandbox", {})
    lacking = [name for name, state in layers.items() if state != "active"]
    rows += [["sandbox", "without " + text(", ".join(lacking)) if lacking else "all layers active"]] if layers else []
    return table(("", ""), rows)


def _rates(score: Mapping[str, Any] | None, ks: Sequence[str]) -> list[str]:
    """pass@1, which is the share of samples that pass, and pass@k for these k; empty cells without a score."""
    if score is None:
        return [""] * (1 + len(ks))
    return [percent(score["pass_rate"]), *(percent(score.get("pass_at", {}).get(k, {})) for k in ks)]


def _scores(scores: Mapping[str, Any]) -> str:
    """A row for all problems, then one for each value of each label; a group of columns for each judging mode."""
    if not scores:
        return ""
    first = next(iter(scores.values()))
    pass_at = first["all"].get("pass_at", {})
    shown = [k for k, rate in pass_at.items() if "value" in rate and k != "1"]
    missing = {rate["missing"] for rate in pass_at.values() if "missing" in rate}
    names = ["pass@1" if pass_at else "pass rate", *(f"pass@{k}" for k in shown)]
    heads = ["", "problems", "samples", *(f"{mode}: {name}" for mode in scores for name in names)]
    groups = [("all", [each["all"] for each in scores.values()])]
    for label, values in first["by"].items():
        for value in values:
            scored = [each["by"].get(label, {}).get(value) for each in scores.values()]
            groups.append((f"{label}: {label_of(value)}", scored))
    rows = []
    for name, scored in groups:
        sizes = [count(scored[0][size]) for size in ("problems", "samples")]
        rows.append([text(name), *sizes, *(cell for score in scored for cell in _rates(score, shown))])
    notes = "".join(note(text(f"Not shown: {why}.")) for why in sorted(missing))
    small = f"In parentheses: {INTERVALS}. Rely on strict; published is the original rule."
    return table(heads, rows, len(heads) - 1) + note(small) + notes


def measures_table(groups: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each group of problems, a column for each measure; empty without any."""
    if not groups:
        return ""
    names = [name for name, value in groups["all"].items() if isinstance(value, Mapping)]
    rows = []
    for group, each in groups.items():
        sizes = [count(each[size]) for size in ("problems", "samples")]
        rows.append([text(label_of(group)), *sizes, *(percent(each[name]) for name in names)])
    small = f"Means over problems. In parentheses: {INTERVALS}."
    return table(("", "problems", "samples", *names), rows, 2 + len(names)) + note(small)


def _charts(scores: Mapping[str, Any]) -> str:
    figures = []
    for mode, score in scores.items():
        label = next((label for label, values in score["by"].items() if len(values) > 1), None)
        groups = score["by"][label] if label else {}
        title = f"{text(mode)}: {'pass@1' if 'pass_at' in score['all'] else 'pass rate'} by {text(label)}"
        rates = [(label_of(name), group["pass_rate"]["value"]) for name, group in groups.items()]
        figures.append(bars(title, [(name, rate, f"{100 * rate:.1f} %") for name, rate in rates], 1.0))
        lines = {label_of(name): each.get("curve", []) for name, each in {"all": score["all"], **groups}.items()}
        figures.append(curves(f"{text(mode)}: pass@k", lines, "k", "pass@k"))
    return charts(figures) if any(figures) else ""


def verdicts_table(modes: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    """How often each verdict was given, by mode of judging and group of problems; empty if nothing was judged."""
    rows = []
    for mode, groups in modes.items():
        for name, counts in groups.items():
            cells = [count(counts[verdict]) if verdict in counts else "" for verdict in VERDICTS]
            rows.append([f"{text(mode)}: {text(label_of(name))}", *cells])
    return table(("", *VERDICTS), rows, len(VERDICTS)) if rows else ""


def _references(report: Mapping[str, Any]) -> str:
    parts = []
    if missing := report.get("missing", {}):
        rows = [[text(label_of(name)), f"<code>{text(line)}</code>"] for name, line in missing.items()]
        parts.append(table(("missing on this machine", "how to install it"), rows))
    if left := {**report.get("skipped", {}), **report.get("refused", {})}:
        rows = [[text(label_of(name)), text(why)] for name, why in left.items()]
        parts.append(table(("not judged", "reason"), rows))
    if groups := report.get("references", {}):
        rows = [[text(label_of(name)), count(each["passed"]), count(each["total"])] for name, each in groups.items()]
        parts.append(table(("references", "passed", "of"), rows, 2))
        bad = [
            [f"<code>{text(problem)}</code>", kind, text(why)]
            for each in groups.values()
            for kind, problems in (("known", each["defects"]), ("fails here", each["failing"]))
            for problem, why in problems.items()
        ]
        parts += [table(("reference", "", "why it fails"), bad)] if bad else []
    if defects := report.get("known_defects", {}):
        parts.append(table(("known defect", "description"), [[text(name), text(why)] for name, why in defects.items()]))
    return "".join(parts)


def _budget(rows: Iterable[Mapping[str, Any]]) -> str:
    cells = []
    for row in rows:
        name = text(f"{row['samples']} samples, {row['strategy']}")
        cells.append([name, f"{100 * row['rate']:.2f} %", text(row.get("split", ""))])
    return table(("", "expected solve rate", "samples per language"), cells, 1) if cells else ""


def _perplexity(figures: Mapping[str, Any]) -> str:
    shown = {name: value for name, value in figures.items() if value is not None}
    rows = [[text(name), f"{value:.4f}" if isinstance(value, float) else text(value)] for name, value in shown.items()]
    return table(("", ""), rows, 1) if rows else ""


def _infilling(kinds: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    rows, heads = [], ("", "asked by", "spans", "exact match", "perplexity", "bits per byte", "tokens")
    for kind, ways in kinds.items():
        for way, tally in ways.items():
            match = percent({**tally, "value": tally["exact match"]})
            figures = [match, f"{tally['perplexity']:.3f}", f"{tally['bits per byte']:.3f}", count(tally["tokens"])]
            rows.append([text(kind), text(way), count(tally["spans"]), *figures])
    small = (
        "In parentheses: Wilson's 95 % intervals. Asked by infill: prefix and suffix between the model's sentinels; "
        "the whole answer must be the middle. Asked by prefix: without the suffix; the answer must begin with the "
        "middle."
    )
    return table(heads, rows, len(heads) - 2) + note(small) if rows else ""


def published_table(entry: Mapping[str, Any]) -> str:
    """A table of published results."""
    rows = [[text(name), *(text(cell) for cell in cells)] for name, cells in entry["rows"].items()]
    source = note(text(f"{entry['source']}. Per cent unless said otherwise; ~ marks values that were not checked."))
    return f"<h3>{text(entry['title'])}</h3>" + table(("", *entry["columns"]), rows, len(entry["columns"])) + source
