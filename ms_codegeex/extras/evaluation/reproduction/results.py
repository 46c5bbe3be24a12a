"""Results of a paper's evaluations: rows of figures, the paper's tables with a row of ours, and loss and pass rate over
a run's checkpoints."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from typing import Any

from ms_codegeex.extras.evaluation.reports import published
from ms_codegeex.extras.evaluation.reports.page import label_of
from ms_codegeex.extras.evaluation.reports.scores import percent
from ms_codegeex.extras.evaluation.reproduction.papers import Paper, PaperPart

OURS = "this model"
Losses = Mapping[str, Sequence[tuple[int, float]]]  # "training loss", "validation loss" -> (step, nats per token)
KS = re.compile(r"pass@(\d+)")
OUR_MODE = "strict"  # our rows beside published ones are judged so
COMPARED = "compared"  # the mode of figures that come from comparing texts, not from judging
NAMES = {"JS": "js", **{label_of(name): name for name in ("python", "cpp", "java", "js", "go", "rust")}}


@dataclass(frozen=True)
class PartResult:
    """A part and its `report.json`; None if it did not run, for the `reason` given."""

    part: PaperPart
    report: Mapping[str, Any] | None
    reason: str = ""


@dataclass(frozen=True)
class Figure:
    """One rate of a part: of all its problems or of a group of them, by one mode of judging. Rates are shares."""

    part: str
    mode: str
    group: str
    measure: str
    value: float
    low: float
    high: float
    problems: int
    samples: int


def figures(results: Iterable[PartResult]) -> list[Figure]:
    """Every pass@k, pass rate or other measure that the reports have, by mode and by language."""
    return [figure for result in results if result.report for figure in _figures(result.part.name, result.report)]


def _figures(name: str, report: Mapping[str, Any]) -> Iterator[Figure]:
    found: list[tuple[str, str, Mapping[str, Any], dict[str, Any]]] = []  # mode, group, its sizes, rates by measure
    for mode, scores in report["scores"].items():
        for group, score in {"all": scores["all"], **scores["by"].get("language", {})}.items():
            rates = {f"pass@{k}": rate for k, rate in score.get("pass_at", {}).items() if "value" in rate}
            found.append((mode, group, score, rates or {"pass rate": score["pass_rate"]}))
    for group, measured in report.get("measures", {}).items():
        rates = {measure: rate for measure, rate in measured.items() if isinstance(rate, Mapping)}
        found.append((COMPARED, group, measured, rates))
    for mode, group, sizes, rates in found:
        for measure, rate in rates.items():
            interval = rate["value"], rate["low"], rate["high"]
            yield Figure(name, mode, group, measure, *interval, sizes["problems"], sizes["samples"])


def left_out(result: PartResult) -> dict[str, str]:
    """Languages and problems that a report could not judge, and why."""
    return {} if result.report is None else {**result.report.get("skipped", {}), **result.report.get("refused", {})}


def tables(results: Sequence[PartResult], quick: bool) -> list[dict[str, Any]]:
    """The published tables about the parts, each once, with our row where its columns are languages or pass@k. Of
    several parts, such as temperatures, our row has the best for each column, as the papers have."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for result in results:
        for table in published.tables(result.part.settings(quick)):
            key = table["title"], table["source"]
            found.setdefault(key, {**table, "rows": dict(table["rows"]), "of": []})["of"].append(result)
    finished = []
    for entry in found.values():
        of = entry.pop("of")
        if entry.get("kind") == "budget":
            finished.append(_with_budget(entry, of))
            continue
        mine = _row(entry, figures(of))
        finished.append({**entry, "rows": {**({OURS: mine} if any(mine) else {}), **entry["rows"]}, "ours": any(mine)})
    return finished


def _with_budget(table: Mapping[str, Any], of: Iterable[PartResult]) -> dict[str, Any]:
    """The table of rates by budget and strategy, whose columns are models, with a column of ours."""
    rows = [row for result in of for row in (result.report or {}).get("budget", ())]
    rates = {f"{row['samples']} samples, {row['strategy']}": _percent(row["rate"]) for row in rows}
    if not rates:
        return {**table, "ours": False}
    rows = {name: [rates.get(name, ""), *cells] for name, cells in table["rows"].items()}
    return {**table, "columns": [OURS, *table["columns"]], "rows": rows, "ours": False}


