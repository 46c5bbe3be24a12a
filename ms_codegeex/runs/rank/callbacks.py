"""The callbacks of a rank: log, TensorBoard events and loss curve on rank 0; saving and stopping."""

from __future__ import annotations

import contextlib
import json
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ms_codegeex.base.appending import AppendedFile
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_file
from ms_codegeex.base.installed import without_torch
from ms_codegeex.base.nested import finite
from ms_codegeex.base.printing import print_error
from ms_codegeex.config import RunConfig
from ms_codegeex.formats.checkpoint import Checkpoint
from ms_codegeex.runs.files.records import read_log
from ms_codegeex.runs.files.run_directory import RunDirectory, event_line
from ms_codegeex.runs.files.stopping import LastStep, NextSave
from ms_codegeex.runs.rank.replicas import ReplicaCheck
from ms_codegeex.runs.rank.saving import Checkpoints, SaveClock, Writers
from ms_codegeex.training.observers import Callback, StepRecord
from ms_codegeex.training.trainer import Trainer

FIRST_STEP = "first step:"  # prefix of a line in every worker's log
FLUSH_SECONDS = 30.0
TRAINED_BYTES = 12  # per trained weight in a checkpoint, including its moments
DRAWING_SHARE = 50  # at most a 50th of a run's time goes into drawing


class Eta:
    """Estimates the remaining seconds from a moving average of step times, without the first step, which compiles."""

    def __init__(self) -> None:
        self.average: float | None = None
        self.steps = 0

    def update(self, seconds: float, steps_left: int) -> float | None:
        """Return the remaining seconds after a step of `seconds`; None until a step without compilation was seen."""
        self.steps += 1
        if self.steps > 1:
            self.average = seconds if self.average is None else 0.9 * self.average + 0.1 * seconds
        return None if self.average is None else self.average * steps_left


class JsonLog(Callback):
    """Writes log.jsonl, with a line for each logged step, and the events that the display reads. A full disk does not
    end a run: lines wait until there is room, and the user is warned once."""

    def __init__(self, run: RunDirectory, every: int):
        self.every, self.attempt = every, run.attempt
        self.eta = Eta()
        self.log, self.progress = AppendedFile(run.log), AppendedFile(run.progress)
        self.warned = False

    def _event(self, event: dict[str, Any]) -> None:
        self.progress.write(json.dumps(event))

    def status(self, text: str) -> None:
        self._event({"event": "status", "text": text, "time": time.time()})

    def warning(self, text: str) -> None:
        """Show a warning and print it to the worker's log."""
        with contextlib.suppress(OSError):  # that log may be on a full disk too
            print_error(f"warning: {text}")
        self._event({"event": "warning", "text": text, "time": time.time()})

    def step(self, trainer: Trainer, record: StepRecord) -> None:
        """Show every step. Log every `logging.every`-th step, and each that was evaluated, skipped or the last."""
        record.eta_seconds = self.eta.update(record.step_seconds, trainer.steps_left)
        line = {**finite(asdict(record)), "attempt": self.attempt}
        self._event({"event": "step", "steps_left": trainer.steps_left, "ending": trainer.ending, **line})
        if record.step % self.every == 0 or record.skipped or record.validation_loss is not None or trainer.ending:
            failed = self.log.write(json.dumps(line))
            if failed and not self.warned:
                trainer.warn(f"{self.log.path}: could not be written ({failed.strerror}); its lines wait for room")
            self.warned = failed is not None

    def end(self, trainer: Trainer) -> None:
        self.log.close()


class StopOnRequest(Callback):
    """Ends the run after a step on which all ranks agree. Every rank has one, before its other callbacks. `last`: the
    request, and the step that rank 0 announces in a file. `agree` returns whether any rank says yes; it is for several
    servers, whose file systems may show a file late."""

    def __init__(self, last: LastStep, agree: Callable[[bool], bool] | None = None):
        self.last, self.agree = last, agree

    def step(self, trainer: Trainer, record: StepRecord) -> None:
        """Stop if this was the last step, unless it was skipped, because nothing is saved after a skipped step."""
        last = self.agree(self.last.requested) if self.agree else self.last.reached(record.step)
        if last and not record.skipped:
            trainer.stop()


class FirstStep(Callback):
    """Prints the figures of a rank's first step to its log. Other stages may need other memory than rank 0's."""

    def step(self, trainer: Trainer, record: StepRecord) -> None:
        if record.compiling:
            figures = {"rank": trainer.rank, "seconds": record.step_seconds, "memory_bytes": record.memory_bytes}
            print_error(f"{FIRST_STEP} {json.dumps(figures)}")


class EventLog(Callback):
    """Appends events of the run to events.jsonl. A full disk delays the lines but does not end the run."""

    def __init__(self, run: RunDirectory):
        self.file = AppendedFile(run.events)

    def event(self, event: str, **content: Any) -> None:
        self.file.write(event_line(event, content))

    def leave(self, trainer: Trainer) -> None:
        self.file.close()


class TensorBoard(Callback):
    """Writes scalar events with tensorboardX, which needs neither TensorFlow nor PyTorch. They are written in the
    calling thread, because the library's own thread hangs for ever once its disk has been full."""

    def __init__(self, directory: Path, first_step: int):
        with without_torch():
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event, SessionLog

        directory.mkdir(parents=True, exist_ok=True)
        self.writer = EventsWriter(str(directory / "events"))
        self.flushed = time.monotonic()
        # makes readers drop an earlier job's events for this step and later ones
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
        self._attempt(trainer, lambda: self._write(record))

    def end(self, trainer: Trainer) -> None:
        self._attempt(trainer, lambda: self.writer.close())


