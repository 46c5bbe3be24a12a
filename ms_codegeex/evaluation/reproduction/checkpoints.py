"""Loss and pass rate over a run's checkpoints, as one paper's evaluation finds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ms_codegeex.base.webpage import count, note, table, text
from ms_codegeex.evaluation.reports.comparison_page import steps_figure
from ms_codegeex.evaluation.reports.scores import percent
from ms_codegeex.evaluation.reproduction.papers import PaperPart
from ms_codegeex.evaluation.reproduction.results import MODE, csv_text

Losses = Mapping[str, Sequence[tuple[int, float]]]  # "training loss", "validation loss" -> (step, nats per token)


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


def row(step: int, name: str, losses: Losses, report: Mapping[str, Any] | None, reason: str) -> CheckpointRow:
    """A checkpoint with its report; None: the evaluation did not run."""
    logged = (reversed(losses.get(kind, ())) for kind in ("training loss", "validation loss"))
    last = [next((value for at, value in points if at <= step), None) for points in logged]
    score = (report or {}).get("scores", {}).get(MODE, {}).get("all")
    if score is None:
        return CheckpointRow(step, name, *last, None, 0, 0, reason or "nothing was judged")
    return CheckpointRow(step, name, *last, score["pass_rate"], score["problems"], score["samples"])


def section(curve: CheckpointCurve) -> str:
    """The table and the figure."""
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


def as_csv(curve: CheckpointCurve) -> str:
    """One line for each checkpoint; what is not known is empty."""
    heads = ("step", "training loss", "validation loss", "pass rate", "low", "high", "problems", "samples", "reason")
    rows: list[Sequence[Any]] = [heads]
    for each in curve.rows:
        known = (*each.losses, *((each.rate or {}).get(key) for key in ("value", "low", "high")))
        figures = ("" if value is None else f"{value:.6f}" for value in known)
        rows.append((each.step, *figures, each.problems, each.samples, each.reason))
    return csv_text(rows)


def as_table(curve: CheckpointCurve) -> dict[str, Any]:
    """A table for LaTeX."""
    rows = {}
    for each in curve.rows:
        losses = ["" if loss is None else f"{loss:.4f}" for loss in each.losses]
        rows[f"step {each.step:,}"] = [*losses, percent(each.rate) if each.rate else f"not run: {each.reason}"]
    columns = ["training loss", "validation loss", "pass rate"]
    return {"title": "Checkpoints", "source": curve.part.title, "columns": columns, "rows": rows, "ours": False}
