"""Detect ranks that are alive but idle, which neither the engine nor the system reports, and say where they are stuck.

Each rank beats whenever it begins or ends something (`beats.py`). In /proc, the launcher sees whether a process is
stopped, and how much it computes, reads and writes. Two rules follow:

- A process that is stopped for `STOPPED_SECONDS` is at fault, whatever its phase.
- A rank is *quiet* if it has not beaten for longer than its phase allows. If the run has learnt how long a part of the
phase takes, the limit is a multiple of the median, and at least `QUIET_SECONDS`. Otherwise a rank that has computed,
read or written something is not quiet, because compiling and loading may take any time; and with an accelerator,
waiting for which leaves no trace, the limit is `DEVICE_SECONDS`. Ranks wait for each other, so the run hangs only when
all are quiet.

The ranks then write their threads' stacks into their logs. Imports no engine.
"""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import psutil

from ms_codegeex.runs.files.beats import STACKS, Beat, read_beat
from ms_codegeex.runs.servers.workers import STOPPED, Workers

QUIET_SECONDS = 40.0
DEVICE_SECONDS = 600.0  # for a first step, or to connect all devices of a cluster
UNTIMED_STAGE = "stress check"  # takes an unknown time on a device
STOPPED_SECONDS = 15.0
BUSY_CPU_SECONDS = 0.5  # in QUIET_SECONDS: an idle rank's heartbeats need less
BUSY_BYTES = 1 << 20  # read or written in the same time
SETTLED_SECONDS = 5.0  # without a beat, before other activity is examined
STANDS_OUT = "the others wait for"
LOOK_SECONDS = 1.0  # between two checks; at most twice that counts, in case the launcher itself was stopped
STACK_SECONDS = 2.0  # time that ranks get to write their stacks
SHOWN_FRAMES = 3  # of each stack, in a message
_STACK = re.compile(r"^(?:Current thread|Thread) 0x[0-9a-f]+ \(most recent call first\):\n((?:  File .*\n?)+)", re.M)
_FRAME = re.compile(r'File "(?P<path>.*)", line (?P<line>\d+) in (?P<function>.*)')


@dataclass
class _Pulse:
    """What is known of a process: its last beat; the work it had done some seconds after its last sign of life; how
    many seconds it has been quiet, and stopped."""

    beat: Beat | None = None
    done: tuple[float, int] | None = None
    quiet: float = 0.0
    stopped: float = 0.0


