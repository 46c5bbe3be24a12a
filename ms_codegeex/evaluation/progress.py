"""How far long work has come: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from contextlib import AbstractContextManager
from typing import Any, Protocol

from ms_codegeex.base.printing import print_error

SECONDS = 30.0  # between two lines


class EvaluationProgress(Protocol):
    """Counts what is finished."""

    def update(self, n: int = 1) -> Any:
        """So many more are."""


class _Lines:
    """For a log: the first finished piece, a line every `SECONDS`, also during a piece, and the last piece."""

    def __init__(self, total: int | None, name: str, unit: str, done: int):
        self.total, self.name, self.unit, self.n = total, name, unit, done
        self.began = time.monotonic()
        self.shown_at, self.shown = self.began - SECONDS, done
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._keep_showing, name=f"progress of {name}", daemon=True)

    def __enter__(self) -> _Lines:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.thread.join()
        if self.n != self.shown:
            self._show()

    def update(self, n: int = 1) -> None:
        """Count, and print if it is time."""
        self.n += n
        self._show_if_due()

    def _keep_showing(self) -> None:
        while not self.stopped.wait(SECONDS):
            self._show_if_due()

    def _show_if_due(self) -> None:
        if time.monotonic() - self.shown_at >= SECONDS:
            self._show()

    def _show(self) -> None:
        self.shown_at, self.shown = time.monotonic(), self.n
        of = "" if self.total is None else f" of {self.total}"
        unit = f" {self.unit}" if self.unit else ""
        seconds = self.shown_at - self.began
        print_error(f"{self.name}: {self.n}{of}{unit} after {seconds:.0f} s")


def progress_of(
    total: int | None, name: str, *, unit: str = "", shown: bool = True, done: int = 0
) -> AbstractContextManager[EvaluationProgress]:
    """A context that counts pieces of work on standard error, `done` of `total` (None: unknown) at first."""
    if shown and not sys.stderr.isatty():
        return _Lines(total, name, unit, done)
    from tqdm import tqdm

    width, height = shutil.get_terminal_size()  # 80 x 24 if a terminal reports 0 x 0, for which tqdm draws nothing
    size = {"ncols": width, "nrows": height}
    return tqdm(total=total, initial=done, desc=name, unit=unit or "it", disable=not shown, file=sys.stderr, **size)
