"""A server in a separate process, as a user starts it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from conftest import ROOT

SECONDS = 300.0  # to end, on a machine that does other things


@dataclass
class Served:
    """A running server: its address, its process, and the file that holds its standard error."""

    url: str
    process: subprocess.Popen[str]
    log: Path

    def engine(self) -> psutil.Process:
        """The engine's process."""
        (found,) = psutil.Process(self.process.pid).children()
        return found

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


@contextlib.contextmanager
def served(model: Path, log: Path, *options: object) -> Iterator[Served]:
    """`ms-codegeex serve --model MODEL --port 0 OPTIONS…`, ready."""
    words = [sys.executable, "-m", "ms_codegeex.cli", "serve", "--model", model, "--port", 0, "--threads", 1, *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("GLIBC_TUNABLES", None)  # for compilations; with it, memory that is free looks like a leak
    with open(log, "w") as errors:
        process = subprocess.Popen(
            [str(word) for word in words],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )
    try:
        line = process.stdout.readline()
        assert line.startswith("serving "), log.read_text()
        yield Served(line.split()[-1], process, log)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(SECONDS)
            finally:
                process.kill()
        process.stdout.close()
