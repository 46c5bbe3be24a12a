"""The processes of a run, forked from one that has imported the engine (`fork_server.py`), so that they start at once.

On a CPU, importing takes most of the idle time of a restarted run, and in a new one it would wait for the corpus. So
the processes of a run are forked from a process that lives as long as the command, or until a source file changes. It
begins with the command: while the corpus is prepared, it imports the engine once for all ranks, and compiles the
operators that they train with unless an earlier run has. It must not outlive a change:
the engine reads a graph's source from the disk when it compiles it, and the imported code must be the same. An
accelerator's driver may not be shared in this way, so there every process imports the engine itself. The fork servers
of `evaluation/sandbox`, which isolate programs, are unrelated.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, Any

import psutil

import ms_codegeex
from ms_codegeex.base.errors import RunFailure
from ms_codegeex.base.processes import die_with_parent, ending, import_variables
from ms_codegeex.config import RunConfig
from ms_codegeex.runs.hangs import LOOK_SECONDS, STOPPED_SECONDS
from ms_codegeex.runs.node import Node, engine_environment
from ms_codegeex.runs.run_directory import RunDirectory
from ms_codegeex.runs.workers import STOPPED, WorkerSpec, zombie_status
from ms_codegeex.training.operators import uses_compiled_operators

IMPORTED = ("OMP_NUM_THREADS", "GLOG_v", "PYTHONPATH")  # variables that count when the engine is imported


def _sources(package: Path = Path(ms_codegeex.__file__).parent) -> list[tuple[str, int, int]]:
    """The source files of the package with their times and sizes, and one of the engine, which changes with it."""
    engine = importlib.util.find_spec("mindspore")
    files = [*sorted(package.rglob("*.py")), *([Path(engine.origin)] if engine and engine.origin else [])]
    sources = []
    for file in files:
        with contextlib.suppress(OSError):  # deleted meanwhile
            sources.append((str(file), file.stat().st_mtime_ns, file.stat().st_size))
    return sources


@dataclass(frozen=True)
class ForkedSpec(WorkerSpec):
    """A process that `server` forks instead of starting its program."""

    server: ForkServer = field(kw_only=True)

    def start(self, output: int | None = None) -> ForkedRank:
        return self.server.fork(self)

    def cause(self) -> str:
        """A message if the fork server ended before its ranks."""
        return self.server.loss()


class ForkedRank:
    """A process of the fork server, watched like one of `subprocess`. The server waits for it at the next request, so
    until then its status can be read and its id is not given to another process."""

    def __init__(self, pid: int):
        self.pid = pid
        self.returncode: int | None = None
        self._process = psutil.Process(pid)

    def poll(self) -> int | None:
        """The exit status, -N after signal N; None while it runs."""
        if self.returncode is None:
            status = zombie_status(self.pid)
            # without the fork server, which ends with all it has forked, the id may belong to somebody else
            self.returncode = status if self._process.is_running() else -signal.SIGKILL
        return self.returncode

    def wait(self) -> None:
        """Return when it has ended."""
        while self.poll() is None:
            time.sleep(0.01)


class ForkServer:
    """The process that forks; a context that ends it. `operators`: whether it compiles them; `program`: what the
    interpreter runs there."""

    def __init__(
        self,
        run: RunDirectory,
        program: Sequence[str] = ("-m", "ms_codegeex.runs.fork_server"),
        operators: bool = False,
    ):
        self.run, self.program, self.operators = run, program, operators
        self.process: subprocess.Popen[str] | None = None
        self.imported: tuple[Any, ...] = ()  # variables and source files
        self.errors: IO[str] | None = None
        self.ranks: list[ForkedRank] = []  # those that the process has not waited for

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def warm(self, environment: Mapping[str, str]) -> None:
        """Begin to import the engine with these variables, unless it is already imported and no source file has
        changed. Returns at once."""
        environment = {name: environment[name] for name in IMPORTED if name in environment}
        imported = (environment, _sources())
        if self.process is not None and self.process.poll() is None and imported == self.imported:
            return
        self.end()
        self.imported = imported
        # OpenBLAS would start threads, and a process with threads must not be forked
        variables = {**os.environ, **environment, "OPENBLAS_NUM_THREADS": "1", **import_variables()}
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, *self.program, str(self.run.path), str(os.getpid()), *["operators"] * self.operators],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=variables,
            start_new_session=True,
            preexec_fn=_begin,
        )

    def forked(self, specs: Sequence[WorkerSpec]) -> list[WorkerSpec]:
        """The same processes, to be forked: those of one attempt, from the source files as they are now."""
        self.warm(specs[0].environment)
        return [
            ForkedSpec(**{each.name: getattr(spec, each.name) for each in fields(spec)}, server=self) for spec in specs
        ]

    def fork(self, spec: WorkerSpec) -> ForkedRank:
        """Start a process. `RunFailure` if the fork server has failed."""
        if self.process is None or self.process.poll() is not None:
            self.warm(spec.environment)
        spec.directory.mkdir(parents=True, exist_ok=True)
        ended = [rank for rank in self.ranks if rank.poll() is not None]
        request = {
            "command": spec.command,
            "directory": str(spec.directory),
            "log": str(spec.log),
            "environment": dict(spec.environment),
            "name": spec.label.partition(",")[0].partition(" on ")[0],
            "ended": [rank.pid for rank in ended],
        }
        answer = ""
        with contextlib.suppress(OSError):
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            answer = self._answer()
        if not answer.strip():
            raise RunFailure(f"{spec.label}: the fork server {self._fate()}")
        self.ranks = [rank for rank in self.ranks if rank not in ended]
        self.ranks.append(ForkedRank(int(answer)))
        return self.ranks[-1]

    def _answer(self) -> str:
        """The next line of the process. `RunFailure` if it has been stopped for so long that it counts as a hang; then
        it is killed."""
        stopped, process = 0.0, psutil.Process(self.process.pid)
        while not select.select([self.process.stdout], [], [], LOOK_SECONDS)[0]:
            stopped = stopped + LOOK_SECONDS if process.status() in STOPPED else 0.0
            if stopped >= STOPPED_SECONDS:
                self.process.kill()
                self.process.wait()
                raise RunFailure("the fork server was stopped (by SIGSTOP or a debugger) and did not continue")
        return self.process.stdout.readline()

    def loss(self) -> str:
        """How the process ended, if it has done so by itself, as part of a message; otherwise empty."""
        if self.process is None or self.process.poll() is None:
            return ""
        return f"the ranks ended with their fork server, which {self._fate()}"

    def _fate(self) -> str:
        status = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines()
        return ": ".join([ending(status), *lines[-1:]])

    def end(self) -> None:
        """End the process, and with it all processes that it has forked."""
        if self.process is None:
            return
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()
        self.process, self.ranks = None, []


def _begin() -> None:
    """End with the launcher, and ignore a signal that some schedulers send to every process: the launcher answers it,
    and the ranks need this process while they save."""
    die_with_parent()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


@contextlib.contextmanager
def fork_server_of(config: RunConfig, node: Node, run: RunDirectory) -> Iterator[ForkServer | None]:
    """A fork server that begins to import the engine now; None unless the run is on this server's CPU, under Linux,
    which ends forked processes with the one that forks."""
    if config.device != "cpu" or node.count > 1 or sys.platform != "linux":
        yield None
        return
    with ForkServer(run, operators=uses_compiled_operators(config)) as server:
        server.warm(engine_environment(config, node, run.logs))
        yield server
