"""The page that `monitor --report` writes: curves of one or several runs, attempts on a timeline, faults."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_file
from ms_codegeex.base.webpage import charts, count, lines, note, page, settings, spans, table, text
from ms_codegeex.runs.display import duration
from ms_codegeex.runs.history import History

REASONS = ("finished", "stopped", "failed", "not finite", "rewind", "interrupted", "lost", "running")  # by colour
SHOWN_FAULTS = 50


def write_history_page(histories: Mapping[str, History], output: Path, texts: Callable[[History, int], str]) -> None:
    """Write the page. `texts(history, first)` returns the text of the batch that starts with sample `first`."""
    title = f"Run {next(iter(histories))}" if len(histories) == 1 else f"{len(histories)} runs"
    sections = [("Overview", _overview(histories)), ("Curves", _curves(histories)), ("Attempts", _attempts(histories))]
    for name, history in histories.items():
        sections.append((f"Faults of {text(name)}", _faults(history, texts)))
    for name, history in histories.items():
        sections.append((f"Settings of {text(name)}", settings(history.config.to_dict())))
    with atomic_file(output) as temporary:
        temporary.write_text(page(title, sections), encoding="utf-8")


def _overview(histories: Mapping[str, History]) -> str:
    figures = {name: overview(history) for name, history in histories.items()}
    heads = ("run", *next(iter(figures.values())))
    rows = [[text(name), *map(text, values.values())] for name, values in figures.items()]
    words = note(
        "Goodput is the share of wall-clock time that went into steps that were kept: their number times the median "
        "step time, divided by the time from the first start to the last end. Compiling, evaluating, saving, repeated "
        "steps and pauses count as lost time."
    )
    return table(heads, rows, numeric=8) + words


def overview(history: History) -> dict[str, str]:
    """The figures of a run in a line, by the head of their column."""
    loss, validation, rate = history.last("loss"), history.last("validation_loss"), history.tokens_per_second
    counts = history.counts
    return {
        "step": f"{history.step}/{history.config.steps}",
        "loss": "" if loss is None else f"{loss:.4f}",
        "validation": "" if validation is None else f"{validation:.4f}",
        "tok/s": "" if rate is None else f"{rate:,.0f}",
        "skipped": count(counts["skip"]),
        "faults": count(counts["fault"]),
        "attempts": count(len(history.attempts)),
        "goodput": "" if history.goodput is None else f"{history.goodput:.0%}",
        "state": history.state,
    }


def _curves(histories: Mapping[str, History]) -> str:
    def figure(title: str, key: str, unit: str = "", scale: float = 1.0) -> str:
        series = {}
        for name, history in histories.items():
            points = [
                (line["step"], scale * line[key])
                for line in history.log
                if line.get(key) is not None and not line["skipped"] and not (key != "loss" and line["compiling"])
            ]
            if points:
                series[name] = points
        return lines(title, series, "step", unit or title)

    return charts(
        [
            figure("training loss", "loss", "nats per token"),
            figure("validation loss", "validation_loss", "nats per token"),
            figure("gradient norm", "gradient_norm"),
            figure("tokens per second", "tokens_per_second"),
            figure("learning rate", "learning_rate"),
            figure("memory of rank 0", "memory_bytes", "GB", 1e-9),
        ]
    )


def _attempts(histories: Mapping[str, History]) -> str:
    rows, cells = [], []
    for name, history in histories.items():
        for attempt in history.attempts:
            label = f"{name} {attempt.number}" if len(histories) > 1 else f"attempt {attempt.number}"
            seconds = attempt.end - attempt.begin
            colour = REASONS.index(attempt.reason) if attempt.reason in REASONS else len(REASONS)
            words = f"{attempt.reason}, steps {attempt.first_step} to {attempt.last_step}"
            rows.append((label[-24:], attempt.begin, attempt.end, colour, words))
            cells.append(
                [
                    text(label),
                    count(attempt.first_step),
                    count(attempt.last_step),
                    duration(seconds),
                    text(attempt.reason),
                    text(attempt.message or ""),
                ]
            )
    chart = spans("attempts on a common timeline", rows, "time since the first start", duration)
    return chart + table(("attempt", "from step", "to step", "time", "end", "message"), cells, numeric=3)


def _faults(history: History, texts: Callable[[History, int], str]) -> str:
    faults = [event for event in history.events if event["event"] == "fault"]
    if not faults:
        return note("None.")
    rows: list[Sequence[str]] = []
    for event in faults[-SHOWN_FAULTS:]:
        rows.append(
            [
                count(event["step"]),
                _number(event.get("loss")),
                _number(event.get("gradient_norm")),
                text(event["kind"]),
                text(event["policy"]),
                count(event["samples"][0]),
                f"<details><summary>text</summary><pre>{_batch_text(history, event, texts)}</pre></details>",
            ]
        )
    heads = ("step", "loss", "gradient norm", "kind", "policy", "first sample", "batch")
    return table(heads, rows, numeric=2)


def _batch_text(history: History, event: Mapping[str, Any], texts: Callable[[History, int], str]) -> str:
    try:
        return text(texts(history, event["samples"][0]), keep="\n\t")
    except UserError as error:  # the dataset has been moved
        return text(str(error))


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
