"""Ways in which a run ends before its last step: a signal, after which all ranks end at the same step and save it; or
an error that a worker leaves for its launcher in `logs/error.json`, after which checkpoints may be set aside.

On SIGINT, SIGTERM or SIGUSR1, the launcher writes a request. Rank 0 sees it after a step and announces the next step as
the last. No rank can finish that step without rank 0, so by then every rank can read the announcement. Rank 0 announces
saves in the same way.

Imports no engine.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import Divergence, ReplicaFailure, Rewind, RunFailure, UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.base.printing import print_error
from ms_codegeex.base.reading import read_json
from ms_codegeex.formats.checkpoint import SETTLED_STEPS, DamagedFile, set_doubtful_aside
from ms_codegeex.runs.files.records import read_events, read_log
from ms_codegeex.runs.files.run_directory import RunDirectory

STEP_KEYS = {Divergence: "not_finite", ReplicaFailure: "corrupted_after"}  # error -> key of its step in error.json
KINDS: tuple[Any, ...] = (*STEP_KEYS, Rewind, RunFailure, DamagedFile, UserError)
SAVES = ("saving", "saved", "save failed")  # rank 0's events about a save
ON_ALL_RANKS = (Divergence, ReplicaFailure, Rewind)  # errors with which all ranks end, after the same step

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopExit(SystemExit):
    """The run was stopped by a signal. The exit status is 128 + its number, as in a shell, so never that of success."""

    def __init__(self, name: str):
        super().__init__(128 + signal.Signals[name])
        self.name = name


def stop_at_once(number: int, _frame: object) -> None:
    raise StopExit(signal.Signals(number).name)


class StopRequest:
    """The launcher's side: passes a signal on to the workers. They are ended once the `grace` seconds for saving have
    passed, or at a second signal."""

    def __init__(self, run: RunDirectory, grace: float):
        self.run, self.grace = run, grace
        self.since: float | None = None
        self.name = ""

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals during the block. If this or another server receives one, the block ends with `StopExit`.
        A failure after that is only printed, because it must not restart the run."""
        heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # ignored ones stay so
        handlers = {number: signal.signal(number, self._handle) for number in heard}
        try:
            yield
        except RunFailure as failure:
            if not self.run.stop_request.exists():
                raise
            print_error(str(failure))
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if (request := _read(self.run.stop_request)) is not None:
            raise StopExit(request["signal"])

    def _handle(self, number: int, _frame: object) -> None:
        name = signal.Signals(number).name
        if self.since is not None:
            raise StopExit(name)
        self.since, self.name = time.monotonic(), name
        self._ask()
        print_error(f"{name}: the run saves a checkpoint and ends; a second one ends it at once")

    def _ask(self) -> None:
        with contextlib.suppress(UserError):  # the disk may be full: `check` tries again
            write_json(self.run.stop_request, {"signal": self.name})

    def check(self) -> None:
        """Raise `StopExit` when the grace period is over."""
        if self.since is not None and not self.run.stop_request.exists():
            self._ask()  # the first try failed on a full disk
        if self.since is not None and time.monotonic() - self.since > self.grace:
            print_error(f"{self.name}: not saved within {self.grace:g} s (checkpoint.grace)")
            raise StopExit(self.name)


class LastStep:
    """A rank's side: the step to end after. `leads`: whether this is rank 0, which decides."""

    def __init__(self, run: RunDirectory, leads: bool):
        self.run, self.leads = run, leads
        self.step: int | None = None

    @property
    def requested(self) -> bool:
        return self.leads and self.run.stop_request.exists()

    def reached(self, step: int) -> bool:
        """Return whether `step`, which has just ended, is the last one."""
        if self.step is None and self.requested:
            with contextlib.suppress(UserError):  # a full disk: tried again after the next step
                write_json(self.run.last_step, {"step": step + 1})
                self.step = step + 1
        elif self.step is None and (decision := _read(self.run.last_step)) is not None:
            self.step = decision["step"]
        return self.step is not None and step >= self.step


class NextSave:
    """Saves that rank 0 announces one step ahead. `leads`: whether this is rank 0, which decides."""

    def __init__(self, run: RunDirectory, leads: bool):
        self.file, self.leads = run.next_save, leads

    def reached(self, step: int, due: bool) -> bool:
        """Return whether all ranks save after `step`, which has just ended. `due`: whether rank 0 wants to save."""
        announced = _read(self.file)
        if self.leads and due and (announced is None or announced["step"] <= step - 1):
            with contextlib.suppress(UserError):  # a full disk: tried again after the next step
                write_json(self.file, {"step": step + 1})
        return announced is not None and announced["step"] == step


def _read(path: Path) -> Any:
    return read_json(path) if path.exists() else None


def leave_error(run: RunDirectory, error: UserError | RunFailure, since: int) -> None:
    """Leave a worker's error for the launcher. `since`: the step that its job started from."""
    kind = next(kind for kind in KINDS if isinstance(error, kind))
    step = {STEP_KEYS[kind]: error.step} if kind in STEP_KEYS else {}
    with contextlib.suppress(UserError):  # the disk may be full, which the launcher reports
        write_json(run.error, {"message": str(error), "kind": kind.__name__, "since": since, **step})


def left_error(run: RunDirectory) -> UserError | RunFailure:
    """Return the error that a worker has left."""
    error = read_json(run.error)
    kind = next(kind for kind in KINDS if kind.__name__ == error["kind"])
    return kind(error["message"], error[STEP_KEYS[kind]]) if kind in STEP_KEYS else kind(error["message"])


def save_under_way(run: RunDirectory) -> bool:
    """Return whether rank 0 is still saving although a worker has left an error. If all ranks end with that error, the
    others wait for the save. Otherwise they must not, since rank 0 may be waiting for them."""
    if not isinstance(left_error(run), ON_ALL_RANKS):
        return False
    kinds = [event["event"] for event in read_events(run.events)]
    return next((kind == "saving" for kind in reversed(kinds) if kind in (*SAVES, "start")), False)


def set_doubtful_checkpoints_aside(run: RunDirectory) -> None:
    """Set checkpoints aside if the last job ended because its ranks held different copies, or because numbers were not
    finite. In the latter case, only checkpoints saved so shortly before that their weights may be the cause."""
    with contextlib.suppress(UserError):  # no error was left
        error = read_json(run.error)
        if error.get("noted"):  # called both at the end of that job and at the start of the next
            return
        aside = []
        if error.get("not_finite") is not None:
            first = _first_not_finite(run, error["not_finite"]) - SETTLED_STEPS
            aside = set_doubtful_aside(run.checkpoints, max(first, error["since"] + 1), keep_one=True)
        if error.get("corrupted_after") is not None:
            aside = set_doubtful_aside(run.checkpoints, error["corrupted_after"] + 1, keep_one=False)
        for path in aside:
            print_error(f"set aside: {path}")
        write_json(run.error, {**error, "noted": True})


def _first_not_finite(run: RunDirectory, step: int) -> int:
    for line in reversed(read_log(run.log)):
        if line["step"] == step - 1 and line["skipped"]:
            step -= 1
    return step
