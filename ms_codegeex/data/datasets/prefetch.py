"""Batches read ahead by threads and returned in order."""

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
    """Yield an iterator over `read(position)` for all positions, in their order.

    Args:
        read: called in `workers` threads, or, with 0 workers, in the caller's when a result is requested.
        positions: what to read, possibly endless.
        workers: number of concurrent reads; at most twice as many results are ready or being read.

    An exception of `read` is raised where its result is requested. At the end of the `with` block, reads in progress
    are awaited and no others start.
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
    """Results of `pending`; taking one starts the next of `later`."""
    while pending:
        result = pending.popleft().result()
        pending.extend(itertools.islice(later, 1))
        yield result
