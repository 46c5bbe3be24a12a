"""Detects that a run hangs, and finds the rank that the others wait for. Imports no engine.

The engine notices a lost process by itself, after MS_NODE_TIMEOUT, but not a rank that is alive and does nothing. Here
a step is a hang when it takes many times the median. Every worker then writes the stacks of its threads into its log.
"""

from __future__ import annotations

import contextlib
import re
import signal
import statistics
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ms_codegeex.runs.workers import Workers

MIN_SECONDS = 60.0  # of a hang
MIN_STEPS = 3  # before a median means anything
STACK_SECONDS = 2.0  # for the workers to write their stacks
STACKS = signal.SIGUSR2  # workers answer it with their stacks
_STACK = re.compile(r"^(?:Current thread|Thread) 0x[0-9a-f]+ \(most recent call first\):\n((?:  File .*\n?)+)", re.M)
_FRAME = re.compile(r'File "(.*)", line (\d+) in (.*)')


class HangWatch:
    """Follows the events of rank 0. Compiling, evaluating and saving have no time limit.

    Args:
        multiple: of the median step; 0: a hang is never noticed.
    """

    def __init__(self, multiple: float):
        self.multiple = multiple
        self.seconds: deque[float] = deque(maxlen=101)
        self.since: float | None = None  # the last step ended then, and the next one runs

    def event(self, event: dict[str, Any]) -> None:
        """An event of `logs/progress.jsonl`."""
        if event["event"] == "step":
            if not event["compiling"]:
                self.seconds.append(event["step_seconds"])
            self.since = time.monotonic() if event["steps_left"] else None
        elif event["event"] in ("status", "pause"):
            self.since = None
        elif event["event"] == "go on":
            self.since = time.monotonic()

    def hung(self) -> str | None:
        """How long a hanging step has taken, in words; None if none hangs."""
        if self.since is None or not self.multiple or len(self.seconds) < MIN_STEPS:
            return None
        median, passed = statistics.median(self.seconds), time.monotonic() - self.since
        if passed < max(MIN_SECONDS, self.multiple * median):
            return None
        return f"no step has ended for {passed:.0f} s, where the median is {median:.2g} s"


def report_hang(workers: Workers) -> str:
    """Let every worker write its stacks, and say which rank the others wait for."""
    workers.ended()  # notices those that are stopped
    stopped = sorted(workers.ranks[pid] for pid in workers.stopped)
    sizes = {log: log.stat().st_size for spec in workers.specs for log in spec.worker_logs if log.exists()}
    for process in workers.workers.values():
        with contextlib.suppress(psutil.Error):
            process.send_signal(STACKS)
    time.sleep(STACK_SECONDS)
    where = f"the stacks of all workers are at the end of their logs in {next(iter(sizes)).parent}" if sizes else ""
    if stopped:
        return f"stopped (by SIGSTOP or a debugger): rank {', '.join(stopped)}; {where}"
    frames = {log.stem.removeprefix("worker_"): _innermost(log, size) for log, size in sizes.items()}
    outside = [rank for rank, frame in frames.items() if frame is not None and not frame.in_engine]
    if len(outside) == 1:
        return f"the others wait for rank {outside[0]}, which is in {frames[outside[0]]}; {where}"
    return f"no rank stands out; {where}"


@dataclass(frozen=True)
class Frame:
    """A line of a stack."""

    path: str
    line: int
    function: str

    @property
    def in_engine(self) -> bool:
        """Whether MindSpore's code runs at this line: the rank computes, or waits for another one."""
        return "/mindspore/" in self.path

    def __str__(self) -> str:
        return f"{self.function} ({Path(self.path).name}:{self.line})"


def _innermost(log: Path, start: int) -> Frame | None:
    """The main thread's position, from the stacks after `start`; None if there are none."""
    with log.open("rb") as stream:
        stream.seek(start)
        stacks = _STACK.findall(stream.read().decode("utf-8", "replace"))
    frame = _FRAME.search(stacks[-1]) if stacks else None  # the main thread comes last
    return Frame(frame[1], int(frame[2]), frame[3]) if frame else None
