"""Share long work among threads, and show how far it is."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from ms_codegeex.base.progress import Progress

Work, Result = TypeVar("Work"), TypeVar("Result")
PATIENCE = 5.0  # seconds to wait for running work after an interrupt


def in_parallel(
    work: Sequence[Work], do: Callable[[Work], Result], workers: int, name: str, progress: bool, done: int = 0
) -> Iterator[tuple[Work, Result]]:
    """Yield each piece of work with the result of `do` as it finishes. With one worker, run in the calling thread.

    After an error no new work starts; the results of running work are yielded, then the error is raised. After an
    interrupt, running work has `PATIENCE` seconds to finish. `done` is the initial count of what is shown."""
    with Progress(len(work) + done, name, shown=progress and bool(work), done=done) as bar:
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
