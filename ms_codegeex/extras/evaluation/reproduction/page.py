"""A reproduction as one HTML page: what ran, our figures with their intervals, and the paper's tables with our row."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ms_codegeex.base.webpage import Html, charts, element, joined, lines, note, page, table
from ms_codegeex.extras.evaluation.reports.comparison_page import matrix, steps_figure
from ms_codegeex.extras.evaluation.reports.page import RATES, label_of, measures_table, published_table, verdicts_table
from ms_codegeex.extras.evaluation.reports.scores import percent
from ms_codegeex.extras.evaluation.reproduction.papers import QUICK_PROBLEMS, QUICK_SAMPLES, Paper
from ms_codegeex.extras.evaluation.reproduction.results import (
    COMPARED,
    OUR_MODE,
    OURS,
    CheckpointCurve,
    Figure,
    PartResult,
    left_out,
)

QUICK = (
    f"A quick sample: {QUICK_SAMPLES} samples of the first {QUICK_PROBLEMS} problems of each language. Published rows "
    "are of whole benchmarks with up to 200 samples, so they cannot be compared yet."
)


@dataclass(frozen=True)
class Reproduction:
    """The content of a page: the results of a `paper`'s parts for a `model`, only of a sample if `quick`; what
    `results` makes of them: figures (`known`), tables, differences and curves by size; memory and speed by precision;
    and the checkpoints of a run, or a reason why there are none (empty if nobody asked for them)."""

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
    best = f"Our rows: {OUR_MODE} verdicts, the best of several temperatures in each column, as in the papers."
    heads = ("table", "column", OURS, paper.compared, "difference")
    sections = [
        ("What ran", note(QUICK if shown.quick else ""), _parts(results)),
        ("Figures", _figures(shown.known)),
        (f"Against {paper.compared}", table(heads, () if shown.quick else shown.compared)),
        ("Translation", _matrix(shown.known)),
        ("Summaries", *_measures(results)),
        ("Checkpoints of the run", checkpoints(curve) if isinstance(curve, CheckpointCurve) else note(curve)),
        ("Pass rate by size", _curves(shown.curves)),
        ("Perplexity of prompts", _perplexity(results)),
        ("Memory and speed by precision", _precisions(paper, shown.precisions)),
        ("Verdicts", *_verdicts(results)),
        ("The paper's tables", note(best), *map(published_table, shown.listed)),
    ]
    return page(f"{paper.title}: {shown.model}", sections)


def _parts(results: Sequence[PartResult]) -> Html:
    rows = []
    for result in results:
        name, title = result.part.name, result.part.title
        if result.report is None:
            rows.append([title, "", "", f"not run: {result.reason}"])
            continue
        lacking = "; ".join(f"{label_of(key)}: {why}" for key, why in left_out(result).items())
        sizes = [result.report[each]["judged"] for each in ("problems", "samples")]
        link = element("a", title, href=f"{name}/report.html")
        rows.append([link, *sizes, f"left out: {lacking}" if lacking else "whole"])
    return table(("", "problems", "samples", ""), rows, 2)


def _figures(known: Sequence[Figure]) -> Html:
    known = [figure for figure in known if figure.mode != COMPARED]
    measures = list(dict.fromkeys(figure.measure for figure in known))
    rows: dict[tuple[str, str, str], dict[str, Figure]] = {}
    for figure in known:
        rows.setdefault((figure.part, figure.group, figure.mode), {})[figure.measure] = figure
    cells = []
    for (part, group, mode), by in rows.items():
        first = next(iter(by.values()))
        rates = [percent(vars(by[name])) if name in by else "" for name in measures]
        cells.append([f"{part}, {label_of(group)}: {mode}", first.problems, first.samples, *rates])
    heads = ("", "problems", "samples", *measures)
    return table(heads, cells, 2 + len(measures), RATES, nothing="Nothing has been judged.")


def _measures(results: Sequence[PartResult]) -> Iterator[Html]:
    """Results of a comparison of texts, for which the paper has no figures."""
    for each in results:
        if each.report and "measures" in each.report:
            yield note("The paper names this task without figures, so there is no published row.")
            yield measures_table(each.report["measures"])


def _verdicts(results: Sequence[PartResult]) -> Iterator[Html]:
    for each in results:
        if each.report and (counts := verdicts_table(each.report["verdicts"])):
            yield joined(element("h3", each.part.title), counts)


def _matrix(known: Sequence[Figure]) -> Html:
    """pass@1 by source and target of translations."""
    shown = [x for x in known if x.part.startswith("from-") and (x.mode, x.measure) == (OUR_MODE, "pass@1")]
    sources: dict[str, dict[str, str]] = {}
    for figure in (each for each in shown if each.group != "all"):
        sources.setdefault(figure.part.removeprefix("from-"), {})[figure.group] = f"{100 * figure.value:.2f}"
    return matrix(sources, f"pass@1 of {OURS} in per cent, {OUR_MODE}.")


def checkpoints(curve: CheckpointCurve) -> Html:
    """A run's checkpoints: the table and the figure."""
    rows = []
    for each in curve.rows:
        losses = ["not logged" if loss is None else f"{loss:.4f}" for loss in each.losses]
        sizes = (each.problems, each.samples) if each.rate else ("", "")
        rows.append([each.step, *losses, *sizes, percent(each.rate) if each.rate else f"not run: {each.reason}"])
    heads = ("step", "training loss", "validation loss", "problems", "samples", "pass rate")
    points = [{"step": each.step, **each.rate} for each in curve.rows if each.rate]
    words = (
        f"{curve.part.title}: the share of samples that pass, {OUR_MODE} verdicts. Losses in nats per token, as logged."
    )
    shown = table(heads, rows, 5), note(words), steps_figure(points, curve.losses)
    return joined(element("h3", element("code", curve.run)), *shown)


def _curves(curves: Sequence[Mapping[str, Any]]) -> Html:
    drawn = []
    for each in curves:
        series = {name: [(math.log10(x), y) for x, y in points] for name, points in each["series"].items()}
        drawn.append(lines(each["title"], series, "parameters, log10", "per cent"))
    return charts(*drawn)


def _perplexity(results: Sequence[PartResult]) -> Html:
    found = [(each.part, (each.report or {}).get("perplexity")) for each in results if each.part.perplexity]
    rows = []
    for part, shares in found:
        cells = []
        for group in ("all", "solved", "unsolved"):
            mean, error = ((shares or {}).get(f"{name}, {group}") for name in ("prompt perplexity", "standard error"))
            cells.append("" if mean is None else f"{mean:.2f} ± {error or 0:.2f}")  # one problem has no error
        rows += [[part.title, *cells]] if shares else []
    nothing = "A server does not score prompts: give --model." if found else ""
    return table(("", "all problems", "solved", "unsolved"), rows, 3, nothing=nothing)


def _precisions(paper: Paper, measured: Sequence[Mapping[str, Any]]) -> Html:
    if not paper.precisions:
        return Html()
    rows = []
    for row in measured:
        memory = f"{row['peak_bytes'] / 1e9:.2f} GB" if row["peak_bytes"] else row["reason"]
        speed = f"{row['tokens_per_second']:.1f}" if row["tokens_per_second"] else ""
        rows.append([row["precision"], memory, speed, paper.precisions.get(row["precision"], "")])
    small = f"One answer at a time on this machine. {paper.compared}: GPU memory, as published."
    nothing = "Measured only with --model, and without --only."
    return table(("", "peak memory", "tokens/s", paper.compared), rows, 3, small, nothing)
