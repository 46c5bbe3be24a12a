"""The Python interpreter that runs the supervisors, with their code compiled for it."""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ms_codegeex.base.errors import RunFailure

SYSTEM = "/usr/bin/python3"
MINIMUM = "import sys;sys.exit(sys.version_info<(3,9))"  # os.pidfd_open
MODULES = ("kernel", "rootfs", "supervisor", "server")  # of inside/, in import order
ONE_BY_ONE, SERVER = ("kernel", "supervisor"), MODULES  # the modules to send; the last one's `main` is called
COMPILE = (
    "import marshal,sys;"
    "pairs=marshal.load(sys.stdin.buffer);"
    "codes={n:marshal.dumps(compile(s,n+'.py','exec',dont_inherit=True)) for n,s in pairs};"
    "marshal.dump(codes,sys.stdout.buffer,2)"
)
# The code arrives over the socket, so nothing depends on a file that a program can see.
BOOTSTRAP = """
import _socket, marshal, sys
socket = _socket.socket(fileno=int(sys.argv[1]))
for name, code in marshal.loads(socket.recv(int(sys.argv[2]), _socket.MSG_WAITALL)):
    module = sys.modules[name] = type(sys)(name)
    exec(marshal.loads(code), module.__dict__)
module.main([socket.detach(), *map(int, sys.argv[3:])])
"""


@dataclass(frozen=True)
class SupervisorInterpreter:
    """The interpreter's path, and the bytecode of each of `MODULES`: otherwise every start would compile them
    again."""

    path: str
    codes: Mapping[str, bytes]

    def bundle(self, names: tuple[str, ...]) -> bytes:
        """The modules that `BOOTSTRAP` receives."""
        return marshal.dumps([(name, self.codes[name]) for name in names], 2)

    def words(self, bundle: bytes, descriptors: Sequence[int]) -> list[str]:
        """The command that receives a bundle over the first of these descriptors, and gets all of them as
        arguments."""
        socket, *others = descriptors
        return [self.path, "-I", "-S", "-c", BOOTSTRAP, *map(str, (socket, len(bundle), *others))]


def find_interpreter() -> SupervisorInterpreter:
    """The system's Python, which every user may run, or else this process's."""
    path = SYSTEM if suits(SYSTEM) else os.path.realpath(sys.executable)
    sources = [(name, Path(__file__).with_name("inside").joinpath(f"{name}.py").read_text("utf-8")) for name in MODULES]
    done = subprocess.run([path, "-I", "-S", "-c", COMPILE], input=marshal.dumps(sources, 2), capture_output=True)
    if done.returncode != 0:
        raise RunFailure(f"{path} does not compile the sandbox's supervisor: {done.stderr.decode(errors='replace')!r}")
    return SupervisorInterpreter(path, marshal.loads(done.stdout))


def suits(path: str) -> bool:
    """Whether this is a Python of a sufficient version."""
    try:
        return subprocess.run([path, "-I", "-S", "-c", MINIMUM], capture_output=True).returncode == 0
    except OSError:
        return False
