"""The report of an evaluation as an HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ms_codegeex.base import webpage
from ms_codegeex.base.files import atomic_file, write_json
from ms_codegeex.base.webpage import Html, bars, charts, count, curves, element, joined, note, page, table, text
from ms_codegeex.extras.evaluation.output_directory import RecordedSettings, versions
from ms_codegeex.extras.evaluation.reports.estimators import INTERVALS
from ms_codegeex.extras.evaluation.reports.scores import FORMAT, model_of, no_code, percent

VERDICTS = ("passed", "wrong", "error", "compile error", "timeout", "memory", "killed")
Report = Mapping[str, Any]
RATES = f"In parentheses: {INTERVALS}. Rely on strict; published is the original rule."
LABELS = {"cpp": "C++", "js": "JavaScript", "python": "Python", "java": "Java", "go": "Go", "rust": "Rust"}


def render(report: Mapping[str, Any]) -> str:
    """The page for a `report.json`. The same report gives the same bytes; missing parts are left out."""
    scores = report.get("scores", {})
    unscored = report.get("measures") or report.get("task") in ("perplexity", "infilling")
    sections = [
        ("Summary", _summary(report)),
        ("Scores", _scores(scores) if scores or unscored else note("Nothing has been judged.")),
        ("Measures", measures_table(report.get("measures", {}))),
        ("Charts", _charts(scores)),
        ("Verdicts", verdicts_table(report.get("verdicts", {}))),
        ("Failed problems", _failed(report.get("failed", []))),
        ("Left out, references and known defects", *_references(report)),
        ("A budget of samples split over languages", _budget(report.get("budget", []))),
        ("Perplexity", _perplexity(report.get("perplexity", {}))),
        ("Infilling", _infilling(report.get("infilling", {}))),
        ("Published results", *map(published_table, report.get("published", []))),
        ("Settings", webpage.settings(report.get("settings", {}))),
    ]
    return page(": ".join(filter(None, (report.get("task", "evaluation"), model_of(report)))), sections)


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
    return LABELS.get(value, value)


def _summary(report: Report) -> Html:
    samples = report.get("samples", {})
    finish = samples.get("finish", {}).items()
    rows = [["task", report.get("task", "")], ["model", model_of(report)]]
    for name, totals, whole in (("problems", report.get("problems", {}), "chosen"), ("samples", samples, "drawn")):
        rows += [[name, joined(count(totals["judged"]), " judged of ", count(totals[whole]))]] if totals else []
    rows += [["finish reasons", ", ".join(f"{name} {count(number)}" for name, number in finish)]] if finish else []
    rows += [["equal answers", samples["equal"]]] if "equal" in samples else []
    rows += [["replies", no_code(report)]] if report.get("no_code") else []
    if layers := report.get("settings", {}).get("machine", {}).get("sandbox", {}):
        lacking = [name for name, state in layers.items() if state != "active"]
        rows.append(["sandbox", f"without {', '.join(lacking)}" if lacking else "all layers active"])
    return table(("", ""), rows)


def _scores(scores: Mapping[str, Any]) -> Html:
    if not scores:
        return Html()
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
        rates = []
        for score in (each or {} for each in scored):  # pass@1 is the share of samples that pass
            rates += [score.get("pass_rate", {}), *(score.get("pass_at", {}).get(k, {}) for k in shown)]
        rows.append([name, scored[0]["problems"], scored[0]["samples"], *map(percent, rates)])
    notes = (note(f"Not shown: {why}.") for why in sorted(missing))
    return joined(table(heads, rows, len(heads) - 1, RATES), *notes)


def measures_table(groups: Mapping[str, Mapping[str, Any]]) -> Html:
    """A row for each group of problems, a column for each measure; empty without any."""
    names = [name for name, value in groups.get("all", {}).items() if isinstance(value, Mapping)]
    rows = [
        [label_of(group), each["problems"], each["samples"], *(percent(each[name]) for name in names)]
        for group, each in groups.items()
    ]
    small = f"Means over problems. In parentheses: {INTERVALS}."
    return table(("", "problems", "samples", *names), rows, 2 + len(names), small)


def _charts(scores: Mapping[str, Any]) -> Html:
    figures = []
    for mode, score in scores.items():
        label = next((label for label, values in score["by"].items() if len(values) > 1), None)
        groups = score["by"][label] if label else {}
        title = f"{mode}: {'pass@1' if 'pass_at' in score['all'] else 'pass rate'} by {label}"
        rates = [(label_of(name), group["pass_rate"]["value"]) for name, group in groups.items()]
        figures.append(rate_bars(title, rates))
        lines = {label_of(name): each.get("curve", []) for name, each in {"all": score["all"], **groups}.items()}
        figures.append(curves(f"{mode}: pass@k", lines, "k", "pass@k"))
    return charts(*figures)


def rate_bars(title: str, rates: Iterable[tuple[str, float]]) -> Html:
    return bars(title, [(name, rate, f"{100 * rate:.1f} %") for name, rate in rates], 1.0)


def verdicts_table(modes: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Html:
    rows = [
        [f"{mode}: {label_of(name)}", *map(counts.get, VERDICTS)]
        for mode, groups in modes.items()
        for name, counts in groups.items()
    ]
    return table(("", *VERDICTS), rows, len(VERDICTS))


def _failed(problems: Sequence[Mapping[str, Any]]) -> Html:
    """The problems that no answer solves, with the end of the first answer and of its error."""
    shown = [
        [each["task_id"], each["samples"], each["verdict"], *(_lines(each[key]) for key in ("error", "answer"))]
        for each in problems
    ]
    heads = ("", "samples", "verdict of the first", "the end of its error", "the end of its answer")
    return table(heads, shown, 0)


def _lines(words: str) -> Html:
    return element("pre", text(words, keep="\n")) if words else Html()


def _references(report: Report) -> Iterable[Html]:
    missing, groups = report.get("missing", {}), report.get("references", {})
    left = {**report.get("skipped", {}), **report.get("refused", {})}
    installing = ([label_of(name), element("code", line)] for name, line in missing.items())
    yield table(("missing on this machine", "how to install it"), installing)
    yield table(("not judged", "reason"), ([label_of(name), why] for name, why in left.items()))
    counts = ([label_of(name), each["passed"], each["total"]] for name, each in groups.items())
    yield table(("references", "passed", "of"), counts, 2)
    bad = [
        [element("code", problem), kind, why]
        for each in groups.values()
        for kind, problems in (("known", each["defects"]), ("fails here", each["failing"]))
        for problem, why in problems.items()
    ]
    yield table(("reference", "", "why it fails"), bad)
    yield table(("known defect", "description"), report.get("known_defects", {}).items())


def _budget(rows: Iterable[Mapping[str, Any]]) -> Html:
    cells = [
        [f"{row['samples']} samples, {row['strategy']}", f"{100 * row['rate']:.2f} %", row.get("split", "")]
        for row in rows
    ]
    return table(("", "expected solve rate", "samples per language"), cells, 1)


def _perplexity(figures: Mapping[str, Any]) -> Html:
    shown = ((name, value) for name, value in figures.items() if value is not None)
    return table(("", ""), ([name, f"{x:.4f}" if isinstance(x, float) else text(x)] for name, x in shown), 1)


def _infilling(kinds: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Html:
    rows, heads = [], ("", "asked by", "spans", "exact match", "perplexity", "bits per byte", "tokens")
    for kind, ways in kinds.items():
        for way, tally in ways.items():
            match = percent({**tally, "value": tally["exact match"]})
            figures = [match, f"{tally['perplexity']:.3f}", f"{tally['bits per byte']:.3f}", tally["tokens"]]
            rows.append([kind, way, tally["spans"], *figures])
    small = (
        "In parentheses: Wilson's 95 % intervals. Asked by infill: prefix and suffix between the model's sentinels; "
        "the whole answer must be the middle. Asked by prefix: without the suffix; the answer must begin with the "
        "middle."
    )
    return table(heads, rows, len(heads) - 2, small)


def published_table(entry: Mapping[str, Any]) -> Html:
    """A table of published results, below its title."""
    rows = [[name, *cells] for name, cells in entry["rows"].items()]
    source = f"{entry['source']}. Per cent unless said otherwise; ~ marks values that were not checked."
    return joined(element("h3", entry["title"]), table(("", *entry["columns"]), rows, len(entry["columns"]), source))
