"""What the benchmarks share: a description of the machine, the format of results, and the processes of their sides."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # so that a script finds them after this import


def options(
    doc: str | None, rounds: int = 0, threads: bool = False, models: bool = False, seed: bool = False
) -> argparse.ArgumentParser:
    """A parser for a script's own options, which has those of several."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if rounds:
        parser.add_argument("--rounds", type=int, default=rounds, help=f"(default {rounds})")
    if threads:
        parser.add_argument("--threads", type=int, default=os.cpu_count())
    if models:
        parser.add_argument("--models", type=Path, default=Path("benchmarks/models"), help="where models are kept")
    if seed:
        parser.add_argument("--seed", type=int, default=0)
    return parser


def versions(*packages: str) -> str:
    """One line for RESULTS.md: machine, cores, Python, packages."""
    found = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return ", ".join([platform.machine(), f"{os.cpu_count()} cores", f"Python {platform.python_version()}", *found])


def print_command() -> None:
    """Print the command line, so that a pasted result shows how it was produced."""
    print("$ python " + " ".join([str(Path(sys.argv[0])), *sys.argv[1:]]))


def print_header(*packages: str) -> None:
    """Print the command line, the machine and these packages."""
    print_command()
    print(versions(*packages), flush=True)


def spread(values: Sequence[float]) -> str:
    """`median (lowest to highest of n)`."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g} of {len(values)})"


def quotients(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """The ratio of each round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def verdict(value: float, aim: float, least: bool = False) -> str:
    """`aim … met`"""
    return f"aim {aim:g} {'met' if (value >= aim if least else value <= aim) else 'not met'}"


def share(part: int, whole: int) -> str:
    """`share (part of whole)`."""
    return f"{part / whole:.4f} ({part} of {whole})" if whole else "none"


def timed(action: Callable[[], object]) -> float:
    """Seconds that it takes; what it returns is dropped."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def cpu_of_children() -> float:
    """CPU seconds of all processes that this one has waited for, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def status_bytes(key: str, process: int | str = "self") -> int:
    """A size in a process's status, such as VmHWM, the most memory that it has had."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{key}:")).split()[1])


class Worker:
    """A side in a process of its own, which takes `be_worker`'s turns."""

    def __init__(self, *words: str, session: bool = False, **environment: str):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "GLOG_v": "3", **environment}
        command = [sys.executable, *words]
        self.process = subprocess.Popen(command, env=variables, start_new_session=session, **pipes)
        self._answer()

    def _answer(self) -> Any:
        if not (line := self.process.stdout.readline()):
            raise SystemExit(f"a side ended; to see why: {shlex.join(self.process.args)} </dev/null")
        return json.loads(line)

    def ask(self, request: object) -> Any:
        """The answer to a request."""
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return self._answer()

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)


def be_worker(start: Callable[[], Callable[[Any], object]]) -> None:
    """Be a side: what `start` returns answers each request, a line of JSON. What libraries print goes to standard
    error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answer = start()
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)


def be_stepper(make: Callable[[], Callable[[], object]]) -> None:
    """Be a side that trains: the seconds of a step, or the rate of large matrix products for the request "peak"."""

    def start() -> Callable[[Any], float]:
        from ms_codegeex.runs.rank.joining import measure_matmul_peak

        step = make()
        for _ in range(2):
            step()
        return lambda request: measure_matmul_peak() if request == "peak" else timed(step)

    be_worker(start)


def start_server(model: Path | str, *options: str) -> tuple[subprocess.Popen[str], str]:
    """`ms-codegeex serve`, ready, and its HOST:PORT."""
    words = [sys.executable, "-m", "ms_codegeex.cli", "serve", "--model", str(model), "--port", "0", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()  # printed once it is ready
    if not line:
        process.wait(60)
        raise SystemExit("serve did not start; its message is above")
    return process, line.partition("//")[2].strip()
