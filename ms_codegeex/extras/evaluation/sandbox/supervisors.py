"""Create a sandbox's first process: forked by a server that is already running, or started for one program. Both are
code of `inside`, compiled for the interpreter that runs them."""

from __future__ import annotations

import errno
import marshal
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.extras.evaluation.sandbox.collector import LAST, ends
from ms_codegeex.extras.evaluation.sandbox.workspace import Workspace

PATIENCE = 30.0  # seconds for sending something
GONE = (errno.EPIPE, errno.ECONNRESET, errno.EBADF)  # the other end is gone; or ours, if another thread noticed first
MAXIMUM = 250  # descriptors per program; the kernel takes 253 at a time
SYSTEM = "/usr/bin/python3"
MINIMUM = "import sys;sys.exit(sys.version_info<(3,9))"  # os.pidfd_open
MODULES = ("kernel", "rootfs", "supervisor", "server")  # in import order
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
    """The interpreter's path, and the bytecode of each of `MODULES`: otherwise every start would compile them again."""

    path: str
    codes: Mapping[str, bytes]


def find_interpreter() -> SupervisorInterpreter:
    """The system's Python, which every user may run, or else this process's."""
    try:
        suits = subprocess.run([SYSTEM, "-I", "-S", "-c", MINIMUM], capture_output=True).returncode == 0
    except OSError:
        suits = False
    path = SYSTEM if suits else os.path.realpath(sys.executable)
    sources = [(name, Path(__file__).with_name("inside").joinpath(f"{name}.py").read_text("utf-8")) for name in MODULES]
    done = subprocess.run([path, "-I", "-S", "-c", COMPILE], input=marshal.dumps(sources, 2), capture_output=True)
    if done.returncode != 0:
        raise RunFailure(f"{path} does not compile the sandbox's supervisor: {done.stderr.decode(errors='replace')!r}")
    return SupervisorInterpreter(path, marshal.loads(done.stdout))


class ServerLost(RunFailure):
    """A fork server was killed from outside, and its sandboxes with it."""


