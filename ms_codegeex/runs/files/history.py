"""Read the history of a run from its directory (steps, attempts, faults, goodput), and write the page of `monitor
--report` about one or several runs.

Imports no engine and changes nothing, so it is safe during the run.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_file
from ms_codegeex.base.webpage import Html, charts, count, element, lines, page, settings, spans, table, text
from ms_codegeex.config import RunConfig
from ms_codegeex.runs.files.display import duration
from ms_codegeex.runs.files.records import read_events, read_log
from ms_codegeex.runs.files.resolved_config import read_config
from ms_codegeex.runs.files.run_directory import RunDirectory

WATCHED = ("profile", "stress check", "silent check")  # kinds of events
REASONS = ("finished", "stopped", "failed", "not finite", "rewind", "interrupted", "lost", "running")  # index: colour
SHOWN_FAULTS = 50

FAULT_ROWS, FAULT_TOKENS = 8, 120  # shown of a fault's batch: sequences, and tokens of each
SILENT_SECONDS = 120.0  # a run is lost after this time, or ten steps if longer, without a sign of life


@dataclass(frozen=True)
class Attempt:
    """One attempt: its begin and end (seconds since 1970), its steps, and why it ended. `reason` is that of its `end`
    event, "running", or "lost" if the command was killed or has gone silent."""

    number: int
    begin: float
    end: float
    first_step: int
    last_step: int
    reason: str
    message: str | None = None


@dataclass(frozen=True)
class History:
    """A run as its files showed it at `time`. `log`: the lines that are still valid."""

    path: Path
    config: RunConfig
    log: list[dict[str, Any]]
    events: list[dict[str, Any]]
    attempts: list[Attempt]
    time: float

    @property
    def state(self) -> str:
        return self.attempts[-1].reason if self.attempts else "not started"

    @property
    def step(self) -> int:
        """The newest step that is still valid."""
        return self.log[-1]["step"] if self.log else 0

    @property
    def step_seconds(self) -> float | None:
        """Median seconds of a step, without steps that compiled."""
        return _step_seconds(self.log)

    @property
    def goodput(self) -> float | None:
        """Valid steps times the run's median step time, divided by the wall-clock time since the first start."""
        if not self.attempts or self.step_seconds is None:
            return None
        passed = self.attempts[-1].end - self.attempts[0].begin
        return min(1.0, self.step_seconds * (self.step - self.attempts[0].first_step) / passed) if passed > 0 else None

    @property
    def tokens_per_second(self) -> float | None:
        """Median rate of the last 100 logged steps that did not compile."""
        rates = [line["tokens_per_second"] for line in self.log if not line["compiling"]]
        rates = [rate for rate in rates if rate is not None][-100:]
        return statistics.median(rates) if rates else None

    def last(self, key: str) -> float | None:
        return next((line[key] for line in reversed(self.log) if line.get(key) is not None), None)

    @property
    def watched(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] in WATCHED]

    @property
    def out_of_patience(self) -> str:
        """A sentence if `training.patience` ended the run, otherwise ""."""
        event = next((event for event in reversed(self.events) if event["event"] in ("out of patience", "start")), None)
        if event is None or event["event"] == "start":
            return ""
        return f"ended by training.patience at step {event['step']}, the best is step {event['best']}"

    @property
    def counts(self) -> Counter[str]:
        return Counter(event["event"] for event in self.events)


def read_history(path: Path) -> History:
    """Read a run directory. `UserError` if it is not one."""
    run = RunDirectory(path)
    if not run.config.is_file():
        below = sorted(file.parent for file in path.glob("*/config.yaml"))
        remedy = f"name a run in it, such as {below[0]}" if below else "name the output of a run"
        raise UserError(f"{path}: not a run directory (no config.yaml); {remedy}")
    now, log, events = time.time(), read_log(run.log), read_events(run.events)
    alive = max((file.stat().st_mtime for file in (run.progress, run.log, run.events) if file.exists()), default=0.0)
    return History(path, read_config(run), log, events, _attempts(log, events, alive, now), now)


def batch_text(history: History, first: int) -> str:
    """Return the beginnings of the texts in the batch that starts at sample `first`. `UserError` without its data."""
    from ms_codegeex.data.datasets.opening import training_data
    from ms_codegeex.data.inspection import open_dataset

    tokenizer = open_dataset(Path(history.config.data.directories[0])).tokenizer()
    size = history.config.training.global_batch
    rows = training_data(history.config).training_batch(first, min(size, FAULT_ROWS)).inputs
    texts = [tokenizer.decode(row[:FAULT_TOKENS].tolist()) for row in rows]
    parts = [f"sample {first + number}:\n{words}" for number, words in enumerate(texts)]
    return "\n\n".join([*parts, *([f"… and {size - len(rows)} more"] if size > len(rows) else [])])


