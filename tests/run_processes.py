"""The processes of a run, found by what they show to others, and waiting for what they do."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import psutil

PROGRAMS = {"ms_codegeex.runs.rank", "ms_codegeex.runs.rank.from_model"}


def processes_of(output: Path) -> list[psutil.Process]:
    """All processes that name the run directory or something in it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()  # empty for a zombie
            if any(word == str(output) or word.startswith(f"{output}/") for word in words):
                found.append(process)
    return found


def ranks_of(output: Path) -> dict[int, psutil.Process]:
    """The workers by rank, the scheduler not among them."""
    found = {}
    for process in processes_of(output):
        with contextlib.suppress(psutil.Error):
            if PROGRAMS & {*process.cmdline()} and (seen := process.environ()).get("MS_ROLE") != "MS_SCHED":
                found[int(seen.get("RANK_ID", "0"))] = process
    return found


def wait_for(condition: Callable[[], object], seconds: float = 600) -> None:
    """Until the condition holds. Only a hang lasts so long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.02)
