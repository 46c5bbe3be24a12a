"""What watches a run: log, TensorBoard, loss curve, checkpoints. On rank 0; checkpoints on all ranks of a cut graph."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ms_codegeex.files import atomic_file
from ms_codegeex.formats.checkpoint import prune, write_checkpoint
from ms_codegeex.training.run_directory import RunDirectory
from ms_codegeex.training.trainer import Callback, Record, Trainer


class Eta:
    """Seconds left, from a moving average of step times that ignores the compiling first step."""

    def __init__(self) -> None:
        self.average: float | None = None
        self.steps = 0

    def update(self, seconds: float, steps_left: int) -> float | None:
        """None until a step without compilation has been seen."""
        self.steps += 1
        if self.steps > 1:
            self.average = seconds if self.average is None else 0.9 * self.average + 0.1 * seconds
        return None if self.average is None else self.average * steps_left


class JsonLog(Callback):
    """log.jsonl, one line per logged step, and the events the display reads."""

    def __init__(self, run: RunDirectory, every: int, steps: int):
        self.run, self.every, self.steps = run, every, steps
        self.eta = Eta()
        self.log = run.log.open("a", encoding="utf-8")
        self.progress = run.progress.open("a", encoding="utf-8")

    def _event(self, event: dict[str, Any]) -> None:
        self.progress.write(json.dumps(event) + "\n")
        self.progress.flush()

    def status(self, text: str) -> None:
        """Tell the display."""
        self._event({"event": "status", "text": text, "time": time.time()})

    def step(self, trainer: Trainer, record: Record) -> None:
        """Tell the display of every step, the log of every `logging.every`-th, evaluated or skipped one."""
        record.eta_seconds = self.eta.update(record.step_seconds, self.steps - record.step)
        line = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in asdict(record).items()}
        self._event({"event": "step", **line})
        if (
            record.step % self.every == 0
            or record.skipped
            or record.validation_loss is not None
            or record.step == self.steps
        ):
            self.log.write(json.dumps(line) + "\n")
            self.log.flush()


class Checkpoints(Callback):
    """Saves every `every` steps and at the end, keeps the newest `keep`; `restored` is the step that is there
    already.

    Where tensors are cut, every rank has one of these and writes the parts that are its own; `barrier` waits for all
    `writers`. Replicas are equal, so on data-parallel processes rank 0 alone writes.
    """

    def __init__(
        self,
        root: Path,
        every: int,
        keep: int,
        restored: int | None = None,
        *,
        writers: int = 1,
        barrier: Callable[[], None] = lambda: None,
    ):
        self.root, self.every, self.keep, self.saved = root, every, keep, restored
        self.writers, self.barrier = writers, barrier

    def _save(self, trainer: Trainer) -> None:
        write_checkpoint(
            self.root,
            trainer.progress.step,
            trainer.own_slices(),
            trainer.scalars(),
            rank=trainer.rank,
            world_size=self.writers,
            barrier=self.barrier,
        )
        if trainer.rank == 0:
            prune(self.root, self.keep)
        self.saved = trainer.progress.step

    def step(self, trainer: Trainer, record: Record) -> None:
        """Save if it is time."""
        if self.every and record.step % self.every == 0:
            self._save(trainer)

    def end(self, trainer: Trainer) -> None:
        """Save the last step unless it is there."""
        if self.saved != trainer.progress.step:
            self._save(trainer)


class TensorBoard(Callback):
    """Scalar events, by tensorboardX: neither TensorFlow nor PyTorch is needed to write them."""

    def __init__(self, directory: Path, first_step: int):
        from tensorboardX import SummaryWriter

        self.writer = SummaryWriter(str(directory), purge_step=first_step)

    def step(self, trainer: Trainer, record: Record) -> None:
        """Write every figure of the step under its name."""
        for name, value in asdict(record).items():
            if name != "step" and value is not None:
                self.writer.add_scalar(name, value, record.step)

    def end(self, trainer: Trainer) -> None:
        """Flush and close."""
        self.writer.close()


class LossPlot(Callback):
    """loss.png, drawn from log.jsonl, now and then and at the end."""

    def __init__(self, run: RunDirectory, every_seconds: float = 30.0):
        self.run, self.every_seconds, self.drawn = run, every_seconds, time.monotonic()

    def step(self, trainer: Trainer, record: Record) -> None:
        """Redraw if the picture is old."""
        if time.monotonic() - self.drawn > self.every_seconds:
            plot_loss(self.run.log, self.run.plot)
            self.drawn = time.monotonic()

    def end(self, trainer: Trainer) -> None:
        """Draw the whole curve."""
        plot_loss(self.run.log, self.run.plot)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log.jsonl; a last line cut short by a kill is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def cut_log(path: Path, last_step: int) -> None:
    """Drop the lines behind `last_step`: a resumed run writes them anew."""
    kept = [record for record in read_log(path) if record["step"] <= last_step]
    with atomic_file(path) as temporary:
        temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")


def plot_loss(log: Path, picture: Path) -> None:
    """Training and validation loss over steps, learning rate below."""
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