class SupervisorProcess:
    """An interpreter that we have started, and its standard error: a supervisor, or a server that forks some. It
    receives `bundle`, the code of the modules `names`, over the first of the descriptors, and gets all of them as
    arguments. `identity` goes to Popen."""

    def __init__(
        self, interpreter: SupervisorInterpreter, names: tuple[str, ...], identity: Mapping[str, Any], *descriptors: int
    ) -> None:
        self._lock, self._said = threading.Lock(), ""
        self.bundle = marshal.dumps([(name, interpreter.codes[name]) for name in names], 2)
        control, *others = descriptors
        self._process = subprocess.Popen(
            [interpreter.path, "-I", "-S", "-c", BOOTSTRAP, *map(str, (control, len(self.bundle), *others))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=descriptors,
            cwd="/",
            env={},
            start_new_session=True,  # a terminal's interrupt must reach only us
            **identity,
        )
        self.pid = self._process.pid

    def has_ended(self) -> bool:
        """Whether it ends in time. Popen.wait notices up to 50 ms late; it is for kernels before 5.3."""
        with self._lock:
            if self._process.poll() is not None:
                return True
            try:
                descriptor = os.pidfd_open(self.pid)
            except OSError:
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(LAST)
                return self._process.returncode is not None
            try:
                return ends(descriptor, LAST)
            finally:
                os.close(descriptor)

    def lost(self) -> bool:
        return False

    def complaint(self) -> str:
        """The last line that it wrote before it ended."""
        if not self.has_ended():
            return "its supervisor ended without a word"
        self.finish()
        return self._said or f"exit status {self._process.returncode}"

    def finish(self) -> None:
        """Wait until it has ended, by force if necessary. Everything in its sandbox dies with it."""
        ended = self.has_ended()
        with self._lock:
            if not ended:
                self._process.kill()
            self._process.wait()
            stream = self._process.stderr
            if stream and not stream.closed:
                lines = stream.read().decode(errors="replace").strip().splitlines()
                self._said = lines[-1] if lines else ""
                stream.close()


class Interpreters:
    """Starts an interpreter for each program, with this identity (for Popen); used if the kernel denies namespaces."""

    def __init__(self, interpreter: SupervisorInterpreter, identity: Mapping[str, Any]) -> None:
        self._interpreter, self._identity = interpreter, identity

    @contextmanager
    def one(
        self, workspace: Workspace, ours: socket.socket, theirs: socket.socket, passed: Sequence[int]
    ) -> Iterator[SupervisorProcess]:
        """A supervisor for a program in this workspace, waiting for its job at `theirs` with these descriptors."""
        process = SupervisorProcess(self._interpreter, ONE_BY_ONE, self._identity, theirs.fileno(), *passed)
        try:
            send(ours, process.bundle)
            yield process
        finally:
            process.finish()


class SandboxForkServer(SupervisorProcess):
    """A fork server. It starts as our user and drops root itself: `nobody` may be unable to run our Python."""

    def __init__(self, view: bytes, interpreter: SupervisorInterpreter) -> None:
        self._channel, theirs = socket.socketpair()
        self._sending = threading.Lock()
        try:
            with theirs:
                super().__init__(interpreter, SERVER, {}, theirs.fileno())
            send(self._channel, self.bundle + message(view))
        except BaseException:
            self._channel.close()
            raise

    def fork(self, descriptors: Sequence[int]) -> None:
        """Let it fork a supervisor with these descriptors; `ServerLost` if the server is gone."""
        if len(descriptors) > MAXIMUM:
            raise ValueError(f"{len(descriptors)} descriptors, expected {MAXIMUM} at most; a program of fewer commands")
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with self._sending:
                    socket.send_fds(self._channel, [b"+"], descriptors)
                return
            except OSError as error:
                if error.errno in GONE:
                    raise ServerLost(f"a sandbox's fork server has gone: {self.complaint()}") from None
                # The kernel limits a user's descriptors in transit between processes, including those of programs.
                if error.errno != errno.ETOOMANYREFS or time.monotonic() > deadline:
                    raise RunFailure(f"a sandbox's fork server cannot be reached: {error}") from None
            time.sleep(0.01)

    def lost(self) -> bool:
        return self.has_ended()

    def close(self) -> None:
        """Hang up and wait for its end."""
        with self._sending:
            self._channel.close()
        self.finish()


class ForkServers:
    """A fork server for each set of directories that programs see, started when the first program needs it. They end
    with this object or with this process, whichever comes first."""

    def __init__(self, interpreter: SupervisorInterpreter) -> None:
        self._interpreter = interpreter
        self._servers: dict[Any, SandboxForkServer] = {}
        self._lock = threading.Lock()
        self.close = weakref.finalize(self, close_all, self._servers, os.getpid())

    @contextmanager
    def one(
        self, workspace: Workspace, ours: socket.socket, theirs: socket.socket, passed: Sequence[int]
    ) -> Iterator[SupervisorProcess]:
        """As in `Interpreters`."""
        key = workspace.view, workspace.shown
        with self._lock:
            if key not in self._servers:
                self._servers[key] = SandboxForkServer(workspace.view, self._interpreter)
            server = self._servers[key]
        try:
            server.fork([theirs.fileno(), *passed])
            yield server
        except ServerLost:
            with self._lock:
                if self._servers.get(key) is server:  # the next program starts another one
                    self._servers.pop(key).close()
            raise


def close_all(servers: dict[Any, SandboxForkServer], owner: int) -> None:
    while servers and os.getpid() == owner:
        servers.popitem()[1].close()


def message(marshalled: bytes) -> bytes:
    return len(marshalled).to_bytes(8, "little") + marshalled


def send(control: socket.socket, data: bytes) -> None:
    """Send data. If the supervisor is gone, the next read from it reports so."""
    control.settimeout(PATIENCE)
    with suppress(OSError):
        control.sendall(data)
    control.settimeout(None)
