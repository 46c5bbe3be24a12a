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
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
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


class Workers:
    """`count` processes `python -m MODULE ARGUMENTS…` with logs in `logs/worker_N.log`; a context that ends them
    all."""

    def __init__(self, module: str, arguments: Sequence[str], count: int, logs: Path, environment: Mapping[str, str]):
        self.module, self.arguments, self.count, self.logs = module, list(arguments), count, logs
        self.environment = {**os.environ, **environment}
        self.workers: dict[int, psutil.Process] = {}
        self.family: dict[int, psutil.Process] = {}
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> Workers:
        command = ["-m", self.module, *self.arguments]
        if self.count == 1:
            output = self.stack.enter_context(open(self.logs / "worker_0.log", "wb"))
            self._start([sys.executable, *command], output)
            self.workers[self.root.pid] = psutil.Process(self.root.pid)
        else:
            port = self.stack.enter_context(reserved_port())
            output = self.stack.enter_context(open(self.logs / "msrun.log", "wb"))
            bin_directory = Path(sys.executable).parent
            self.environment["PATH"] = (
                f"{bin_directory}{os.pathsep}{self.environment.get('PATH', '')}"  # msrun starts `python`
            )
            self._start(
                [
                    str(bin_directory / "msrun"),
                    f"--worker_num={self.count}",
                    f"--local_worker_num={self.count}",
                    "--master_addr=127.0.0.1",
                    f"--master_port={port}",
                    f"--log_dir={self.logs}",
                    "--join=True",
                    "python",
                    *command,
                ],
                output,
            )
        return self

    def _start(self, command: list[str], output) -> None:
        self.root = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=self.logs,
            env=self.environment,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        self.family[self.root.pid] = psutil.Process(self.root.pid)

    def __exit__(self, *_: object) -> None:
        self.end()
        self.stack.close()

    def refresh(self) -> None:
        """Learn of processes that have started since the last call.

        A fresh child shows its environment only after a moment, so one that is not known as a worker is looked at
        again.
        """
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self.root.pid).children(recursive=True):
                self.family[process.pid] = process
                if process.pid not in self.workers:
                    with contextlib.suppress(psutil.Error):
                        if process.environ().get("MS_ROLE") == "MS_WORKER" and process.ppid() == self.root.pid:
                            self.workers[process.pid] = process

    def ended(self) -> int:
        """How many workers have ended, well or badly."""
        self.root.poll()
        return sum(not _alive(process) for process in self.workers.values())

    def launcher_ended(self) -> bool:
        """Whether the first process (msrun, or the only worker) has ended."""
        return self.root.poll() is not None

    def end(self) -> None:
        """End every process of the job: asked first, killed after a grace period. Returns when none is left."""
        self.refresh()
        for process in self.family.values():
            with contextlib.suppress(psutil.Error):
                process.terminate()
        self.root.poll()
        deadline = time.monotonic() + 1.0
        while any(map(_alive, self.family.values())) and time.monotonic() < deadline:
            self.root.poll()
            time.sleep(0.02)
        for process in self.family.values():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.root.wait()

    def last_lines(self, lines: int = 12) -> str:
        """The end of the log of the worker that wrote last, for an error message."""
        logs = sorted(self.logs.glob("worker_*.log"), key=lambda p: p.stat().st_mtime) or [self.logs / "msrun.log"]
        text = logs[-1].read_text(encoding="utf-8", errors="replace").rstrip() if logs[-1].exists() else ""
        return f"last lines of {logs[-1]}:\n" + "\n".join(f"  {line}" for line in text.splitlines()[-lines:])


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
