"""The report of an evaluation as an HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ms_codegeex.base import webpage
from ms_codegeex.base.files import atomic_file, write_json
from ms_codegeex.base.webpage import bars, charts, count, curves, note, page, table, text
from ms_codegeex.evaluation.reports.estimators import INTERVALS
from ms_codegeex.evaluation.reports.scores import model_of, percent

VERDICTS = ("passed", "wrong", "error", "compile error", "timeout", "memory", "killed")
LABELS = {"cpp": "C++", "js": "JavaScript", "python": "Python", "java": "Java", "go": "Go", "rust": "Rust"}


def render(report: Mapping[str, Any]) -> str:
    """The page for a `report.json`. The same report gives the same bytes; missing parts are left out."""
    scores, nothing = report.get("scores", {}), note("Nothing has been judged.")
    parts = [
        ("Summary", _summary(report)),
        ("Scores", _scores(scores) or ("" if report.get("task") in ("perplexity", "infilling") else nothing)),
        ("Charts", _charts(scores)),
        ("Verdicts", _verdicts(report.get("verdicts", {}))),
        ("Left out, references and known defects", _references(report)),
        ("A budget of samples split over languages", _budget(report.get("budget", []))),
        ("Perplexity", _perplexity(report.get("perplexity", {}))),
        ("Infilling", _infilling(report.get("infilling", {}))),
        ("Difference from the other model", _difference(report)),
        ("Valid answers to HumanEval-X", _validity(report.get("validity", {}))),
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


def label_of(value: str) -> str:
    """A language as people write it."""
    return LABELS.get(value, value)


def _summary(report: Mapping[str, Any]) -> str:
    settings, problems, samples = report.get("settings", {}), report.get("problems", {}), report.get("samples", {})
    finish = ", ".join(f"{text(name)} {count(number)}" for name, number in samples.get("finish", {}).items())
    rows = [
        ["task", text(report.get("task", ""))],
        ["model", text(model_of(report))],
    ]
    for name, found, whole in (("problems", problems, "chosen"), ("samples", samples, "drawn")):
        rows += [[name, f"{count(found['judged'])} judged of {count(found[whole])}"]] if found else []
    rows += [["finish reasons", finish]] if finish else []
    layers = settings.get("machine", {}).get("sandbox", {})
    lacking = [name for name, state in layers.items() if state != "active"]
    rows += [["sandbox", "without " + text(", ".join(lacking)) if lacking else "all layers active"]] if layers else []
    return table(("", ""), rows)


def _score_cells(scores: Mapping[str, Any], pick: Any, ks: Iterable[str]) -> list[str]:
    cells = []
    for mode in scores:
        score = pick(scores[mode])
        cells.append(percent(score["pass_rate"]) if score else "")
        cells += [percent(score.get("pass_at", {}).get(k, {})) if score else "" for k in ks]
    return cells


def _scores(scores: Mapping[str, Any]) -> str:
    """A row for all problems, then one for each value of each label; a group of columns for each judging mode."""
    if not scores:
        return ""
    first = next(iter(scores.values()))
    shown = [k for k, rate in first["all"].get("pass_at", {}).items() if "value" in rate and k != "1"]
    missing = {rate["missing"] for rate in first["all"].get("pass_at", {}).values() if "missing" in rate}
    heads = ["", "problems", "samples"]
    for mode in scores:
        # pass@1 is the share of samples that pass
        heads += [f"{mode}: pass@1" if "pass_at" in first["all"] else f"{mode}: pass rate"]
        heads += [f"{mode}: pass@{k}" for k in shown]
    rows = [["all", *_sizes(first["all"]), *_score_cells(scores, lambda each: each["all"], shown)]]
    for label, values in first["by"].items():
        for value, score in values.items():

            def pick(each: Mapping[str, Any], label: str = label, value: str = value) -> Any:
                return each["by"].get(label, {}).get(value)

            rows.append([f"{text(label)}: {text(label_of(value))}", *_sizes(score), *_score_cells(scores, pick, shown)])
    notes = "".join(note(text(f"Not shown: {why}.")) for why in sorted(missing))
    small = f"In parentheses: {INTERVALS}. Rely on strict; published is the original rule."
    return table(heads, rows, len(heads) - 1) + note(small) + notes


def _sizes(score: Mapping[str, Any]) -> list[str]:
    return [count(score["problems"]), count(score["samples"])]


def _charts(scores: Mapping[str, Any]) -> str:
    figures = []
    for mode, score in scores.items():
        label = next((label for label, values in score["by"].items() if len(values) > 1), None)
        groups = score["by"][label] if label else {}
        title = f"{text(mode)}: {'pass@1' if 'pass_at' in score['all'] else 'pass rate'} by {text(label)}"
        rates = [(label_of(name), group["pass_rate"]["value"]) for name, group in groups.items()]
        figures.append(bars(title, [(name, rate, f"{100 * rate:.1f} %") for name, rate in rates], 1.0))
        lines = {
            "all": score["all"].get("curve", []),
            **{label_of(n): g.get("curve", []) for n, g in groups.items()},
        }
        figures.append(curves(f"{text(mode)}: pass@k", lines, "k", "pass@k"))
    return charts(figures) if any(figures) else ""


def _verdicts(modes: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    rows = []
    for mode, groups in modes.items():
        for name, found in groups.items():
            cells = [count(found[verdict]) if verdict in found else "" for verdict in VERDICTS]
            rows.append([f"{text(mode)}: {text(label_of(name))}", *cells])
    return table(("", *VERDICTS), rows, len(VERDICTS)) if rows else ""


def _references(report: Mapping[str, Any]) -> str:
    parts = []
    if missing := report.get("missing", {}):
        rows = [[text(label_of(name)), f"<code>{text(line)}</code>"] for name, line in missing.items()]
        parts.append(table(("missing on this machine", "how to install it"), rows))
    if left := {**report.get("skipped", {}), **report.get("refused", {})}:
        parts.append(_not_judged(left))
    if found := report.get("references", {}):
        rows = [[text(label_of(name)), count(each["passed"]), count(each["total"])] for name, each in found.items()]
        parts.append(table(("references", "passed", "of"), rows, 2))
        bad = [
            [f"<code>{text(problem)}</code>", kind, text(why)]
            for each in found.values()
            for kind, problems in (("known", each["defects"]), ("fails here", each["failing"]))
            for problem, why in problems.items()
        ]
        parts += [table(("reference", "", "why it fails"), bad)] if bad else []
    if defects := report.get("known_defects", {}):
        parts.append(table(("known defect", "description"), [[text(name), text(why)] for name, why in defects.items()]))
    return "".join(parts)


def _not_judged(reasons: Mapping[str, str]) -> str:
    return table(("not judged", "reason"), [[text(label_of(name)), text(why)] for name, why in reasons.items()])


def _budget(rows: Iterable[Mapping[str, Any]]) -> str:
    cells = [
        [text(f"{row['samples']} samples, {row['strategy']}"), f"{100 * row['rate']:.2f} %", text(row.get("split", ""))]
        for row in rows
    ]
    return table(("", "expected solve rate", "samples per language"), cells, 1) if cells else ""


def _perplexity(found: Mapping[str, Any]) -> str:
    shown = {name: value for name, value in found.items() if value is not None}
    rows = [[text(name), f"{value:.4f}" if isinstance(value, float) else text(value)] for name, value in shown.items()]
    return table(("", ""), rows, 1) if rows else ""


def _infilling(kinds: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    rows, heads = [], ("", "asked by", "spans", "exact match", "perplexity", "bits per byte", "tokens")
    for kind, ways in kinds.items():
        for way, found in ways.items():
            match = percent({**found, "value": found["exact match"]})
            figures = [match, f"{found['perplexity']:.3f}", f"{found['bits per byte']:.3f}", count(found["tokens"])]
            rows.append([text(kind), text(way), count(found["spans"]), *figures])
    small = (
        "In parentheses: Wilson's 95 % intervals. Asked by infill: prefix and suffix between the model's sentinels; "
        "the whole answer must be the middle. Asked by prefix: without the suffix; the answer must begin with the "
        "middle."
    )
    return table(heads, rows, len(heads) - 2) + note(small) if rows else ""


def _difference(report: Mapping[str, Any]) -> str:
    found = report.get("difference", {})
    if not found:
        return ""
    own, other = report["perplexity"]["perplexity"], found["perplexity of the other model"]
    both = [("model", own, f"{own:.4f}"), ("other model", other, f"{other:.4f}")]
    within, step = report["difference_within"]["shares"], report["difference_within"]["step"]
    lines = {"share of tokens": within}
    return _perplexity(found) + charts(
        [
            bars("perplexity", both),
            curves("log-probability of a token differs by at most", lines, f"{step:g} nats", "share of tokens"),
        ]
    )


def _validity(found: Mapping[str, Any]) -> str:
    languages, left_out = found.get("languages", {}), found.get("left_out", {})
    names = dict.fromkeys(name for models in languages.values() for name in models)
    keys = ("answers", "valid", "passed")
    heads = ["", *(f"{text(name)}: {key}" for name in names for key in keys)]
    rows = [
        [
            text(label_of(language)),
            *(count(models[name][key]) if name in models else "" for name in names for key in keys),
        ]
        for language, models in languages.items()
    ]
    parts = [table(heads, rows, len(heads) - 1)] if rows else []
    return "".join(parts) + (_not_judged(left_out) if left_out else "")


def published_table(found: Mapping[str, Any]) -> str:
    """A table of published results."""
    rows = [[text(name), *(text(cell) for cell in cells)] for name, cells in found["rows"].items()]
    source = note(text(f"{found['source']}. Per cent unless said otherwise; ~ marks values that were not checked."))
    return f"<h3>{text(found['title'])}</h3>" + table(("", *found["columns"]), rows, len(found["columns"])) + source
