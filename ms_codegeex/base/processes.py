"""Start, watch and end child processes, each with its own log. Training, rehearsals and the compilation of graph
kernels start their processes here. A process is a program (`ProcessSpec`) or a function (`ForkSpec`), which starts with
everything that this process has imported."""

from __future__ import annotations

import contextlib
import ctypes
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.base.json_reading import parse_json

PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])
POLL_SECONDS = 0.05
END_SECONDS = 1.0  # between SIGTERM and SIGKILL


@dataclass(frozen=True)
class ProcessSpec:
    """A process to start. `label` names it in messages. It runs in `directory`, which is created if missing, and writes
    its output to `log`. `environment` adds to the variables of this process; `program_folder` goes in front of PATH."""

    label: str
    command: tuple[str, ...]
    directory: Path
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    program_folder: str = ""

    def start(self, output: int | None = None) -> subprocess.Popen[bytes]:
        """Start it in its own session, with its output in the log. `output`: another descriptor for stdout."""
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            with open(self.log, "wb") as log:
                return subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=output or log,
                    stderr=log,
                    cwd=self.directory,
                    env=self.full_environment(),
                    start_new_session=True,
                    preexec_fn=die_with_parent,
                )
        except OSError as error:
            raise RunFailure(f"{self.label}: {self.command[0]} could not be started ({error.strerror})") from None

    def full_environment(self) -> dict[str, str]:
        """Return all variables that the process sees."""
        environment = {**os.environ, **self.environment}
        if self.program_folder:
            environment["PATH"] = os.pathsep.join(filter(None, [self.program_folder, environment.get("PATH")]))
        return environment


@dataclass(frozen=True)
class ForkSpec:
    """A function to call in a process forked from this one. The function returns the exit status. Forking is safe only
    with a single thread; otherwise a new process is started, which imports everything again."""

    label: str
    function: Callable[[], int]  # picklable
    directory: Path  # its working directory, which gets LABEL.log
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        return self.directory / f"{self.label}.log"

    def start(self) -> SimpleNamespace:
        """Start it with its output in the log. The result has `poll` and `wait`, like a process of `subprocess`."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log.write_bytes(b"")
        context = multiprocessing.get_context("fork" if psutil.Process().num_threads() == 1 else "spawn")
        process = context.Process(target=_play, args=(self, os.getpid()))
        process.start()
        return SimpleNamespace(pid=process.pid, poll=lambda: process.exitcode, wait=process.join)


def _play(spec: ForkSpec, parent: int) -> None:
    die_with_parent(parent)
    with open(spec.log, "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.chdir(spec.directory)
    os.environ.update(spec.environment)
    sys.exit(spec.function())


def python_process(
    label: str, arguments: Sequence[str], directory: Path, environment: Mapping[str, str] | None = None
) -> ProcessSpec:
    variables = {"GLOG_v": "3", **(environment or {}), **import_variables()}
    return ProcessSpec(label, (sys.executable, *arguments), directory, directory / f"{label}.log", variables)


def import_variables() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [PACKAGE_PARENT, os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def json_from_module(module: str, what: str, seconds: float) -> Any:
    """Return the JSON value that `python -m module` prints; a crash of that process does not affect this one.
    `RunFailure`, in which `what` names it, if it takes longer than `seconds` or prints no JSON."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", module],
            env={**os.environ, **import_variables()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        return parse_json(done.stdout)
    except subprocess.TimeoutExpired:
        raise RunFailure(f"{what} did not finish within {seconds:g} s") from None
    except ValueError:
        words = done.stderr.strip().splitlines() or [f"{what} {ending(done.returncode)}"]
        raise RunFailure(words[-1]) from None


class ProcessGroup:
    """Processes started here and all their descendants; leaving the context ends every one of them. `roots`: those
    started here. `family`: every process seen so far, by process id; `refresh` updates it."""

    def __init__(self) -> None:
        self.roots: list[Any] = []
        self.family: dict[int, psutil.Process] = {}

    def __enter__(self) -> ProcessGroup:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self, spec: ProcessSpec | ForkSpec) -> Any:
        return self.add(spec.start())

    def add(self, root: Any) -> Any:
        """Watch a process that has just been started, and return it."""
        self.roots.append(root)
        self.family[root.pid] = psutil.Process(root.pid)
        return root

    def refresh(self) -> None:
        """Find processes started since the last call."""
        for root in self.roots:
            with contextlib.suppress(psutil.Error):
                for process in self.family[root.pid].children(recursive=True):
                    self.family[process.pid] = process

    def poll(self) -> list[bool]:
        return [root.poll() is not None for root in self.roots]

    def _find_orphans(self) -> None:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                leader = os.getsid(process.pid)
                known = self.family.get(leader)
                # a reused process id belongs to someone else
                if known is not None and (known.is_running() or not psutil.pid_exists(leader)):
                    self.family.setdefault(process.pid, process)

    def end(self) -> None:
        """End every process: SIGTERM first, SIGKILL later (at once if it is stopped). Returns when none is left."""
        self.refresh()
        self._find_orphans()
        for process in self.family.values():
            with contextlib.suppress(psutil.Error):
                (process.kill if process.status() == psutil.STATUS_STOPPED else process.terminate)()
        self._await_end()
        for process in self.family.values():
            with contextlib.suppress(psutil.Error):
                process.kill()
        for root in self.roots:
            root.wait()
        self._await_end()  # a killed process may take a moment to end, and only roots can be waited for

    def _await_end(self) -> None:
        deadline = time.monotonic() + END_SECONDS
        while any(map(alive, self.family.values())) and time.monotonic() < deadline:
            self.poll()
            time.sleep(0.02)


