"""The Python that the supervisors run on."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ms_codegeex.errors import RunFailure

SYSTEM = "/usr/bin/python3"
LEAST = "import sys;sys.exit(sys.version_info<(3,9))"  # os.pidfd_open
COMPILE = (
    "import marshal,sys;source=sys.stdin.buffer.read();"
    "sys.stdout.buffer.write(marshal.dumps(compile(source,'supervisor','exec')))"
)
# The control socket brings the supervisor's code, then its job: neither depends on a file that a program can see.
BOOTSTRAP = (
    "import marshal,sys;STREAM=open(int(sys.argv[1]),'rb',closefd=False);"
    "exec(marshal.load(STREAM),{'__name__':'__main__','STREAM':STREAM})"
)


@dataclass(frozen=True)
class Interpreter:
    """Its path, the prefix that a sandbox must show (None for the system's), and the supervisor compiled by it: every
    program would pay for compiling it again."""

    path: str
    prefix: str | None
    code: bytes


def find_interpreter() -> Interpreter:
    """The system's Python, which every sandbox shows anyway, or the one we run on."""
    path, prefix = SYSTEM, None
    if not suits(SYSTEM):
        path, prefix = os.path.realpath(sys.executable), os.path.realpath(sys.base_prefix)
    source = Path(__file__).with_name("supervisor.py").read_bytes()
    done = subprocess.run([path, "-I", "-S", "-c", COMPILE], input=source, capture_output=True)
    if done.returncode != 0:
        raise RunFailure(f"{path} does not compile the sandbox's supervisor: {done.stderr.decode(errors='replace')!r}")
    return Interpreter(path, prefix, done.stdout)


def suits(path: str) -> bool:
    """Whether this is a Python, and new enough."""
    try:
        return subprocess.run([path, "-I", "-S", "-c", LEAST], capture_output=True).returncode == 0
    except OSError:
        return False
