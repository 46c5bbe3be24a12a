"""Defer Ctrl-C while modules are imported. MindSpore's C++ code swallows a `KeyboardInterrupt` that arrives during its
import, and the process crashes later. So the first Ctrl-C waits until no import is in progress; the second does not."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

PAUSE = 0.05  # seconds between two checks


@contextmanager
def after_imports() -> Iterator[None]:
    """During the block, let the first Ctrl-C raise `KeyboardInterrupt` once no import is in progress, or at the end of
    the block. Does nothing outside the main thread, or if the signal is ignored or already has a handler."""
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
