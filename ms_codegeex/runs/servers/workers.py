"""The workers of a run on this machine: started through msrun or directly, watched as processes, ended together.

msrun alone notices a dead worker only by a heartbeat of 31 s, waits for ever on a used port, and leaves its workers
running when it is killed. So the launcher chooses and reserves the port and watches the workers itself; `hangs.py`
detects those that are alive but idle. Imports no engine.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from ms_codegeex.base.processes import ProcessGroup, ProcessSpec, alive, ending, last_lines
from ms_codegeex.runs.files.hardware_reports import cause_in

STOPPED = {psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP}
QUOTED_LINES = 12


@dataclass(frozen=True)
class WorkerSpec(ProcessSpec):
    """A worker, or msrun, which starts workers. `worker_logs`: logs of all workers that it is or starts."""

    worker_logs: tuple[Path, ...] = ()

    @property
    def is_worker(self) -> bool:
        return self.worker_logs == (self.log,)


class Workers(ProcessGroup):
    """The processes of `specs` and all their descendants, in a context that starts them and finally ends them all.
    `count`: the number of workers expected. `workers`: those found so far, by process id (`refresh`). `ranks`: their
    ranks in the whole job. `statuses`: exit statuses of ended processes, where readable. `stopped`: workers that were
    suspended when last seen alive."""

    def __init__(self, specs: Sequence[WorkerSpec]):
        super().__init__()
        self.specs = list(specs)
        self.workers: dict[int, psutil.Process] = {}
        self.ranks: dict[int, str] = {}
        self.statuses: dict[int, int] = {}
        self.stopped: set[int] = set()
        self.count = sum(len(spec.worker_logs) for spec in self.specs)

    def __enter__(self) -> Workers:
        try:
            for spec in self.specs:
                root = self.start(spec)
                if spec.is_worker:
                    self._add(self.family[root.pid], spec.environment.get("RANK_ID", "0"))
        except BaseException:
            self.end()
            raise
        return self

    def _add(self, process: psutil.Process, rank: str) -> None:
        self.workers[process.pid], self.ranks[process.pid] = process, rank

    def refresh(self) -> None:
        """Find the processes started since the last call. A new process shows its environment only after a moment, so
        processes that are not known as workers are examined again."""
        super().refresh()
        launchers = {root.pid for spec, root in zip(self.specs, self.roots, strict=False) if not spec.is_worker}
        for process in [process for pid, process in self.family.items() if pid not in self.workers]:
            with contextlib.suppress(psutil.Error):
                if process.ppid() in launchers and (environment := process.environ()).get("MS_ROLE") == "MS_WORKER":
                    self._add(process, environment.get("RANK_ID", "?"))

    def label(self, pid: int) -> str:
        """Name a process by its rank, or by what it was started as."""
        if pid in self.ranks:
            return f"rank {self.ranks[pid]}"
        names = [spec.label for spec, root in zip(self.specs, self.roots, strict=False) if root.pid == pid]
        return names[0].partition(",")[0] if names else f"process {pid}"

    def resume_stopped(self) -> None:
        """Let stopped processes continue, for example to save; otherwise all wait for them."""
        for process in self.family.values():
            with contextlib.suppress(psutil.Error):
                if process.status() == psutil.STATUS_STOPPED:
                    process.resume()

    def ended(self) -> int:
        self.poll()
        return sum(not self._observe(process) for process in self.workers.values())

    def _observe(self, process: psutil.Process) -> bool:
        if not alive(process):
            if process.pid not in self.statuses and (status := zombie_status(process.pid)) is not None:
                self.statuses[process.pid] = status
            return False
        with contextlib.suppress(psutil.Error):
            (self.stopped.add if process.status() in STOPPED else self.stopped.discard)(process.pid)
        return True

    def launcher_ended(self) -> bool:
        return all(self.poll())

    def poll(self) -> list[bool]:
        ended = super().poll()
        self.statuses.update({root.pid: root.returncode for root in self.roots if root.returncode is not None})
        return ended

    def failure(self) -> str:
        """Return the known facts about a failure, for an error message: the rank that failed first and how it ended,
        the scheduler's report, and the end of that rank's log."""
        lost, report = self._scheduler_line()
        at_fault = self._at_fault(lost)
        parts = [f"rank {self.ranks[pid]} {self._fate(pid)}" for pid in at_fault]
        if lost and not parts:
            parts = [f"rank {lost}, on another server, was lost"]
        if report:
            parts.append(f"the scheduler says: {report}")
        log = self._log_of({self.ranks[pid] for pid in at_fault})
        parts += filter(None, [cause_in(log)])
        return "; ".join([*parts, _quoted(log)])

    def _at_fault(self, lost: str | None) -> list[int]:
        if lost is not None:
            return [pid for pid, rank in self.ranks.items() if rank == lost]
        for spec in self.specs:
            with contextlib.suppress(OSError):
                for match in re.finditer(
                    r"Worker process (\d+) exit with exception\. Error code: (-?\d+)",
                    spec.log.read_text(encoding="utf-8", errors="replace"),
                ):
                    if (pid := int(match[1])) in self.workers:
                        self.statuses[pid] = int(match[2])
                        return [pid]
        dead = [pid for pid, process in self.workers.items() if not alive(process)]
        return [pid for pid in dead if self.statuses.get(pid) != 0] or dead

    def _fate(self, pid: int) -> str:
        if pid in self.stopped:
            return "was stopped and did not continue (by SIGSTOP or a debugger)"
        if alive(self.workers[pid]):
            return "stopped responding"
        return ending(self.statuses.get(pid))

    def _scheduler_line(self) -> tuple[str | None, str | None]:
        for folder in dict.fromkeys(spec.log.parent for spec in self.specs):
            with contextlib.suppress(OSError):
                text = (folder / "scheduler.log").read_text(encoding="utf-8", errors="replace")
                if match := re.search(r"The node: (\d+) is timed out[^\n]*", text):
                    return match[1], match[0].rstrip(".")
        return None, None

    def _log_of(self, ranks: Collection[str]) -> Path:
        logs = [log for spec in self.specs for log in spec.worker_logs if log.exists()]
        names = [f"worker_{rank}.log" for rank in ranks]
        logs = [log for log in logs if log.name in names] or logs
        return max(logs, key=lambda path: path.stat().st_mtime) if logs else self.specs[0].log


def _quoted(log: Path) -> str:
    lines = last_lines(log, QUOTED_LINES)
    return f"last lines of {log}:\n" + "\n".join(f"  {line}" for line in lines) if lines else f"{log} is empty"


def zombie_status(pid: int) -> int | None:
    """Return the exit status of an ended process that its parent has not yet waited for; Linux shows it to processes of
    the same user. None if it cannot be read."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        if fields[0] == "Z":
            return os.waitstatus_to_exitcode(int(fields[49]))  # exit_code, the 52nd field of proc(5)
    return None
