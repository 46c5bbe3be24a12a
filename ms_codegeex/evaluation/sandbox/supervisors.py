"""How a sandbox's first process comes to be: forked by a server that is there already, or started for one program."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol

from ms_codegeex.errors import RunFailure
from ms_codegeex.evaluation.sandbox.channel import LAST, ends
from ms_codegeex.evaluation.sandbox.interpreter import ONE_BY_ONE, SERVER, Interpreter
from ms_codegeex.evaluation.sandbox.place import Place

PATIENCE = 30.0  # seconds to hand something over
GONE = (errno.EPIPE, errno.ECONNRESET, errno.EBADF)  # the other end; or ours, when another thread has noticed first
MOST = 250  # descriptors of a program; the kernel takes 253 at a time


class ServerLost(RunFailure):
    """A fork server has died, by whatever hand outside, and what came of it too."""


class Origin(Protocol):
    """Where a supervisor comes from."""

    def lost(self) -> bool:
        """Whether that has died, other than by what its program did."""

    def complaint(self) -> str:
        """What it said if the supervisor did not start."""


class Supervisors(Protocol):
    """Makes them."""

    def one(
        self, place: Place, ours: socket.socket, theirs: socket.socket, passed: Sequence[int]
    ) -> AbstractContextManager[Origin]:
        """One for a program in this place, waiting for its job at `theirs` with these descriptors."""


class Process:
    """An interpreter that we have started, and what it writes to its standard error. `identity` is for Popen."""

    def __init__(
        self, interpreter: Interpreter, names: tuple[str, ...], identity: Mapping[str, Any], *descriptors: int
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
            start_new_session=True,  # an interrupt from the terminal is ours to pass on
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

    def complaint(self) -> str:
        """The last line that it wrote before it ended."""
        if not self.has_ended():
            return "its supervisor ended without a word"
        self.finish()
        return self._said or f"exit status {self._process.returncode}"

    def finish(self) -> None:
        """See it end, by itself or by force: its death is that of everybody inside."""
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
    """An interpreter for each program, with this identity (for Popen); where the kernel makes no namespaces."""

    def __init__(self, interpreter: Interpreter, identity: Mapping[str, Any]) -> None:
        self._interpreter, self._identity = interpreter, identity

    @contextmanager
    def one(self, place: Place, ours: socket.socket, theirs: socket.socket, passed: Sequence[int]) -> Iterator[Origin]:
        """See `Supervisors`."""
        process = Single(self._interpreter, ONE_BY_ONE, self._identity, theirs.fileno(), *passed)
        try:
            send(ours, process.bundle)
            yield process
        finally:
            process.finish()


class Single(Process):
    """A supervisor itself."""

    def lost(self) -> bool:
        """No: what ends it is about its program."""
        return False


class Server(Process):
    """A fork server. It is started as ourselves and gives root up itself: nobody may be unable to run our Python."""

    def __init__(self, view: bytes, interpreter: Interpreter) -> None:
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
        """Have it fork a supervisor with these descriptors; a `ServerLost` if it is not there any more."""
        if len(descriptors) > MOST:
            raise ValueError(f"{len(descriptors)} descriptors, expected {MOST} at most; a program of fewer commands")
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with self._sending:
                    socket.send_fds(self._channel, [b"+"], descriptors)
                return
            except OSError as error:
                if error.errno in GONE:
                    raise ServerLost(f"a sandbox's fork server has gone: {self.complaint()}") from None
                # Of one user only so many may be on their way between processes, those of programs included.
                if error.errno != errno.ETOOMANYREFS or time.monotonic() > deadline:
                    raise RunFailure(f"a sandbox's fork server cannot be reached: {error}") from None
            time.sleep(0.01)

    def lost(self) -> bool:
        """See `Origin`."""
        return self.has_ended()

    def close(self) -> None:
        """Hang up and see it end."""
        with self._sending:
            self._channel.close()
        self.finish()


class ForkServers:
    """A fork server for each set of directories that programs see, started when the first program asks for it.

    They end with this object, or with this process, whichever comes first.
    """

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        self._servers: dict[Any, Server] = {}
        self._lock = threading.Lock()
        self.close = weakref.finalize(self, close_all, self._servers, os.getpid())

    @contextmanager
    def one(self, place: Place, ours: socket.socket, theirs: socket.socket, passed: Sequence[int]) -> Iterator[Origin]:
        """See `Supervisors`."""
        server = self._server(place)
        try:
            server.fork([theirs.fileno(), *passed])
            yield server
        except ServerLost:
            self._forget(server)
            raise

    def _server(self, place: Place) -> Server:
        """The one for this place."""
        key = place.view, place.shown
        with self._lock:
            if key not in self._servers:
                self._servers[key] = Server(place.view, self._interpreter)
            return self._servers[key]

    def _forget(self, dead: Server) -> None:
        """The next program has another one started."""
        with self._lock:
            for key in [key for key, server in self._servers.items() if server is dead]:
                self._servers.pop(key).close()


def close_all(servers: dict[Any, Server], owner: int) -> None:
    """Close them, and forget them; but not from a fork of the process that owns them."""
    while servers and os.getpid() == owner:
        servers.popitem()[1].close()


def message(marshalled: bytes) -> bytes:
    """What `message` of inside/supervisor.py reads."""
    return len(marshalled).to_bytes(8, "little") + marshalled


def send(control: socket.socket, data: bytes) -> None:
    """Hand data over; a supervisor that is not there is noticed by who listens to it."""
    control.settimeout(PATIENCE)
    with suppress(OSError):
        control.sendall(data)
    control.settimeout(None)
