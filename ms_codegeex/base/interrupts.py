"""Ctrl-C while modules are imported. MindSpore's C++ code swallows a `KeyboardInterrupt` that comes while it is
imported, and the process crashes later. So the first Ctrl-C waits until no import is in progress. The second one does
not wait."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

PAUSE = 0.05  # seconds until the next look


@contextmanager
def after_imports() -> Iterator[None]:
    """Meanwhile, the first Ctrl-C raises `KeyboardInterrupt` as soon as no import is in progress, at the end at latest.
    Without effect in other threads than the main one, and where the signal is ignored or handled already."""
    plain = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not plain or threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting = threading.Event()

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        waiting.set()
        look(number, frame)

    def look(_number: int, frame: FrameType | None) -> None:
        if _is_importing(frame):
            signal.setitimer(signal.ITIMER_REAL, PAUSE)
        elif waiting.is_set():
            waiting.clear()
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, look)
    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if signal.getsignal(signal.SIGINT) is first:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if waiting.is_set():
            raise KeyboardInterrupt


def _is_importing(frame: FrameType | None) -> bool:
    stack = traceback.walk_stack(frame) if frame else ()
    return any(each.f_code.co_filename == "<frozen importlib._bootstrap>" for each, _ in stack)
