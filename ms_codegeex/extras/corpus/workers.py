"""Worker processes for many units, with results in order and a progress bar."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.printing import print_error, print_progress, size_text
from ms_codegeex.base.progress import LOG_SECONDS, TERMINAL_SECONDS
from ms_codegeex.extras.corpus.reading import Unit
from ms_codegeex.extras.shared.remote import RemotePath

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing.connection import Connection


class ProgressBar:
    """Progress on standard error: a line when a phase begins, and a bar on a terminal; nothing unless `enabled`."""

    def __init__(self, enabled: bool) -> None:
        self.enabled, self._phase, self._done, self._bar = enabled, "", "", None

    def say(self, text: str) -> None:
        """Print a line on standard error, and take it as the name of the phase that begins."""
        self._phase, self._done = text, ""
        if self.enabled:
            print_progress("")
            print_error(text)

    @contextlib.contextmanager
    def alive(self, seconds: float | None = None) -> Iterator[None]:
        """During the block, show that the phase goes on: every second on a terminal, every 20 s as a line in a log. A
        thread shows it, so no process may be forked in the block."""
        ended, started, terminal = threading.Event(), time.monotonic(), sys.stderr.isatty()

        def work() -> None:
            while not ended.wait(seconds or (TERMINAL_SECONDS if terminal else LOG_SECONDS)):
                if self._bar is not None:
                    self._bar.refresh()
                    continue
                show = print_progress if terminal else print_error
                show(f"{self._phase}{self._done}; {time.monotonic() - started:.0f} s so far")

        if self.enabled:
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
        try:
            yield
        finally:
            ended.set()
            if self.enabled:
                thread.join()
                print_progress("")

    def track(self, units: Sequence[Unit], results: Iterable[Any], name: str) -> Iterator[tuple[Unit, Any]]:
        """Yield pairs of unit and result while a bar (or a line at the start and the end) shows bytes and MB/s."""
        total, started = sum(unit.bytes for unit in units), time.perf_counter()
        pairs = zip(units, results, strict=True)
        if self.enabled and sys.stderr.isatty():
            from tqdm import tqdm

            # A terminal that reports 0 x 0 counts as 80 x 24, because tqdm would draw nothing.
            width, height = shutil.get_terminal_size()
            shape = {"ncols": width, "nrows": height, "unit": "B", "unit_scale": True}
            print_progress("")
            with tqdm(total=total, desc=name, file=sys.stderr, **shape) as self._bar:
                for unit, result in pairs:
                    yield unit, result
                    self._bar.update(unit.bytes)
            self._bar = None
            return
        self.say(f"{name} {size_text(total)}")
        self._phase, done = name, 0
        for unit, result in pairs:
            yield unit, result
            done += unit.bytes
            self._done = f", {done / max(total, 1):.0%} of {size_text(total)}"
        seconds = time.perf_counter() - started
        self.say(f"{name}: {size_text(total)} in {seconds:.1f} s, {total / 1e6 / max(seconds, 1e-9):.1f} MB/s")


def _start_worker(watched: Connection, inherited: Connection | None, prepare: Callable[[], object]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if inherited is not None:
        inherited.close()
        gc.freeze()  # a collection would copy memory shared with the parent

    def watch() -> None:
        watched.poll(None)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    prepare()


def _may_fork() -> bool:
    """Return whether this process can be forked safely: on Linux, if it is known to have a single thread."""
    try:
        return sys.platform == "linux" and len(os.listdir("/proc/self/task")) == 1
    except OSError:  # /proc is not mounted
        return False


def _start_all(pool: ProcessPoolExecutor, workers: int) -> None:
    for _ in range(workers):
        try:
            pool.submit(int)
        except OSError:
            # No more processes can be started; or a worker died, and a second attempt raises BrokenProcessPool.
            pool.submit(int)
            raise


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """Defer Ctrl-C and SIGTERM to the end of the block: a half-started process would print a traceback. Processes that
    start in the block never see Ctrl-C, which a terminal sends to all."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, lambda number, _: caught.append(number)) for number in signals}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # processes inherit it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in previous.items():
            signal.signal(number, handler)
        for number in caught:
            signal.raise_signal(number)


class Cluster(Protocol):
    """Other machines that do the work in place of this one."""

    def mapper(self) -> contextlib.AbstractContextManager[Callable]:
        """Provide a `map` that runs on them and keeps the order."""

    def check_nodes(self, work: Path, inputs: Sequence[Path | RemotePath]) -> int:
        """Return the number of nodes. Raises `UserError` if one cannot work, or does not see `work` or `inputs`."""


@contextlib.contextmanager
def open_mapper(workers: int, prepare: Callable[[], object]) -> Iterator[Callable]:
    """Provide `map`, in this process or in `workers` others, which start at once and are made ready by `prepare()`. If
    this process has a single thread, `prepare` is called here and the workers are forked, to share what it has loaded.
    Otherwise forking would be unsafe: each worker is a fresh process and calls it. An interrupt or an error in the
    block ends the workers at once. A worker that dies raises `UserError`."""
    if workers < 2:
        yield map
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    if _may_fork():
        prepare()
    forks = _may_fork()  # `prepare` may have started a thread
    context = multiprocessing.get_context("fork" if forks else "spawn")
    watched, stop = context.Pipe(duplex=False)
    arguments = (watched, stop if forks else None, prepare)
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=arguments)

    try:
        with _interrupts_later():
            _start_all(pool, workers)
        yield pool.map
    except BrokenProcessPool:
        stop.close()  # otherwise the pool waits forever for a worker that started while another died
        raise UserError(
            f"one of {workers} worker processes was ended from outside, as systems do when memory is short; run the "
            "same command again, with fewer --workers if that is the reason (what is finished is kept)"
        ) from None
    except BaseException:
        stop.close()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        stop.close()
        watched.close()
