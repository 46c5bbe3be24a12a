"""Share long work among threads and show progress: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import itertools
import queue
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Generic, Protocol, TypeVar

from ms_codegeex.base.printing import print_error

SECONDS = 30.0  # between two lines
Work, Result = TypeVar("Work"), TypeVar("Result")
PATIENCE = 5.0  # seconds to wait for running work after an interrupt


class EvaluationProgress(Protocol):
    """Counts what is finished."""

    def update(self, n: int = 1) -> Any:
        """`n` more are finished."""


class _Lines:
    """For a log: a line for the first finished piece, one every `SECONDS`, and one for the last piece."""

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


def in_parallel(
    work: Sequence[Work], do: Callable[[Work], Result], workers: int, name: str, progress: bool, done: int = 0
) -> Iterator[tuple[Work, Result]]:
    """Yield each piece of work with the result of `do` as it finishes. With one worker, run in the calling thread.

    After an error no new work starts; the results of running work are yielded, then the error is raised. After an
    interrupt, running work has `PATIENCE` seconds to finish. `done` is the initial count of what is shown."""
    with progress_of(len(work) + done, name, shown=progress and bool(work), done=done) as bar:
        done_work = _Crew(work, do, workers).results() if workers > 1 else ((each, do(each)) for each in work)
        for pair in done_work:
            yield pair
            bar.update()


class _Crew(Generic[Work, Result]):
    """Threads that share a list of work. They are daemons, so one that waits for a server does not block the exit."""

    def __init__(self, work: Sequence[Work], do: Callable[[Work], Result], workers: int):
        self._do, self._todo, self._lock = do, iter(work), threading.Lock()
        self._done: queue.SimpleQueue[tuple[Work, Result] | BaseException | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._running = min(workers, len(work))

    def _next(self) -> tuple[Work, ...]:
        with self._lock:
            return tuple(itertools.islice(self._todo, 0 if self._stopped.is_set() else 1))

    def _work(self) -> None:
        try:
            while next_one := self._next():
                self._done.put((next_one[0], self._do(next_one[0])))
        except BaseException as error:
            self._stopped.set()
            self._done.put(error)
        finally:
            self._done.put(None)

    def results(self) -> Iterator[tuple[Work, Result]]:
        """See `in_parallel`."""
        for _ in range(self._running):
            threading.Thread(target=self._work, daemon=True).start()
        failure: BaseException | None = None
        deadline: float | None = None
        try:
            while self._running:
                try:
                    left = None if deadline is None else max(0.0, deadline - time.monotonic())
                    outcome = self._done.get(timeout=left)
                except queue.Empty:
                    break
                except (KeyboardInterrupt, SystemExit) as interrupt:
                    if isinstance(failure, KeyboardInterrupt | SystemExit):
                        raise
                    self._stopped.set()
                    failure, deadline = interrupt, time.monotonic() + PATIENCE
                    continue
                if outcome is None:
                    self._running -= 1
                elif isinstance(outcome, BaseException):
                    failure = failure or outcome
                else:
                    yield outcome
        finally:
            self._stopped.set()
        if failure is not None:
            raise failure
