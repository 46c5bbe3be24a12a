"""A reproduction as one HTML page: what ran, our figures with their intervals, and the paper's tables with our row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ms_codegeex.base.webpage import charts, count, lines, note, page, table, text
from ms_codegeex.evaluation.reports.comparison_page import matrix, steps_figure
from ms_codegeex.evaluation.reports.estimators import INTERVALS
from ms_codegeex.evaluation.reports.page import label_of, measures_table, published_table, verdicts_table
from ms_codegeex.evaluation.reports.scores import percent
from ms_codegeex.evaluation.reproduction.papers import QUICK_PROBLEMS, QUICK_SAMPLES, Paper
from ms_codegeex.evaluation.reproduction.results import (
    COMPARED,
    MODE,
    OURS,
    CheckpointCurve,
    Figure,
    PartResult,
    left_out,
)

QUICK = (
    f"A quick sample: {QUICK_SAMPLES} samples of the first {QUICK_PROBLEMS} problems of each language. Published rows "
    "are of whole benchmarks with up to 200 samples, so they are no comparison yet."
)


@dataclass(frozen=True)
class Reproduction:
    """What a page shows: the results of a `paper`'s parts for a `model`, of a sample if `quick`; from these figures
    (`known`), tables, differences and pass rates by size, see `results`; memory and speed by precision; and the
    checkpoints of a run, or why there are none, empty if nobody asked."""

    paper: Paper
    model: str
    results: Sequence[PartResult]
    known: Sequence[Figure] = ()
    listed: Sequence[Mapping[str, Any]] = ()
    compared: Sequence[Sequence[str]] = ()
    curves: Sequence[Mapping[str, Any]] = ()
    precisions: Sequence[Mapping[str, Any]] = ()
    quick: bool = False
    checkpoints: CheckpointCurve | str = ""


def render(shown: Reproduction) -> str:
    """The page; the same results give the same bytes."""
    paper, results, curve = shown.paper, shown.results, shown.checkpoints
    best = f"Our rows: {MODE} verdicts, the best of several temperatures in each column, as in the papers."
    parts = [
        ("What ran", (note(text(QUICK)) if shown.quick else "") + _parts(results)),
        ("Figures", _figures(shown.known)),
        (f"Against {paper.compared}", "" if shown.quick else _differences(shown.compared, paper)),
        ("Translation", _matrix(shown.known)),
        ("Summaries", _measures(results)),
        ("Checkpoints of the run", checkpoints(curve) if isinstance(curve, CheckpointCurve) else curve and note(curve)),
        ("Pass rate by size", _curves(shown.curves)),
        ("Perplexity of prompts", _perplexity(results)),
        ("Memory and speed by precision", _precisions(paper, shown.precisions)),
        ("Verdicts", _verdicts(results)),
        ("The paper's tables", note(text(best)) + "".join(published_table(each) for each in shown.listed)),
    ]
    return page(f"{paper.title}: {shown.model}", [(name, content) for name, content in parts if content])


def _parts(results: Sequence[PartResult]) -> str:
    rows = []
    for result in results:
        name, title = result.part.name, text(result.part.title)
        if result.report is None:
            rows.append([title, "", "", f"not run: {text(result.reason)}"])
            continue
        lacking = "; ".join(f"{label_of(key)}: {why}" for key, why in left_out(result).items())
        state = f"left out: {text(lacking)}" if lacking else "whole"
        sizes = [count(result.report[each]["judged"]) for each in ("problems", "samples")]
        rows.append([f'<a href="{text(name)}/report.html">{title}</a>', *sizes, state])
    return table(("", "problems", "samples", ""), rows, 2)


def _figures(known: Sequence[Figure]) -> str:
    if not known:
        return note("Nothing has been judged.")
    known = [figure for figure in known if figure.mode != COMPARED]
    measures = list(dict.fromkeys(figure.measure for figure in known))
    rows: dict[tuple[str, str, str], dict[str, Figure]] = {}
    for figure in known:
        rows.setdefault((figure.part, figure.group, figure.mode), {})[figure.measure] = figure
    cells = []
    for (part, group, mode), by in rows.items():
        first = next(iter(by.values()))
        rates = [percent(vars(by[name])) if name in by else "" for name in measures]
        cells.append([text(f"{part}, {label_of(group)}: {mode}"), count(first.problems), count(first.samples), *rates])
    small = f"In parentheses: {INTERVALS}. Rely on strict; published is the original rule."
    return table(("", "problems", "samples", *measures), cells, 2 + len(measures)) + note(small)


def _measures(results: Sequence[PartResult]) -> str:
    """What was compared and not judged; the paper has no figures for it."""
    shown = [measures_table(each.report["measures"]) for each in results if each.report and "measures" in each.report]
    return note("The paper names this task without figures, so there is no published row.").join(["", *shown])


def _verdicts(results: Sequence[PartResult]) -> str:
    shown = [(each.part.title, verdicts_table(each.report["verdicts"])) for each in results if each.report]
    return "".join(f"<h3>{text(title)}</h3>{counts}" for title, counts in shown if counts)


def _matrix(known: Sequence[Figure]) -> str:
    """pass@1 by source and target of translations."""
    shown = [x for x in known if x.part.startswith("from-") and (x.mode, x.measure) == (MODE, "pass@1")]
    sources: dict[str, dict[str, str]] = {}
    for figure in (each for each in shown if each.group != "all"):
        sources.setdefault(figure.part.removeprefix("from-"), {})[figure.group] = f"{100 * figure.value:.2f}"
    return matrix(sources) + note(text(f"pass@1 of {OURS} in per cent, {MODE}.")) if sources else ""


def _differences(compared: Sequence[Sequence[str]], paper: Paper) -> str:
    heads = ("table", "column", OURS, paper.compared, "difference")
    rows = [[text(cell) for cell in row] for row in compared]
    return table(heads, rows, 0) if rows else ""


def checkpoints(curve: CheckpointCurve) -> str:
    """A run's checkpoints: the table and the figure."""
    rows = []
    for each in curve.rows:
        losses = ["not logged" if loss is None else f"{loss:.4f}" for loss in each.losses]
        sizes = [count(size) if each.rate else "" for size in (each.problems, each.samples)]
        rate = percent(each.rate) if each.rate else f"not run: {text(each.reason)}"
        rows.append([count(each.step), *losses, *sizes, rate])
    heads = ("step", "training loss", "validation loss", "problems", "samples", "pass rate")
    points = [{"step": each.step, **each.rate} for each in curve.rows if each.rate]
    words = f"{curve.part.title}: the share of samples that pass, {MODE} verdicts. Losses in nats per token, as logged."
    about = f"<h3><code>{text(curve.run)}</code></h3>"
    return about + table(heads, rows, 5) + note(text(words)) + steps_figure(points, curve.losses)