def clock(when: float) -> str:
    """Format a time in seconds since 1970 as local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))


def words_of(event: Mapping[str, object]) -> str:
    shown = {k: v for k, v in event.items() if k not in ("event", "time", "attempt") and (v or k in ("rank", "best"))}
    return ", ".join(f"{k} {f'{v:.4g}' if isinstance(v, float) else v}" for k, v in shown.items())


def _step_seconds(log: Sequence[dict[str, Any]]) -> float | None:
    seconds = [line["step_seconds"] for line in log if not line["compiling"] and line["step_seconds"] is not None]
    return statistics.median(seconds) if seconds else None


def _attempts(
    log: Sequence[dict[str, Any]], events: Sequence[dict[str, Any]], alive: float, now: float
) -> list[Attempt]:
    starts = [event for event in events if event["event"] == "start"]
    silent = now - alive > max(SILENT_SECONDS, 10 * (_step_seconds(log) or 0.0))
    attempts = []
    for start, following in itertools.zip_longest(starts, starts[1:]):
        number = start["attempt"]
        own = [event for event in events if event["attempt"] == number]
        steps = [line["step"] for line in log if line.get("attempt", 1) == number]
        end = next((event for event in own if event["event"] == "end"), None)
        if end is not None:
            until, reason = end["time"], end["reason"]
        elif following is not None:
            until, reason = own[-1]["time"], "lost"
        else:
            until, reason = (alive, "lost") if silent else (now, "running")
        last = max([*steps, *(event.get("step") or 0 for event in own)])
        message = end.get("message") or end.get("signal") if end else None
        attempts.append(Attempt(number, start["time"], until, start.get("step") or 0, last, reason, message))
    return attempts


def write_history_page(histories: Mapping[str, History], output: Path, texts: Callable[[History, int], str]) -> None:
    """Write the page. `texts(history, first)` returns the text of the batch that starts with sample `first`."""
    title = f"Run {next(iter(histories))}" if len(histories) == 1 else f"{len(histories)} runs"
    sections = [("Overview", _overview(histories)), ("Curves", _curves(histories)), ("Attempts", *_timeline(histories))]
    for name, history in histories.items():
        sections.append((f"Faults of {name}", _faults(history, texts)))
    for name, history in histories.items():
        rows = ([clock(event["time"]), event["event"], words_of(event)] for event in history.watched)
        sections.append((f"Profiles and hardware of {name}", table(("time", "event", "content"), rows)))
    for name, history in histories.items():
        sections.append((f"Settings of {name}", settings(history.config.to_dict())))
    with atomic_file(output) as temporary:
        temporary.write_text(page(title, sections), encoding="utf-8")


def _overview(histories: Mapping[str, History]) -> Html:
    figures = {name: overview(history) for name, history in histories.items()}
    heads = ("run", *next(iter(figures.values())))
    small = (
        "Goodput is the share of wall-clock time that went into steps that were kept: their number times the median "
        "step time, divided by the time from the first start to the last end. Compiling, evaluating, saving, repeated "
        "steps and pauses count as lost time."
    )
    return table(heads, ([name, *values.values()] for name, values in figures.items()), 8, small)


def overview(history: History) -> dict[str, str]:
    """Return a run's figures as a table row: column head -> text."""
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


def _curves(histories: Mapping[str, History]) -> Html:
    def figure(title: str, key: str, unit: str = "", scale: float = 1.0) -> Html:
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
        figure("training loss", "loss", "nats per token"),
        figure("validation loss", "validation_loss", "nats per token"),
        figure("gradient norm", "gradient_norm"),
        figure("tokens per second", "tokens_per_second"),
        figure("learning rate", "learning_rate"),
        figure("memory of rank 0", "memory_bytes", "GB", 1e-9),
    )


def _timeline(histories: Mapping[str, History]) -> tuple[Html, Html]:
    rows, cells = [], []
    for name, history in histories.items():
        for attempt in history.attempts:
            label = f"{name} {attempt.number}" if len(histories) > 1 else f"attempt {attempt.number}"
            colour = REASONS.index(attempt.reason) if attempt.reason in REASONS else len(REASONS)
            words = f"{attempt.reason}, steps {attempt.first_step} to {attempt.last_step}"
            rows.append((label[-24:], attempt.begin, attempt.end, colour, words))
            seconds, steps = duration(attempt.end - attempt.begin), (attempt.first_step, attempt.last_step)
            cells.append([label, *steps, seconds, attempt.reason, attempt.message or ""])
    chart = spans("attempts on a common timeline", rows, "time since the first start", duration)
    return chart, table(("attempt", "from step", "to step", "time", "end", "message"), cells, 3, nothing="None.")


def _faults(history: History, texts: Callable[[History, int], str]) -> Html:
    faults = [event for event in history.events if event["event"] == "fault"]
    rows = [
        [
            event["step"],
            *(_number(event.get(key)) for key in ("loss", "gradient_norm")),
            *(event[key] for key in ("kind", "policy")),
            event["samples"][0],
            element("details", element("summary", "text"), element("pre", _batch_text(history, event, texts))),
        ]
        for event in faults[-SHOWN_FAULTS:]
    ]
    heads = ("step", "loss", "gradient norm", "kind", "policy", "first sample", "batch")
    return table(heads, rows, 2, nothing="None.")


def _batch_text(history: History, event: Mapping[str, Any], texts: Callable[[History, int], str]) -> Html:
    try:
        return text(texts(history, event["samples"][0]), keep="\n\t")
    except UserError as error:  # for example, the dataset was moved
        return text(str(error))


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
