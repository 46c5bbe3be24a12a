"""Heartbeats: each rank keeps a small file that says what it is doing, updated when it begins or ends something.

The main thread writes it, so a rank whose main thread is stuck does not beat. The launcher sees in /proc whether the
process itself runs (`hangs.py`). The file has a fixed size and is overwritten in place, so a full disk does not matter.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ms_codegeex.base.json_reading import MalformedText, parse_json
from ms_codegeex.training.observers import Callback, StepRecord

FILE_BYTES = 256
STACKS = signal.SIGUSR2  # makes a rank write its stacks to its log
LEARNT_AFTER = 3  # beats of a phase after which its usual time is known
REGULAR = ("step", "evaluation")  # phases made of equally long parts: steps, or evaluated batches


@dataclass(frozen=True)
class Beat:
    """The content of a rank's file. `number`: of the beat, from 1. `phase`: what the rank has been doing since. `step`:
    the last step begun, 0 before the first. `usual`: median seconds between beats of this phase; None if unknown or
    irregular. `learnt`: the medians of all phases measured by this attempt. `of`: a key for what they depend on."""

    number: int
    phase: str
    step: int
    usual: float | None
    learnt: Mapping[str, float] = field(default_factory=dict)
    of: str = ""


class Beats(Callback):
    """Writes the beats of this rank. The first is written at once, in the phase "start"."""

    def __init__(self, file: Path):
        self._descriptor: int | None = None
        with contextlib.suppress(OSError):  # full disk: the launcher sees only the CPU time
            file.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        self._phases, self._number, self._step = ["start"], 0, 0
        self._seconds = {phase: deque[float](maxlen=101) for phase in REGULAR}
        self._carried, self._of = dict[str, float](), ""
        self._last, self._timed = time.monotonic(), False
        self._write()

    def carry(self, of: str, before: Path) -> None:
        beat, self._of = read_beat(before), of
        self._carried = dict(beat.learnt) if beat and beat.of == of else {}

    def enter(self, phase: str) -> None:
        """Begin the phase `phase`."""
        self._part_done()
        self._phases = [phase]
        self._write()

    def phase(self, name: str | None) -> None:
        self._timed = self._timed and name != "compile"  # the time so far was spent waiting for data
        self._part_done()
        if name is None:
            self._phases.pop()
        else:
            self._phases.append(name)
        self._write()

    def beat(self) -> None:
        self._part_done(begins=True)
        self._write()

    def begin(self, trainer: Any) -> None:
        self._step = trainer.progress.step + 1
        self.enter("step")
        self._timed = True

    def step(self, trainer: Any, record: StepRecord) -> None:
        self.enter("report")

    def leave(self, trainer: Any) -> None:
        self.enter("result")

    def _part_done(self, begins: bool = False) -> None:
        now = time.monotonic()
        if self._timed and (phase := self._phases[-1]) in REGULAR:
            self._seconds[phase].append(now - self._last)
        self._last, self._timed = now, begins

    def _write(self) -> None:
        phase = self._phases[-1]
        learnt = {name: round(statistics.median(x), 3) for name, x in self._seconds.items() if len(x) >= LEARNT_AFTER}
        known = phase == "step" or self._seconds.get(phase)  # a first evaluated batch waits for the compiler
        usual = learnt.get(phase, self._carried.get(phase) if known else None)
        self._number += 1
        if self._descriptor is None:
            return
        line = json.dumps(asdict(Beat(self._number, phase, self._step, usual, learnt, self._of)))
        with contextlib.suppress(OSError):
            os.pwrite(self._descriptor, line.encode()[: FILE_BYTES - 1].ljust(FILE_BYTES - 1) + b"\n", 0)


def beat_name(environment: Mapping[str, str]) -> str:
    scheduler = environment.get("MS_ROLE") == "MS_SCHED"
    return f"{'scheduler' if scheduler else environment.get('RANK_ID', '0')}.json"


def read_beat(file: Path) -> Beat | None:
    """Return the last beat of a rank; None if there is none yet or it is just being written."""
    try:
        return Beat(**parse_json(file.read_bytes(), data=True))
    except (OSError, MalformedText, TypeError):
        return None