def _curves(curves: Sequence[Mapping[str, Any]]) -> str:
    drawn = []
    for each in curves:
        series = {name: [(math.log10(x), y) for x, y in points] for name, points in each["series"].items()}
        drawn.append(lines(each["title"], series, "parameters, log10", "per cent"))
    return charts(drawn) if any(drawn) else ""


def _perplexity(results: Sequence[PartResult]) -> str:
    found = [(each.part, (each.report or {}).get("perplexity")) for each in results if each.part.perplexity]
    rows = []
    for part, shares in found:
        cells = []
        for group in ("all", "solved", "unsolved"):
            mean, error = ((shares or {}).get(f"{name}, {group}") for name in ("prompt perplexity", "standard error"))
            cells.append("" if mean is None else f"{mean:.2f} ± {error or 0:.2f}")  # one problem has no error
        rows += [[text(part.title), *cells]] if shares else []
    if rows:
        return table(("", "all problems", "solved", "unsolved"), rows, 3)
    return note("A server does not score prompts: give --model.") if found else ""


def _precisions(paper: Paper, measured: Sequence[Mapping[str, Any]]) -> str:
    if not paper.precisions:
        return ""
    if not measured:
        return note("Measured only with --model, and without --only.")
    rows = []
    for row in measured:
        memory = f"{row['peak_bytes'] / 1e9:.2f} GB" if row["peak_bytes"] else text(row["reason"])
        speed = f"{row['tokens_per_second']:.1f}" if row["tokens_per_second"] else ""
        rows.append([text(row["precision"]), memory, speed, text(paper.precisions.get(row["precision"], ""))])
    small = f"One answer at a time on this machine. {paper.compared}: GPU memory, as published."
    return table(("", "peak memory", "tokens/s", paper.compared), rows, 3) + note(text(small))
