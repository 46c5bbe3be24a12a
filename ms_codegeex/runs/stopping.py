"""Stops a run on a signal: its ranks end after the same step and save it.

When the launcher gets SIGTERM or SIGUSR1, it writes a request. Rank 0 sees it after a step and announces the next
step as the last. No rank can finish that step without rank 0, so by then every rank can read the announcement.

Imports no engine.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.base.printing import print_error
from ms_codegeex.base.reading import read_json
from ms_codegeex.runs.run_directory import RunDirectory

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(SystemExit):
    """The run was stopped by a signal. The exit status is 128 + its number, as in a shell: never that of success."""

    def __init__(self, name: str):
        super().__init__(128 + signal.Signals[name])
        self.name = name


def stop_at_once(number: int, _frame: object) -> None:
    """A signal handler that ends the process as after a stop, but without saving."""
    raise Stopped(signal.Signals(number).name)


class StopRequest:
    """The launcher's side: passes a signal on to the workers.

    Args:
        run: the run directory.
        grace: seconds for the workers to save; when they have passed, or at a second signal, the workers are ended.
    """

    def __init__(self, run: RunDirectory, grace: float):
        self.run, self.grace = run, grace
        self.since: float | None = None
        self.name = ""

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals in the block.

        If this server or another one has received a signal, the block ends with `Stopped`. A failure in the meantime
        is only printed, because it must not start the run again.
        """
        handlers = {number: signal.signal(number, self._handle) for number in SIGNALS}
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
            raise Stopped(request["signal"])

    def _handle(self, number: int, _frame: object) -> None:
        name = signal.Signals(number).name
        if self.since is not None:
            raise Stopped(name)
        self.since, self.name = time.monotonic(), name
        self._ask()
        print_error(f"{name}: the run saves a checkpoint and ends")

    def _ask(self) -> None:
        with contextlib.suppress(UserError):  # a full disk: `check` tries again
            write_json(self.run.stop_request, {"signal": self.name})

    def check(self) -> None:
        """`Stopped` when the grace is over."""
        if self.since is not None and not self.run.stop_request.exists():
            self._ask()  # the disk was full
        if self.since is not None and time.monotonic() - self.since > self.grace:
            print_error(f"{self.name}: not saved within {self.grace:g} s (checkpoint.grace)")
            raise Stopped(self.name)


class LastStep:
    """A rank's side: the step to end after.

    Args:
        run: the run directory.
        leads: whether this is rank 0, which decides.
    """

    def __init__(self, run: RunDirectory, leads: bool):
        self.run, self.leads = run, leads
        self.step: int | None = None

    @property
    def requested(self) -> bool:
        """Whether this rank decides and has found a request."""
        return self.leads and self.run.stop_request.exists()

    def reached(self, step: int) -> bool:
        """Whether the step that has ended is the last one."""
        if self.step is None and self.requested:
            with contextlib.suppress(UserError):  # a full disk: tried again after the next step
                write_json(self.run.last_step, {"step": step + 1})
                self.step = step + 1
        elif self.step is None and (found := _read(self.run.last_step)) is not None:
            self.step = found["step"]
        return self.step is not None and step >= self.step


def _read(path: Path) -> Any:
    return read_json(path) if path.exists() else None
