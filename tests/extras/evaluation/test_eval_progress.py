"""How far an evaluation has come, on a terminal and in a log."""

import io
import sys
import threading
from contextlib import redirect_stderr

import pytest

from ms_codegeex.base import progress
from ms_codegeex.base.progress import Progress
from ms_codegeex.extras.evaluation.progress import in_parallel


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Ten seconds pass between two looks."""
    seconds = iter(range(0, 10_000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))


def test_a_log_has_a_line_now_and_then_and_the_last(clock, capsys):
    with Progress(10, "judging", done=2) as bar:
        for _ in range(8):
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("judging: 3 of 10 after ") and lines[-1].startswith("judging: 10 of 10 after ")
    assert 2 < len(lines) < 8


def test_an_unknown_total_has_a_unit(clock, capsys):
    with Progress(None, "read", unit="tokens") as bar:
        bar.update(7)
    assert capsys.readouterr().err.startswith("read: 7 tokens after ")


def test_a_terminal_has_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert sum(result for _, result in in_parallel([1, 2, 3], lambda n: n, 2, "judging", True)) == 6
    assert "judging: 100%" in sys.stderr.getvalue() and "\r" in sys.stderr.getvalue()


@pytest.mark.parametrize("shown", [True, False])
def test_threads_say_how_far_they_are(capsys, shown):
    assert len(list(in_parallel([1, 2, 3], lambda n: n, 2, "judging", shown))) == 3
    assert ("judging: 3 of 3" in capsys.readouterr().err) == shown


class Log(io.StringIO):
    """`wait` waits for a line that begins with these words."""

    def __init__(self):
        super().__init__()
        self.changed = threading.Condition()

    def write(self, text):
        with self.changed:
            super().write(text)
            self.changed.notify_all()
        return len(text)

    def wait(self, words):
        with self.changed:
            came = self.changed.wait_for(lambda: f"\n{words}" in f"\n{self.getvalue()}", timeout=60)
        assert came, f"{words!r} is not in {self.getvalue()[:200]!r}"

    def wait_again(self, words):
        """Until a terminal's line has been written three times."""
        with self.changed:
            came = self.changed.wait_for(lambda: self.getvalue().count(f"\r{words}") > 2, timeout=60)
        assert came, f"{words!r} is not in {self.getvalue()[:200]!r} again"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_log_grows_while_a_single_piece_takes_long(monkeypatch, workers):
    """The first sample of a large model takes minutes."""
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.01)

    def work(number):
        log.wait("samples: 7 of 9 after ")
        return number

    with redirect_stderr(Log()) as log:
        assert sorted(each for each, _ in in_parallel([0, 1], work, workers, "samples", True, done=7)) == [0, 1]
    assert "samples: 9 of 9 after" in log.getvalue()
    assert not [each for each in threading.enumerate() if each.name.startswith("progress")]


def test_a_terminal_shows_the_time_while_a_single_piece_takes_long(monkeypatch):
    """Without a total, as a compiler's work, only the time; then what the work says of itself."""
    monkeypatch.setattr(progress, "TERMINAL_SECONDS", 0.01)
    monkeypatch.setattr(Log, "isatty", lambda _: True, raising=False)
    with redirect_stderr(Log()) as log, Progress(None, "compiling", unit="graphs") as bar:
        log.wait_again("compiling: 0graphs")
        bar.describe("stepping", 4)
        bar.update(3)
        log.wait_again("stepping:  75%")


def test_an_error_in_a_thread_is_raised_and_nothing_new_is_started():
    started = []

    def fail(number):
        started.append(number)
        if number == 3:
            raise ValueError("three")
        return number

    with pytest.raises(ValueError, match="three"):
        list(in_parallel(range(1000), fail, 2, "", False))
    assert len(started) < 20
