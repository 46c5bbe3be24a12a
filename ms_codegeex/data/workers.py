"""Work on many files in worker processes, with results in order and a progress bar."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.data.corpus import SourceFile

_BATCH_BYTES, _BATCH_FILES = 1_000_000, 256


@dataclass(frozen=True)
class Task:
    """A batch of files for one worker: their paths, languages and total size in bytes, but not their content."""

    paths: tuple[Path, ...]
    languages: tuple[str, ...]
    bytes: int


class Progress:
    """A tqdm bar on a terminal, one line per phase elsewhere, nothing when switched off."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled

    def say(self, text: str) -> None:
        if self.enabled:
            print(text, file=sys.stderr, flush=True)

    def track(self, tasks: Sequence[Task], results: Iterable[Any], name: str) -> Iterator[tuple[Task, Any]]:
        """Pairs of task and result while a bar (or a closing line) shows bytes and MB/s."""
        from tqdm import tqdm

        total, started = sum(task.bytes for task in tasks), time.perf_counter()
        terminal = self.enabled and sys.stderr.isatty()
        width, height = shutil.get_terminal_size()  # 80 x 24 where a terminal says 0 x 0; tqdm would draw nothing
        with tqdm(
            total=total,
            unit="B",
            unit_scale=True,
            desc=name,
            ncols=width,
            nrows=height,
            disable=not terminal,
            file=sys.stderr,
        ) as bar:
            for task, result in zip(tasks, results, strict=True):
                yield task, result
                bar.update(task.bytes)
        if not terminal:
            seconds = time.perf_counter() - started
            self.say(f"{name}: {total / 1e6:.1f} MB in {seconds:.1f} s, {total / 1e6 / max(seconds, 1e-9):.1f} MB/s")


def _start_worker() -> None:
    """The parent handles an interrupt; a worker whose parent is gone ends itself instead of waiting for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


@contextlib.contextmanager
def open_mapper(workers: int) -> Iterator[Callable]:
    """`map` in this process, or in `workers` fresh ones (spawned: forking a process with threads is unsafe)."""
    if workers < 2:
        yield map
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        yield pool.map
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def make_tasks(files: Iterable[SourceFile]) -> list[Task]:
    """`files` in order, cut into batches of about 1 MB."""
    tasks, batch, total = [], [], 0
    for file in files:
        batch.append(file)
        total += file.size
        if total >= _BATCH_BYTES or len(batch) == _BATCH_FILES:
            tasks.append(_task(batch))
            batch, total = [], 0
    return [*tasks, _task(batch)] if batch else tasks


def _task(files: Sequence[SourceFile]) -> Task:
    return Task(
        tuple(file.path for file in files), tuple(file.language for file in files), sum(file.size for file in files)
    )