class HangWatch:
    """Checks the ranks of this server; time is added up from check to check. `folder` has their beats, and `logs` the
    marks of ranks that have finished their part. A rank is quiet after `multiple` times the median; 0 disables the
    watch. `on_device`: the ranks compute on accelerators."""

    def __init__(self, workers: Workers, folder: Path, logs: Path, multiple: float, on_device: bool = False):
        self.workers, self.folder, self.logs, self.multiple = workers, folder, logs, multiple
        self.unknown = DEVICE_SECONDS if on_device else QUIET_SECONDS
        self.pulses: dict[int, _Pulse] = {}
        self.last = time.monotonic()
        self.reported = ""  # the report, while all are quiet

    def stopped(self) -> str:
        """Return the error if a process has been stopped for too long, else "". Call it often."""
        if not self.multiple or (now := time.monotonic()) - self.last < LOOK_SECONDS:
            return ""
        elapsed, self.last = min(now - self.last, 2 * LOOK_SECONDS), now
        finished = self._finished()
        for pid, process in self.workers.family.items():
            pulse = self.pulses.setdefault(pid, _Pulse())
            with contextlib.suppress(psutil.Error):
                pulse.stopped = pulse.stopped + elapsed if process.status() in STOPPED else 0.0
                if pid in self.workers.ranks:
                    self._feel(process, pulse, elapsed)
        long = [pid for pid, pulse in self.pulses.items() if pulse.stopped >= STOPPED_SECONDS]
        at_fault = [pid for pid in long if self.workers.ranks.get(pid) not in finished]
        return f"a process was stopped and did not continue: {self._report(at_fault)}" if at_fault else ""

    def _feel(self, process: psutil.Process, pulse: _Pulse, elapsed: float) -> None:
        """Update `pulse` with new signs of life."""
        beat, before = read_beat(self.folder / f"{self.workers.ranks[process.pid]}.json"), pulse.beat
        pulse.quiet += elapsed
        if beat is not None and beat != before:
            pulse.beat, pulse.done, pulse.quiet = beat, None, 0.0
        if pulse.quiet < SETTLED_SECONDS or pulse.stopped or (pulse.beat is not None and pulse.beat.usual is not None):
            return
        done = _done(process)
        if pulse.done is None:
            pulse.done = done
        elif done[0] - pulse.done[0] > BUSY_CPU_SECONDS or done[1] - pulse.done[1] > BUSY_BYTES:
            pulse.done, pulse.quiet = None, 0.0

    def quiet(self) -> str:
        """Return the report if all unfinished ranks of this server are quiet, else ""."""
        finished = self._finished()
        ranks = [pid for pid, rank in self.workers.ranks.items() if rank not in finished]
        missing = len(self.workers.ranks) < self.workers.count
        if not self.multiple or missing or not ranks or not all(self._is_quiet(pid) for pid in ranks):
            self.reported = ""
        elif not self.reported:
            seconds = max(self.pulses[pid].quiet for pid in ranks)
            self.reported = f"no rank has done anything for {seconds:.0f} s: {self._report(ranks, waiting=True)}"
        return self.reported

    def _finished(self) -> set[str]:
        return {mark.stem.removeprefix("done_") for mark in self.logs.glob("done_*.json")}

    def _is_quiet(self, pid: int) -> bool:
        pulse = self.pulses.get(pid, _Pulse())
        if pulse.beat is None or pulse.beat.usual is None:
            return pulse.quiet >= self.unknown and not (pulse.beat and pulse.beat.phase == UNTIMED_STAGE)
        return pulse.quiet >= max(QUIET_SECONDS, self.multiple * pulse.beat.usual)

    def _report(self, pids: Collection[int], waiting: bool = False) -> str:
        logs = {pid: self.logs / f"worker_{rank}.log" for pid, rank in self.workers.ranks.items()}
        sizes = {pid: log.stat().st_size if log.exists() else 0 for pid, log in logs.items()}
        for pid in logs:
            # before a rank's first beat, STACKS would kill it; SIGCONT lets a stopped rank write its stacks
            if self.pulses.get(pid, _Pulse()).beat is not None:
                with contextlib.suppress(psutil.Error):
                    self.workers.workers[pid].send_signal(STACKS)
                    self.workers.workers[pid].send_signal(signal.SIGCONT)
        time.sleep(STACK_SECONDS)
        stacks = {pid: _frames(logs[pid], sizes[pid]) for pid in logs if pid in pids}
        odd = self._standing_out(stacks) if waiting else None
        names = [self._describe(pid, stacks.get(pid, [])) for pid in (pids if odd is None else [odd])]
        where = f"the stacks of the ranks are at the end of their logs in {self.logs}"
        verdict = ""
        if waiting and len(stacks) > 1:
            verdict = "no rank stands out: " if odd is None else f"{STANDS_OUT} "
        return f"{verdict}{', '.join(names)}; {where}"

    def _standing_out(self, stacks: dict[int, list[re.Match[str]]]) -> int | None:
        outside = [pid for pid, frames in stacks.items() if frames and "/mindspore/" not in frames[0]["path"]]
        if len(outside) == 1 and len(stacks) > 1:
            return outside[0]
        steps = {pid: self.pulses[pid].beat.step if self.pulses[pid].beat else -1 for pid in stacks}
        behind = [pid for pid, step in steps.items() if step == min(steps.values())]
        return behind[0] if len(behind) == 1 < len(steps) else None

    def _describe(self, pid: int, frames: list[re.Match[str]]) -> str:
        """Describe a process: phase, step, state, and the innermost calls of its main thread."""
        if (rank := self.workers.ranks.get(pid)) is None:
            return self.workers.label(pid)
        pulse = self.pulses.get(pid, _Pulse())
        phase = "start" if pulse.beat is None else pulse.beat.phase
        step = f" (step {pulse.beat.step})" if pulse.beat is not None and pulse.beat.step else ""
        state = ", stopped by SIGSTOP or a debugger" if pulse.stopped else ""
        calls = " < ".join(f"{x['function']} ({Path(x['path']).name}:{x['line']})" for x in frames[:SHOWN_FRAMES])
        return f"rank {rank} in phase {phase}{step}{state}, in {calls or _kernel_wait(pid)}"


def _done(process: psutil.Process) -> tuple[float, int]:
    """Return the CPU seconds of a process and its children, such as compilers, and the bytes read and written."""
    seconds, count = 0.0, 0
    for each in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = each.cpu_times()
            seconds += times.user + times.system
            if each is process:
                seconds += times.children_user + times.children_system
        with contextlib.suppress(psutil.Error, AttributeError):
            traffic = each.io_counters()
            count += traffic.read_chars + traffic.write_chars
    return seconds, count


def _frames(log: Path, start: int) -> list[re.Match[str]]:
    """Return the main thread's calls, innermost first, from the stacks after byte `start` of the log."""
    with contextlib.suppress(OSError), log.open("rb") as stream:
        stream.seek(start)
        stacks = _STACK.findall(stream.read().decode("utf-8", "replace"))
        return [*_FRAME.finditer(stacks[-1])] if stacks else []  # the main thread comes last
    return []


def _kernel_wait(pid: int) -> str:
    with contextlib.suppress(OSError):
        where = Path(f"/proc/{pid}/wchan").read_text(encoding="utf-8")
        return f"the kernel's {where}" if where not in ("", "0") else "a call without a stack"
    return "a call without a stack"