def _row(table: Mapping[str, Any], known: Sequence[Figure]) -> list[str]:
    """Our cells of a table, empty where nothing is known."""
    best: dict[tuple[str, str], float] = {}
    for figure in known:
        if figure.mode == OUR_MODE:
            key = figure.group, figure.measure
            best[key] = max(best.get(key, 0.0), figure.value)
    columns = table["columns"]
    if all(KS.fullmatch(column) for column in columns):
        return [_percent(best.get(("all", column))) for column in columns]
    languages = [NAMES[column] for column in columns if column in NAMES]
    if not languages:
        return []
    measures = [f"pass@{k}" for k in KS.findall(table["title"])]

    def cell(column: str) -> str:
        if column in NAMES:
            rates = [best.get((NAMES[column], measure)) for measure in measures]
        else:  # the mean of the table's languages
            every = [[best.get((name, measure)) for name in languages] for measure in measures]
            rates = [None if None in each else sum(each) / len(each) for each in every]  # type: ignore[arg-type]
        return " / ".join(_percent(rate) or "-" for rate in rates) if any(rate is not None for rate in rates) else ""

    return [cell(column) for column in columns]


def _percent(rate: float | None) -> str:
    return "" if rate is None else f"{100 * rate:.2f}"


def differences(paper: Paper, listed: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """Rows [table, column, ours, the compared model's, difference] in per cent, where both have a first figure."""
    rows = []
    for table in listed:
        theirs = table["rows"].get(paper.compared)
        if not table["ours"] or theirs is None:
            continue
        for column, mine, other in zip(table["columns"], table["rows"][OURS], theirs, strict=True):
            pair = [re.match(r"~? ?(\d+(?:\.\d+)?)", cell) for cell in (mine, other)]
            if all(pair):
                first, second = (float(match[1]) for match in pair)  # type: ignore[index]
                rows.append([table["title"], column, f"{first:.2f}", f"{second:.2f}", f"{first - second:+.2f}"])
    return rows


SIZE = re.compile(r"(.*?)[ -]?(\d+(?:\.\d+)?)([MB])\b.*")  # the end of a published model's name
RISING = re.compile(r"pass rate|pass@\d+")  # measures that a curve over sizes shows


def parameters_in(name: str) -> tuple[str, int] | None:
    """The family and the number of parameters that a published model's name states."""
    found = SIZE.fullmatch(name)
    return found and (found[1].strip() or "published", round(float(found[2]) * {"M": 1e6, "B": 1e9}[found[3]]))


def by_size(ours: Iterable[tuple[int, Sequence[Figure]]], listed: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The curves of pass rate over parameters, as in CodeGen's paper: one of each published table whose rows or columns
    are models of several sizes. A curve has series of [parameters, per cent], smallest first.

    `ours`: parameters and figures of each reproduction of this paper; of several parts, the best counts.
    """
    ours = sorted(ours, key=lambda each: each[0])
    found = []
    for table in listed:
        sizes = [parameters_in(column) for column in table["columns"]]
        task, series = table["task"], dict[str, list[tuple[int, float]]]()
        measure = "pass rate" if all(sizes) else table["columns"][0]
        if not RISING.fullmatch(measure) or table.get("kind"):
            continue
        for name, cells in table["rows"].items():
            if name == OURS or (all(sizes) and "perplexity" in name):
                continue
            points = zip(sizes, cells, strict=True) if all(sizes) else [(parameters_in(name), cells[0])]
            for size, cell in points:
                if size and (rate := re.fullmatch(r"(?:~ )?(\d+(?:\.\d+)?)", cell)):
                    series.setdefault(name if all(sizes) else size[0], []).append((size[1], float(rate[1])))
        series = {name: sorted(points) for name, points in series.items() if len(points) > 1}
        if not series:
            continue
        mine = []
        for parameters, known in ours:
            own = [each for each in known if each.part.startswith(f"{task}-t")]
            rates = [x.value for x in own if (x.mode, x.group, x.measure) == (OUR_MODE, "all", measure)]
            if rates:
                mine.append((parameters, round(100 * max(rates), 4)))
        title = f"{table['title']}, {measure}" if measure not in table["title"] else table["title"]
        found.append({"title": title, "series": {**({OURS: mine} if mine else {}), **series}})
    return found


def measures_tables(results: Iterable[PartResult]) -> list[dict[str, Any]]:
    """A table of ours for each part that was compared and not judged, for LaTeX; there are no published rows."""
    found = []
    for result in results:
        if groups := (result.report or {}).get("measures"):
            names = [name for name, value in groups["all"].items() if isinstance(value, Mapping)]
            rows = {name: [_percent(group[name]["value"]) for group in groups.values()] for name in names}
            title, columns = f"{result.part.title}, per cent", [label_of(group) for group in groups]
            found.append({"title": title, "source": OURS, "columns": columns, "rows": rows, "ours": False})
    return found


@dataclass(frozen=True)
class CheckpointRow:
    """A checkpoint. Losses are the last ones that were logged up to its step; `rate` is a share with `low` and `high`,
    None if the evaluation did not run, then `reason` says why."""

    step: int
    name: str
    training_loss: float | None
    validation_loss: float | None
    rate: Mapping[str, float] | None
    problems: int
    samples: int
    reason: str = ""

    @property
    def losses(self) -> tuple[float | None, float | None]:
        """Training and validation."""
        return self.training_loss, self.validation_loss


@dataclass(frozen=True)
class CheckpointCurve:
    """A run's checkpoints by step, the evaluation that measured them, and the run's losses."""

    run: str
    part: PaperPart
    rows: Sequence[CheckpointRow]
    losses: Losses

    def content(self) -> dict[str, Any]:
        """For `reproduction.json`: the losses of all steps are in the run's own log."""
        return {"run": self.run, "part": self.part.name, "checkpoints": [asdict(row) for row in self.rows]}


def checkpoint_row(step: int, name: str, losses: Losses, report: Mapping | None, reason: str) -> CheckpointRow:
    """A checkpoint with its report; None: the evaluation did not run."""
    logged = (reversed(losses.get(kind, ())) for kind in ("training loss", "validation loss"))
    last = [next((value for at, value in points if at <= step), None) for points in logged]
    score = (report or {}).get("scores", {}).get(OUR_MODE, {}).get("all")
    if score is None:
        return CheckpointRow(step, name, *last, None, 0, 0, reason or "nothing was judged")
    return CheckpointRow(step, name, *last, score["pass_rate"], score["problems"], score["samples"])


def as_csv(known: Iterable[Figure]) -> str:
    """One line for each of our figures."""
    rows: list[Sequence[Any]] = [[field.name for field in fields(Figure)]]
    rows += [[f"{each:.6f}" if isinstance(each, float) else each for each in astuple(figure)] for figure in known]
    return csv_text(rows)


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def checkpoints_csv(curve: CheckpointCurve) -> str:
    """One line for each checkpoint; what is not known is empty."""
    heads = ("step", "training loss", "validation loss", "pass rate", "low", "high", "problems", "samples", "reason")
    rows: list[Sequence[Any]] = [heads]
    for each in curve.rows:
        known = (*each.losses, *((each.rate or {}).get(key) for key in ("value", "low", "high")))
        figures = ("" if value is None else f"{value:.6f}" for value in known)
        rows.append((each.step, *figures, each.problems, each.samples, each.reason))
    return csv_text(rows)


def checkpoints_table(curve: CheckpointCurve) -> dict[str, Any]:
    """A table for LaTeX."""
    rows = {}
    for each in curve.rows:
        losses = ["" if loss is None else f"{loss:.4f}" for loss in each.losses]
        rows[f"step {each.step:,}"] = [*losses, percent(each.rate) if each.rate else f"not run: {each.reason}"]
    columns = ["training loss", "validation loss", "pass rate"]
    return {"title": "Checkpoints", "source": curve.part.title, "columns": columns, "rows": rows, "ours": False}


def as_latex(listed: Iterable[Mapping[str, Any]]) -> str:
    """The tables in LaTeX, for a document that uses `booktabs`."""
    parts = []
    for table in listed:
        heads = " & ".join(["", *map(_escaped, table["columns"])])
        rows = [" & ".join(map(_escaped, (name, *cells))) + r" \\" for name, cells in table["rows"].items()]
        if table["ours"]:
            rows.insert(1, r"\midrule")
        caption = rf"\caption{{{_escaped(table['title'])}. {_escaped(table['source'])}.}}"
        begin = [r"\begin{table}", caption, rf"\begin{{tabular}}{{l{'r' * len(table['columns'])}}}"]
        body = [r"\toprule", rf"{heads} \\", r"\midrule", *rows, r"\bottomrule"]
        parts.append("\n".join([*begin, *body, r"\end{tabular}", r"\end{table}"]))
    return "\n\n".join(parts) + "\n"


def _escaped(words: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return re.sub(r"[\\~^&%$#_{}]", lambda found: special.get(found[0], f"\\{found[0]}"), str(words))
