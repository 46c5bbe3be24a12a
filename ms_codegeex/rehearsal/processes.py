"""The short-lived processes of a rehearsal: some at a time, ended together, the first failure told with its log."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ms_codegeex.errors import RunFailure
from ms_codegeex.runs.processes import die_with_parent, ending

PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Task:
    """`python ARGUMENTS…` in `directory`, its output in `directory/NAME.log`; `environment` is laid over ours."""

    name: str
    arguments: Sequence[str]
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        """Everything the process printed."""
        return self.directory / f"{self.name}.log"

    def start(self) -> subprocess.Popen:
        """Start it in a session of its own, on one thread: many run side by side."""
        environment = {
            **os.environ,
            "GLOG_v": "3",
            "OMP_NUM_THREADS": "1",
            **self.environment,
            "PYTHONPATH": os.pathsep.join(filter(None, [PACKAGE_PARENT, os.environ.get("PYTHONPATH")])),
        }
        with open(self.log, "wb") as log:
            return subprocess.Popen(
                [sys.executable, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env=environment,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def last_lines(self, lines: int = 8) -> str:
        """The end of the log."""
        text = self.log.read_text(errors="replace").strip().splitlines()
        return " | ".join(line.strip() for line in text[-lines:] if line.strip()) or "it printed nothing"


def run_tasks(tasks: Sequence[Task], at_once: int, done: Callable[[Task], None] = lambda task: None) -> None:
    """Run all, `at_once` at a time, in order. The first that fails ends the others (`RunFailure`); so does any
    exception here."""
    waiting, running = list(tasks), []
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                task = waiting.pop(0)
                running.append((task, task.start()))
            time.sleep(POLL_SECONDS)
            ended = [(task, process) for task, process in running if process.poll() is not None]
            running = [pair for pair in running if pair not in ended]
            # of several that failed, the one that stopped first says why: the others waited for it
            for task, process in sorted(ended, key=lambda pair: pair[0].log.stat().st_mtime):
                if process.returncode:
                    raise RunFailure(f"{task.name} {ending(process.returncode)}: {task.last_lines()}")
                done(task)
    finally:
        for _, process in running:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
