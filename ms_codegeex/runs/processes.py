"""The processes of a job on this machine: started through msrun, watched by us, ended together.

msrun alone notices a dead worker only by a 31 s heartbeat, waits for ever on a used port and leaves its workers behind
when it is killed. So the port is chosen and reserved here, the workers are watched as processes, and all of them end
with the job.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from ms_codegeex.errors import RunFailure

PORTS = range(21000, 31000)  # below the usual ephemeral range, so that no outgoing connection takes one in between
GRACE_SECONDS = 5.0
STOPPED = {psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP}


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A free local port that no other job of ours takes while the block runs: a lock file per port, and a bind to try
    it."""
    start = os.getpid() % len(PORTS)
    for offset in range(len(PORTS)):
        port = PORTS[(start + offset) % len(PORTS)]
        with open(Path(tempfile.gettempdir()) / f"ms-codegeex-{os.getuid()}-port-{port}.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            yield port  # the lock file stays: unlinked, two jobs could lock two files of one name
            return
    raise RunFailure(f"no free port between {PORTS.start} and {PORTS.stop - 1} on 127.0.0.1")


def die_with_parent(launcher: int | None = None) -> None:
    """Ask Linux to kill this process when its parent ends, so that a killed parent leaves no orphans.

    `launcher`: exit at once if that process has ended already, before the request could be made.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if launcher is not None and not psutil.pid_exists(launcher):
        sys.exit(1)


def ending(status: int | None) -> str:
    """How a process ended, in words; `status` is that of `Popen.returncode`, None if it is not known."""
    if status is None:
        return "ended"
    if status >= 0:
        return f"exited with status {status}"
    with contextlib.suppress(ValueError):  # a real-time signal has no name
        return f"was killed by {signal.Signals(-status).name}"
    return f"was killed by signal {-status}"


@dataclass(frozen=True)
class ProcessSpec:
    """One process to start, and how it would be typed.

    `environment` is added to ours, `program_folder` goes in front of PATH. `worker_logs` are the logs of the workers it
    is or starts: its own `log` only, if it is a worker itself.
    """

    label: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    directory: Path
    log: Path
    worker_logs: tuple[Path, ...]
    program_folder: str = ""

    @property
    def is_worker(self) -> bool:
        """Whether the process itself is the worker, and not what starts workers."""
        return self.worker_logs == (self.log,)

    def full_environment(self) -> dict[str, str]:
        """Everything the process sees."""
        environment = {**os.environ, **self.environment}
        if self.program_folder:
            environment["PATH"] = os.pathsep.join(filter(None, [self.program_folder, environment.get("PATH")]))
        return environment

    def shell(self) -> str:
        """The process as lines of a shell script; an argument `$$` stays the shell's process id."""
        settings = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        if self.program_folder:
            settings.append(f'PATH={shlex.quote(self.program_folder)}:"$PATH"')
        command = [word if word == "$$" else shlex.quote(word) for word in self.command]
        directory, log = (shlex.quote(str(path)) for path in (self.directory, self.log))
        line = " ".join(["env", *settings, *command])
        return f"# {self.label}\nmkdir -p {directory} && (cd {directory} && exec {line}) >{log} 2>&1 &"


class Workers:
    """The processes of `specs` and all that they start; a context that ends them all.

    `workers` and `ranks` (of the whole job) are known by process id once `refresh` has found them; `statuses` of those
    that have ended, where it could be read; `stopped` are those that were suspended when last seen alive.
    """

    def __init__(self, specs: Sequence[ProcessSpec]):
        self.specs = list(specs)
        self.roots: list[subprocess.Popen[bytes]] = []
        self.workers: dict[int, psutil.Process] = {}
        self.family: dict[int, psutil.Process] = {}
        self.ranks: dict[int, str] = {}
        self.statuses: dict[int, int] = {}
        self.stopped: set[int] = set()
        self.count = sum(len(spec.worker_logs) for spec in self.specs)

    def __enter__(self) -> Workers:
        try:
            for spec in self.specs:
                self._start(spec)
        except BaseException:
            self.end()
            raise
        return self

    @property
    def root(self) -> subprocess.Popen[bytes]:
        """The first process started."""
        return self.roots[0]

    def _start(self, spec: ProcessSpec) -> None:
        spec.directory.mkdir(parents=True, exist_ok=True)
        try:
            with open(spec.log, "wb") as output:
                root = subprocess.Popen(
                    spec.command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=spec.directory,
                    env=spec.full_environment(),
                    start_new_session=True,
                    preexec_fn=die_with_parent,
                )
        except OSError as error:
            raise RunFailure(f"{spec.label}: {spec.command[0]} could not be started ({error.strerror})") from None
        self.roots.append(root)
        self.family[root.pid] = psutil.Process(root.pid)
        if spec.is_worker:
            self.workers[root.pid] = self.family[root.pid]
            self.ranks[root.pid] = spec.environment.get("RANK_ID", "0")

    def __exit__(self, *_: object) -> None:
        self.end()

    def refresh(self) -> None:
        """Learn of processes that have started since the last call.

        A fresh child shows its environment only after a moment, so one that is not known as a worker is looked at
        again.
        """
        for spec, root in zip(self.specs, self.roots, strict=False):  # fewer roots while they are being started
            with contextlib.suppress(psutil.Error):
                for process in psutil.Process(root.pid).children(recursive=True):
                    self.family[process.pid] = process
                    if not spec.is_worker and process.pid not in self.workers:
                        with contextlib.suppress(psutil.Error):
                            environment = process.environ()
                            if environment.get("MS_ROLE") == "MS_WORKER" and process.ppid() == root.pid:
                                self.workers[process.pid] = process
                                self.ranks[process.pid] = environment.get("RANK_ID", "?")

    def ended(self) -> int:
        """How many workers have ended, well or badly."""
        self._reap()
        return sum(not self._watched(process) for process in self.workers.values())

    def _watched(self, process: psutil.Process) -> bool:
        """Whether a worker is alive; keeps what is needed to say how it ended."""
        if not _alive(process):
            if process.pid not in self.statuses and (status := _zombie_status(process.pid)) is not None:
                self.statuses[process.pid] = status
            return False
        with contextlib.suppress(psutil.Error):
            (self.stopped.add if process.status() in STOPPED else self.stopped.discard)(process.pid)
        return True

    def launcher_ended(self) -> bool:
        """Whether all processes started here (msrun, or the workers) have ended."""
        return all(self._reap())

    def _reap(self) -> list[bool]:
        for root in self.roots:
            if root.poll() is not None:
                self.statuses[root.pid] = root.returncode
        return [root.returncode is not None for root in self.roots]

    def end(self) -> None:
        """End every process of the job: asked first, killed after a grace period. Returns when none is left."""
        self.refresh()
        for process in self.family.values():
            with contextlib.suppress(psutil.Error):
                process.terminate()
        self._reap()
        deadline = time.monotonic() + 1.0
        while any(map(_alive, self.family.values())) and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.02)
        for process in self.family.values():
            with contextlib.suppress(psutil.Error):
                process.kill()
        for root in self.roots:
            root.wait()

    def failure(self) -> str:
        """What is known of a failure, for an error message: the rank that failed first and how it ended, the
        scheduler's own line, and the end of that rank's log."""
        lost, said = self._scheduler_line()
        at_fault = self._at_fault(lost)
        parts = [f"rank {self.ranks[pid]} {self._fate(pid)}" for pid in at_fault]
        if lost and not parts:
            parts = [f"rank {lost}, on another server, was lost"]
        if said:
            parts.append(f"the scheduler says: {said}")
        return "; ".join([*parts, self._last_lines({self.ranks[pid] for pid in at_fault})])

    def _at_fault(self, lost: str | None) -> list[int]:
        """Process ids of the workers to blame. The scheduler knows best (`lost`), then msrun, which kills all others
        once it has seen one end; then what was seen here."""
        if lost is not None:
            return [pid for pid, rank in self.ranks.items() if rank == lost]
        for spec in self.specs:
            with contextlib.suppress(OSError):
                for found in re.finditer(
                    r"Worker process (\d+) exit with exception\. Error code: (-?\d+)",
                    spec.log.read_text(encoding="utf-8", errors="replace"),
                ):
                    if (pid := int(found[1])) in self.workers:
                        self.statuses[pid] = int(found[2])
                        return [pid]
        dead = [pid for pid, process in self.workers.items() if not _alive(process)]
        return [pid for pid in dead if self.statuses.get(pid) != 0] or dead

    def _fate(self, pid: int) -> str:
        if pid in self.stopped:
            return "was stopped and did not go on (by SIGSTOP or a debugger)"
        if _alive(self.workers[pid]):
            return "did not answer any more"
        return ending(self.statuses.get(pid))

    def _scheduler_line(self) -> tuple[str | None, str | None]:
        """The rank that MindSpore's scheduler missed first, and its line about it; (None, None) if it missed none."""
        for folder in dict.fromkeys(spec.log.parent for spec in self.specs):
            with contextlib.suppress(OSError):
                text = (folder / "scheduler.log").read_text(encoding="utf-8", errors="replace")
                if found := re.search(r"The node: (\d+) is timed out[^\n]*", text):
                    return found[1], found[0].rstrip(".")
        return None, None

    def _last_lines(self, ranks: Collection[str], lines: int = 12) -> str:
        """The end of a log: of the one of `ranks` that wrote last, of any worker if none of them did."""
        logs = [log for spec in self.specs for log in spec.worker_logs if log.exists()]
        names = [f"worker_{rank}.log" for rank in ranks]
        logs = [log for log in logs if log.name in names] or logs
        log = max(logs, key=lambda path: path.stat().st_mtime) if logs else self.specs[0].log
        text = log.read_text(encoding="utf-8", errors="replace").rstrip() if log.exists() else ""
        if not text:
            return f"{log} is empty"
        return f"last lines of {log}:\n" + "\n".join(f"  {line}" for line in text.splitlines()[-lines:])


def _zombie_status(pid: int) -> int | None:
    """The status of an ended process that its parent has not asked for yet: Linux shows it to the same user."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        if fields[0] == "Z":
            return os.waitstatus_to_exitcode(int(fields[49]))  # exit_code, the 52nd field of proc(5)
    return None


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