def run_processes(
    specs: Sequence[ProcessSpec | ForkSpec],
    at_once: int = 1,
    ended: Callable[[Any], None] = lambda spec: None,
    seconds: float = math.inf,
) -> None:
    """Run all processes in order, at most `at_once` at a time, and call `ended` after each that succeeds. The first
    that fails, or takes longer than `seconds`, ends the others and raises `RunFailure` with the end of its log. Exit
    status 2 means that the last line of the log is the reason; then only that line is shown. Any other exception,
    including Ctrl-C, also ends them."""
    waiting = list(specs)
    running: list[tuple[Any, Any, float]] = []
    with ProcessGroup() as group:
        while waiting or running:
            while waiting and len(running) < at_once:
                spec = waiting.pop(0)
                running.append((spec, group.start(spec), time.monotonic() + seconds))
            time.sleep(POLL_SECONDS)
            finished = [entry for entry in running if entry[1].poll() is not None]
            running = [entry for entry in running if entry not in finished]
            # the process that stopped writing first is the cause; the others waited for it
            for spec, process, _ in sorted(finished, key=lambda entry: entry[0].log.stat().st_mtime):
                if status := process.poll():
                    reason = f": {_last_words(spec.log, 1)}" if status == 2 else ""
                    raise RunFailure(spec.label + (reason or f" {ending(status)}: {_last_words(spec.log)}"))
                ended(spec)
            for spec, _, deadline in running:
                if time.monotonic() > deadline:
                    raise RunFailure(f"{spec.label} did not end within {seconds:g} s: {_last_words(spec.log)}")


def run_reporting(spec: ProcessSpec, reported: Callable[[str], None]) -> None:
    """Run a process and call `reported` for each line of its standard output. Raises `RunFailure` if it fails, with the
    end of its log; after exit status 2, with only the last line, which states the reason."""
    with ProcessGroup() as group:
        process = group.add(spec.start(subprocess.PIPE))
        with process.stdout:
            for line in process.stdout:
                reported(line.decode("utf-8", "replace").rstrip())
        if status := process.wait():
            words = _last_words(spec.log, 1) if status == 2 else ""
            raise RunFailure(words or f"{spec.label} {ending(status)}: {_last_words(spec.log)}")


def last_lines(log: Path, count: int) -> list[str]:
    """Return the last `count` lines of a log; none if it is missing or empty."""
    if not log.exists():
        return []
    return log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-count:]


def _last_words(log: Path, count: int = 8) -> str:
    return " | ".join(line.strip() for line in last_lines(log, count) if line.strip()) or "it printed nothing"


def alive(process: psutil.Process) -> bool:
    """Whether a process is still running; a zombie is not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def ending(status: int | None) -> str:
    """Return in words how a process ended. `status` is `Popen.returncode`, or None if it is not known."""
    if status is None:
        return "ended"
    if status >= 0:
        return f"exited with status {status}"
    with contextlib.suppress(ValueError):  # a real-time signal has no name
        return f"was killed by {signal.Signals(-status).name}"
    return f"was killed by signal {-status}"


def die_with_parent(launcher: int | None = None) -> None:
    """Ask Linux to kill this process when its parent ends, so that a killed parent leaves no orphans. `launcher`: exit
    at once if that process already ended before this request."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if launcher is not None and not psutil.pid_exists(launcher):
        sys.exit(1)
