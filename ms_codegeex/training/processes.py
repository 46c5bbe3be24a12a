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
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from ms_codegeex.errors import RunFailure

PORTS = range(21000, 31000)  # below the usual ephemeral range, so that no outgoing connection takes one in between
GRACE_SECONDS = 5.0


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
    """The processes of `specs` and all that they start; a context that ends them all."""

    def __init__(self, specs: Sequence[ProcessSpec]):
        self.specs = list(specs)
        self.roots: list[subprocess.Popen[bytes]] = []
        self.workers: dict[int, psutil.Process] = {}
        self.family: dict[int, psutil.Process] = {}
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
                            if process.environ().get("MS_ROLE") == "MS_WORKER" and process.ppid() == root.pid:
                                self.workers[process.pid] = process

    def ended(self) -> int:
        """How many workers have ended, well or badly."""
        self._reap()
        return sum(not _alive(process) for process in self.workers.values())

    def launcher_ended(self) -> bool:
        """Whether all processes started here (msrun, or the workers) have ended."""
        return all(self._reap())

    def _reap(self) -> list[bool]:
        return [root.poll() is not None for root in self.roots]

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

    def last_lines(self, lines: int = 12) -> str:
        """The end of a log, for an error message: that of a worker that failed, else of the one that wrote last."""
        pairs = list(zip(self.specs, self.roots, strict=False))
        failed = [spec for spec, root in pairs if spec.is_worker and root.returncode not in (None, 0)]
        written = [log for spec in failed or self.specs for log in spec.worker_logs if log.exists()]
        log = max(written, key=lambda path: path.stat().st_mtime) if written else self.specs[0].log
        text = log.read_text(encoding="utf-8", errors="replace").rstrip() if log.exists() else ""
        return f"last lines of {log}:\n" + "\n".join(f"  {line}" for line in text.splitlines()[-lines:])


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
