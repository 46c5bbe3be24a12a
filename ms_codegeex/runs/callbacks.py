"""Callbacks that record a run on rank 0: log, TensorBoard events, loss curve."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ms_codegeex.errors import UserError
from ms_codegeex.files import AppendedFile, atomic_file
from ms_codegeex.runs.run_directory import RunDirectory
from ms_codegeex.training.trainer import Callback, StepRecord, Trainer

FLUSH_SECONDS = 30.0


class Eta:
    """Estimates the seconds left from a moving average of step times, without the first step, which compiles."""

    def __init__(self) -> None:
        self.average: float | None = None
        self.steps = 0

    def update(self, seconds: float, steps_left: int) -> float | None:
        """Seconds left after a step of `seconds`; None until a step without compilation has been seen."""
        self.steps += 1
        if self.steps > 1:
            self.average = seconds if self.average is None else 0.9 * self.average + 0.1 * seconds
        return None if self.average is None else self.average * steps_left


class JsonLog(Callback):
    """Writes log.jsonl, one line per logged step, and the events that the display reads.

    A full disk does not end a run: lines wait until there is room, and the user is warned once.
    """

    def __init__(self, run: RunDirectory, every: int):
        self.every = every
        self.eta = Eta()
        self.log, self.progress = AppendedFile(run.log), AppendedFile(run.progress)
        self.warned = False

    def _event(self, event: dict[str, Any]) -> None:
        self.progress.write(json.dumps(event))

    def status(self, text: str) -> None:
        """Show what begins now."""
        self._event({"event": "status", "text": text, "time": time.time()})

    def warning(self, text: str) -> None:
        """Show a warning, and print it into the worker's log."""
        with contextlib.suppress(OSError):  # that log may be on the full disk too
            print(f"warning: {text}", file=sys.stderr, flush=True)
        self._event({"event": "warning", "text": text, "time": time.time()})

    def step(self, trainer: Trainer, record: StepRecord) -> None:
        """Show every step; log every `logging.every`-th and each that was evaluated, skipped or the last."""
        record.eta_seconds = self.eta.update(record.step_seconds, trainer.steps_left)
        line = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in asdict(record).items()}
        self._event({"event": "step", "steps_left": trainer.steps_left, **line})
        if record.step % self.every == 0 or record.skipped or record.validation_loss is not None or trainer.finished:
            failed = self.log.write(json.dumps(line))
            if failed and not self.warned:
                trainer.warn(f"{self.log.path}: could not be written ({failed.strerror}); its lines wait for room")
            self.warned = failed is not None

    def end(self, trainer: Trainer) -> None:
        """Close the log."""
        self.log.close()


class TensorBoard(Callback):
    """Writes scalar events with tensorboardX, which needs neither TensorFlow nor PyTorch.

    They are written in this thread: the library's own thread waits for ever once its disk has been full.
    """

    def __init__(self, directory: Path, first_step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        directory.mkdir(parents=True, exist_ok=True)
        self.writer = EventsWriter(str(directory / "events"))
        self.flushed = time.monotonic()
        # readers then drop what an earlier job wrote for this step and later ones
        self.writer.write_event(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))
        self.failed = False

    def _attempt(self, trainer: Trainer, action: Callable[[], None]) -> None:
        if self.failed:
            return
        try:
            action()
        except OSError as error:
            self.failed = True
            trainer.warn(f"TensorBoard events end here ({error.strerror}); log.jsonl has the same figures")

    def _write(self, record: StepRecord) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for name, value in asdict(record).items():
            if name != "step" and value is not None:
                self.writer.write_event(Event(wall_time=time.time(), step=record.step, summary=scalar(name, value)))
        if time.monotonic() - self.flushed > FLUSH_SECONDS:
            self.writer.flush()
            self.flushed = time.monotonic()

    def step(self, trainer: Trainer, record: StepRecord) -> None:
        """Write every figure of the step under its name."""
        self._attempt(trainer, lambda: self._write(record))

    def end(self, trainer: Trainer) -> None:
        """Flush and close."""
        self._attempt(trainer, lambda: self.writer.close())


class LossPlot(Callback):
    """Draws loss.png from log.jsonl, now and then and at the end."""

    def __init__(self, run: RunDirectory, every_seconds: float = 30.0):
        self.run, self.every_seconds, self.drawn = run, every_seconds, time.monotonic()
        self.warned = False

    def _draw(self, trainer: Trainer) -> None:
        try:
            plot_loss(self.run.log, self.run.plot)
            self.warned = False
        except UserError as error:  # a full disk
            if not self.warned:
                trainer.warn(str(error))
            self.warned = True

    def step(self, trainer: Trainer, record: StepRecord) -> None:
        """Draw the curve again if the picture is old."""
        if time.monotonic() - self.drawn > self.every_seconds:
            self._draw(trainer)
            self.drawn = time.monotonic()

    def end(self, trainer: Trainer) -> None:
        """Draw the whole curve."""
        self._draw(trainer)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log.jsonl; a last line that was left incomplete by a kill is skipped."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def truncate_log(path: Path, last_step: int) -> None:
    """Drop the lines after `last_step`: a resumed run writes them again."""
    kept = [record for record in read_log(path) if record["step"] <= last_step]
    with atomic_file(path) as temporary:
        temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")


def plot_loss(log: Path, picture: Path) -> None:
    """Draw training and validation loss over steps, with the learning rate below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = read_log(log)
    if not records:
        return
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    good = [r for r in records if not r["skipped"]]
    evaluated = [r for r in records if r["validation_loss"] is not None]
    loss.plot([r["step"] for r in good], [r["loss"] for r in good], lw=1, label="training")
    if evaluated:
        loss.plot([r["step"] for r in evaluated], [r["validation_loss"] for r in evaluated], "o-", label="validation")
    loss.set_ylabel("loss (nats per token)")
    loss.grid(alpha=0.3)
    loss.legend()
    rate.plot([r["step"] for r in records], [r["learning_rate"] for r in records], lw=1, color="tab:green")
    rate.set(xlabel="step", ylabel="learning rate")
    rate.grid(alpha=0.3)
    with atomic_file(picture) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
