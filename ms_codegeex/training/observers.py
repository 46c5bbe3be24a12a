"""What a run reports: the figures of its steps, and the callbacks that receive them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class StepRecord:
    """The figures of one step, with the keys of a line of log.jsonl. Times in seconds, rates over the whole job."""

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float | None
    loss_scale: float | None  # None without one
    skipped: bool
    tokens: int
    tokens_per_second: float
    mfu: float
    data_wait_percent: float
    memory_bytes: int
    step_seconds: float
    compiling: bool  # the first step of a process includes compiling its graph
    validation_loss: float | None = None
    eta_seconds: float | None = None


class Callback:
    """Observes a run; a subclass overrides the methods it needs. `trainer`: a `training.trainer.Trainer`."""

    def status(self, text: str) -> None:
        """Called when something that takes a while begins; `text` describes it."""

    def warning(self, text: str) -> None:
        """Called for a problem that does not end the run."""

    def phase(self, name: str | None) -> None:
        """Called when a phase other than a step begins, such as "evaluation"; None when it has ended."""

    def beat(self) -> None:
        """Called after each part of a phase, as a sign that the rank is not stuck."""

    def event(self, event: str, **content: Any) -> None:
        """Called for an event that belongs in the run's history, with its fields."""

    def start(self, trainer: Any) -> None:
        """Called once the initial model of a run with `training.patience` has been evaluated."""

    def begin(self, trainer: Any) -> None:
        """Called before step `trainer.progress.step` + 1."""

    def step(self, trainer: Any, record: StepRecord) -> None:
        """Called after each step."""

    def end(self, trainer: Any) -> None:
        """Called after the last step."""

    def leave(self, trainer: Any) -> None:
        """Called when no further step follows: after `end`, or after an error."""


class ObservedRun:
    """A run that callbacks observe. Its methods call all of them, in their order."""

    callbacks: Sequence[Callback]

    def status(self, text: str) -> None:
        self._call("status", text)

    def warn(self, text: str) -> None:
        self._call("warning", text)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Name what the block does, such as "evaluation", so that callbacks can say where a rank is stuck."""
        self._call("phase", name)
        try:
            yield
        finally:
            self._call("phase", None)

    def beat(self) -> None:
        self._call("beat")

    def tell(self, method: str, *arguments: Any) -> None:
        self._call(method, self, *arguments)

    def event(self, event: str, **content: Any) -> None:
        self._call("event", event, **content)

    def _call(self, method: str, *arguments: Any, **content: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, method)(*arguments, **content)
