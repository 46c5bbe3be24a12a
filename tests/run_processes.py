"""The processes of a run, found by what they show to others, and waiting for what they do."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.servers import supervision
from ms_codegeex.runs.servers.node import Node
from ms_codegeex.runs.servers.workers import WorkerSpec

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


def workers_of_programs(run: RunDirectory, monkeypatch: pytest.MonkeyPatch, *programs: str) -> Node:
    """The node whose workers, one for each program in Python, `run_workers` starts from now on."""
    logs = [run.logs / f"worker_{rank}.log" for rank in range(len(programs))]
    specs = [
        WorkerSpec("", (sys.executable, "-S", "-c", text), run.logs, log, {"RANK_ID": str(rank)}, worker_logs=(log,))
        for rank, (text, log) in enumerate(zip(programs, logs, strict=True))
    ]
    monkeypatch.setattr(supervision, "node_processes", lambda *_: specs)
    return Node(0, 1, range(len(programs)), tuple(range(len(programs))))
