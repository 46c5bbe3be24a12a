"""Create a sandbox's first process: forked by a server that is already running, or started for one program."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.evaluation.sandbox.collector import LAST, ends
from ms_codegeex.evaluation.sandbox.interpreter import ONE_BY_ONE, SERVER, SupervisorInterpreter
from ms_codegeex.evaluation.sandbox.workspace import Workspace

PATIENCE = 30.0  # seconds for sending something
GONE = (errno.EPIPE, errno.ECONNRESET, errno.EBADF)  # the other end is gone; or ours, if another thread noticed first
MAXIMUM = 250  # descriptors per program; the kernel takes 253 at a time


class ServerLost(RunFailure):
    """A fork server was killed from outside, and its sandboxes with it."""


class SupervisorProcess:
    """An interpreter that we have started, and its standard error: a supervisor, or a server that forks some.
    `identity` goes to Popen."""

    def __init__(
        self, interpreter: SupervisorInterpreter, names: tuple[str, ...], identity: Mapping[str, Any], *descriptors: int
    ) -> None:
        self._lock, self._said = threading.Lock(), ""
        self.bundle = interpreter.bundle(names)
        self._process = subprocess.Popen(
            interpreter.words(self.bundle, descriptors),
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
        """Whether it has died, other than by what its program did. If a supervisor ends, its program is the reason."""
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


class OneByOne:
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
        """Whether it has died, which no program can cause."""
        return self.has_ended()

    def close(self) -> None:
        """Hang up and wait for its end."""
        with self._sending:
            self._channel.close()
        self.finish()


class ForkServers:
    """A fork server for each set of directories that programs see, started when the first program needs it.

    They end with this object or with this process, whichever comes first.
    """

    def __init__(self, interpreter: SupervisorInterpreter) -> None:
        self._interpreter = interpreter
        self._servers: dict[Any, SandboxForkServer] = {}
        self._lock = threading.Lock()
        self.close = weakref.finalize(self, close_all, self._servers, os.getpid())

    @contextmanager
    def one(
        self, workspace: Workspace, ours: socket.socket, theirs: socket.socket, passed: Sequence[int]
    ) -> Iterator[SupervisorProcess]:
        """As in `OneByOne`."""
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
    """Close and forget the servers, but not in a fork of the process that owns them."""
    while servers and os.getpid() == owner:
        servers.popitem()[1].close()


def message(marshalled: bytes) -> bytes:
    """A message for `message` in inside/supervisor.py."""
    return len(marshalled).to_bytes(8, "little") + marshalled


def send(control: socket.socket, data: bytes) -> None:
    """Send data. If the supervisor is gone, the next read from it reports so."""
    control.settimeout(PATIENCE)
    with suppress(OSError):
        control.sendall(data)
    control.settimeout(None)
