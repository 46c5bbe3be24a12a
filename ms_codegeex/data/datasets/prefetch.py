"""Batches read ahead by threads, handed out in order."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def read_ahead(read: Callable[[int], T], positions: Iterable[int], workers: int) -> Iterator[Iterator[T]]:
    """Yield an iterator over `read(position)` of all positions, in their order, whichever is read first.

    Args:
        read: called in `workers` threads, or, for 0 workers, in the caller's when a result is asked for.
        positions: what to read, without an end if need be; nothing else is read.
        workers: as many results are read at once, and twice as many are ready or being read at any time.

    An exception of `read` is raised where its result is asked for. When the `with` block ends, however it does, what
    has begun is waited for and nothing more is read.
    """
    if not workers:
        yield map(read, positions)
        return
    pool = ThreadPoolExecutor(workers, "batches")
    try:
        submitted = (pool.submit(read, position) for position in positions)
        yield _in_order(deque(itertools.islice(submitted, 2 * workers)), submitted)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(pending: deque[Future[T]], later: Iterator[Future[T]]) -> Iterator[T]:
    """Results of `pending`; each one that is taken starts the next of `later`."""
    while pending:
        result = pending.popleft().result()
        pending.extend(itertools.islice(later, 1))
        yield result
