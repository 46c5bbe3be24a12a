"""Show the progress of long work: each second on a terminal, now and then in a log."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from typing import Any

from ms_codegeex.base.printing import print_error

LOG_SECONDS = 20.0  # between two lines in a log
TERMINAL_SECONDS = 1.0


class Progress:
    """A context that counts finished pieces of work on standard error: at first `done` of `total` (None: unknown).

    On a terminal it is a bar that shows the time at least each second; with `leave`, it stays when the work is done. In
    a log it is a line for the first finished piece, one every `LOG_SECONDS`, and one for the last piece. A thread shows
    it, so the process must not fork meanwhile.
    """

    def __init__(
        self, total: int | None, name: str, *, unit: str = "", shown: bool = True, done: int = 0, leave: bool = True
    ):
        self.total, self.name, self.unit, self.n = total, name, unit, done
        self._enabled, self._bar = shown, self._new_bar(leave) if shown and sys.stderr.isatty() else None
        self._began = time.monotonic()
        self._shown_at, self._shown = self._began - LOG_SECONDS, done
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep_showing, name=f"progress of {name}", daemon=True)

    def _new_bar(self, leave: bool) -> Any:
        from tqdm import tqdm

        width, height = shutil.get_terminal_size()  # 80 x 24 if a terminal reports 0 x 0; tqdm would draw nothing
        only_time = None if self.unit or self.total else "{desc} ({elapsed})"
        size = {"ncols": width, "nrows": height, "bar_format": only_time, "leave": leave}
        return tqdm(total=self.total, initial=self.n, desc=self.name, unit=self.unit or "it", file=sys.stderr, **size)

    def __enter__(self) -> Progress:
        if self._enabled:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        if not self._enabled:
            return
        self._thread.join()
        if self._bar is not None:
            self._bar.close()
        elif self.n != self._shown:
            self._show()

    def update(self, n: int = 1) -> None:
        """Count `n` more finished pieces and update the display if it is time."""
        self.n += n
        if self._bar is not None:
            self._bar.update(n)
        elif self._enabled:
            self._show_if_due()

    def describe(self, name: str, total: int) -> None:
        self.name, self.total = name, total
        if self._bar is not None:
            self._bar.total, self._bar.bar_format = total, None
            self._bar.set_description(name, refresh=False)

    def _keep_showing(self) -> None:
        while not self._stopped.wait(LOG_SECONDS if self._bar is None else TERMINAL_SECONDS):
            if self._bar is None:
                self._show_if_due()
            else:
                self._bar.refresh()

    def _show_if_due(self) -> None:
        if time.monotonic() - self._shown_at >= LOG_SECONDS:
            self._show()

    def _show(self) -> None:
        self._shown_at, self._shown = time.monotonic(), self.n
        of = "" if self.total is None else f" of {self.total}"
        count = f"{self.n}{of}{f' {self.unit}' if self.unit else ''} after " if self.total or self.unit else ""
        print_error(f"{self.name}: {count}{self._shown_at - self._began:.0f} s")
