"""Batches read ahead: in order, bounded, with errors where they belong, and with an end."""

import threading

import pytest

from ms_codegeex.data.datasets.batches import read_ahead


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_order_whichever_is_read_first(workers):
    late = threading.Event()

    def read(position):
        if workers > 1:  # the first waits for the second
            late.wait(600) if position == 10 else late.set()
        return position * 2

    with read_ahead(read, range(10, 40, 3), workers) as results:
        assert list(results) == [2 * p for p in range(10, 40, 3)]


@pytest.mark.parametrize("workers", [1, 2])
def test_reading_is_bounded_and_goes_on_behind_the_callers_back(workers):
    began, enough = [], threading.Semaphore(0)

    def read(position):
        began.append(position)
        enough.release()

    with read_ahead(read, range(100), workers) as results:
        for _ in range(2 * workers):
            assert enough.acquire(timeout=600)
        assert not enough.acquire(timeout=0.05) and sorted(began) == list(range(2 * workers))
        next(results)
        assert enough.acquire(timeout=600)
        assert not enough.acquire(timeout=0.05) and len(began) == 2 * workers + 1


def test_without_workers_nothing_is_read_ahead():
    began = []
    with read_ahead(began.append, range(5), 0) as results:
        assert began == []
        next(results)
        assert began == [0]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_error_is_raised_at_its_place_and_the_threads_end(workers):
    def read(position):
        if position == 3:
            raise OSError("gone")
        return position

    seen, before = [], set(threading.enumerate())
    with pytest.raises(OSError, match="gone"), read_ahead(read, range(10), workers) as results:
        for result in results:
            seen.append(result)
    assert seen == [0, 1, 2]
    assert set(threading.enumerate()) <= before


def test_leaving_early_ends_the_threads_and_starts_nothing_more():
    began, before = [], set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt), read_ahead(began.append, range(1000), 2) as results:
        next(results)
        raise KeyboardInterrupt
    assert set(threading.enumerate()) <= before
    assert len(began) <= 5


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_to_read(workers):
    with read_ahead(lambda position: position, range(0), workers) as results:
        assert list(results) == []