class LossPlot(Callback):
    """Draws loss.png from log.jsonl at intervals and at the end."""

    def __init__(self, run: RunDirectory, every_seconds: float = 30.0):
        self.run, self.every_seconds, self.drawn = run, every_seconds, time.monotonic()
        self.warned = False

    def _draw(self, trainer: Trainer) -> None:
        try:
            plot_loss(self.run.log, self.run.plot)
            self.warned = False
        except UserError as error:  # for example, a full disk
            if not self.warned:
                trainer.warn(str(error))
            self.warned = True

    def step(self, trainer: Trainer, record: StepRecord) -> None:
        """Draw the curve again if the picture is old."""
        began = time.monotonic()
        if began - self.drawn > self.every_seconds:
            self._draw(trainer)
            self.drawn = time.monotonic()
            self.every_seconds = max(self.every_seconds, DRAWING_SHARE * (self.drawn - began))  # the log grows

    def end(self, trainer: Trainer) -> None:
        if not trainer.stopped:
            self._draw(trainer)


def plot_loss(log: Path, picture: Path) -> None:
    """Draw training and validation loss over steps, with the learning rate below. Does nothing for an empty log."""
    records = read_log(log)
    if not records:
        return
    from matplotlib.figure import Figure

    good = [r for r in records if not r["skipped"]]
    evaluated = [r for r in records if r["validation_loss"] is not None]
    figure = Figure(figsize=(8, 5), layout="constrained")
    loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    loss.plot([r["step"] for r in good], [r["loss"] for r in good], lw=1, label="training")
    if evaluated:
        steps, losses = ([r[key] for r in evaluated] for key in ("step", "validation_loss"))
        loss.plot(steps, losses, "o-", label="validation")
    rate.plot([r["step"] for r in records], [r["learning_rate"] for r in records], lw=1, color="tab:green")
    loss.set_ylabel("loss (nats per token)")
    rate.set(xlabel="step", ylabel="learning rate")
    for axes in (loss, rate):
        axes.grid(alpha=0.3)
    loss.legend()
    with atomic_file(picture) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _over_ranks(number: float) -> float:
    """Return the sum over all ranks of a number that is exact in FP32. All ranks must call this."""
    import mindspore as ms
    from mindspore import Tensor, ops

    return float(ops.AllReduce()(Tensor([number], ms.float32)).asnumpy()[0])


class Votes:
    """Requests of several servers' ranks after a step, summed in one number: to stop, or to save by the `clock`."""

    def __init__(self, clock: SaveClock | None, leads: bool):
        self.clock, self.leads, self.save = clock, leads, False

    def stop(self, asks: bool) -> bool:
        """Return whether the run stops; sets `save`. `asks`: whether this rank has found a request to stop."""
        due = self.clock is not None and self.leads and self.clock.due()
        total = int(_over_ranks(asks + 2 * due))
        self.save = total >= 2
        return total % 2 == 1


def _save_clock(config: RunConfig, writers: int) -> SaveClock | None:
    if config.checkpoint.every is not None:
        return None
    sizes, lora = config.model.sizes, config.lora
    shapes = sizes.adapter_shapes(lora.targets, lora.rank) if lora.rank else sizes.parameter_shapes()
    return SaveClock(TRAINED_BYTES * sum(map(math.prod, shapes.values())) // writers)


def _job_name(config: RunConfig, rank: int) -> str:
    number = secrets.randbelow(2**24)
    return f"{int(_over_ranks(0 if rank else number)) if config.partitioned else number:06x}"


def callbacks_of(config: RunConfig, run: RunDirectory, rank: int, checkpoint: Checkpoint | None) -> list[Callback]:
    """Return the callbacks of this rank, in calling order."""
    start = checkpoint.step if checkpoint else 0
    several = run.servers.is_dir() and config.devices > 1  # their file systems are slow to show a file
    leads, count = rank == 0, config.devices if config.partitioned else 1
    clock = _save_clock(config, count)
    votes = Votes(clock, leads) if several else None
    callbacks: list[Callback] = [StopOnRequest(LastStep(run, leads), votes and votes.stop), FirstStep()]
    if rank == 0:
        callbacks.append(JsonLog(run, config.logging.every))
        if config.logging.tensorboard:
            callbacks.append(TensorBoard(run.tensorboard, start + 1 if checkpoint else 0))
        if config.logging.plots:
            callbacks.append(LossPlot(run))
    if config.faults.replicas and config.devices > 1:
        callbacks.append(ReplicaCheck(run.replicas, config.faults.replicas, config.devices, start))
    if rank == 0 or config.partitioned:
        saving = config.checkpoint
        agreed = (lambda _, due: due) if count == 1 else NextSave(run, leads).reached
        if votes is not None and count > 1:
            agreed = lambda *_: votes.save  # noqa: E731
        checkpoints = Checkpoints(
            run.checkpoints,
            saving.every,
            saving.keep,
            checkpoint,
            writers=Writers(count, _job_name(config, rank)),
            keep_best=config.training.patience > 0,
            keep_every=saving.keep_every,
            background=saving.background,
            clock=clock,
            agreed=agreed,
        )
        callbacks.append(checkpoints)
    if config.profile.steps:
        from ms_codegeex.runs.rank.profiling import Profile

        total = _over_ranks if config.devices > 1 else float
        callbacks.append(Profile(config, run.profile / f"rank_{rank}", rank, total))
    if rank == 0:
        callbacks.append(EventLog(run))  # last, because the others report events when they end
    return callbacks
