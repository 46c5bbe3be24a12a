"""How a sandbox's first process comes to be: forked by a server that is there already, or started for one program."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from ms_codegeex.evaluation.sandbox.channel import LAST, ends
from ms_codegeex.evaluation.sandbox.interpreter import ONE_BY_ONE, SERVER, Interpreter
from ms_codegeex.evaluation.sandbox.place import Place

PATIENCE = 30.0  # seconds to hand something over


class Complaint(Protocol):
    """What a supervisor's surroundings say when it has not started."""

    def __call__(self) -> str: ...


class Supervisors(Protocol):
    """Where supervisors come from."""

    def one(
        self, place: Place, ours: socket.socket, theirs: socket.socket, passed: Sequence[int]
    ) -> AbstractContextManager[Complaint]:
        """One for a program in this place, waiting for its job at `theirs` with these descriptors."""


class OneByOne:
    """An interpreter for each program, by bubblewrap where there is one."""

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter, self._bundle = interpreter, interpreter.bundle(ONE_BY_ONE)

    @contextmanager
    def one(
        self, place: Place, ours: socket.socket, theirs: socket.socket, passed: Sequence[int]
    ) -> Iterator[Complaint]:
        """See `Supervisors`."""
        process = launch(self._interpreter, self._bundle, place, theirs, passed)
        try:
            send(ours, self._bundle)
            yield lambda: complaint(process)
        finally:
            finish(process)


@dataclass(frozen=True)
class Server:
    """A fork server and our end of its socket."""

    process: subprocess.Popen[bytes]
    channel: socket.socket

    def fork(self, descriptors: Sequence[int]) -> None:
        """Have it fork a supervisor with these descriptors; `OSError` if it is not there any more."""
        socket.send_fds(self.channel, [b"+"], descriptors)

    def close(self) -> None:
        """Hang up and see it end."""
        self.channel.close()
        finish(self.process)


class ForkServers:
    """A fork server for each set of directories that programs see, started when the first program asks for it.

    They end with this object, or with this process, whichever comes first.
    """

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter, self._bundle = interpreter, interpreter.bundle(SERVER)
        self._servers: dict[tuple[str, ...], Server] = {}
        self._lock = threading.Lock()
        self.close = weakref.finalize(self, close_all, self._servers)

    @contextmanager
    def one(
        self, place: Place, ours: socket.socket, theirs: socket.socket, passed: Sequence[int]
    ) -> Iterator[Complaint]:
        """See `Supervisors`."""
        descriptors = [theirs.fileno(), *passed]
        server = self._server(place)
        try:
            server.fork(descriptors)
        except OSError:  # it has gone, by whatever hand; the next one may live
            server = self._server(place, server)
            with suppress(OSError):
                server.fork(descriptors)
        yield lambda: complaint(server.process)

    def _server(self, place: Place, dead: Server | None = None) -> Server:
        """The one for this place, other than a dead one."""
        key = tuple(place.lead)
        with self._lock:
            found = self._servers.get(key)
            if found is None or found is dead:
                if found:
                    found.close()
                found = self._servers[key] = self._start(place)
            return found

    def _start(self, place: Place) -> Server:
        """A new one."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = launch(self._interpreter, self._bundle, place, theirs, [])
        send(ours, self._bundle)
        return Server(process, ours)


def close_all(servers: dict[tuple[str, ...], Server]) -> None:
    """Close them, and forget them."""
    while servers:
        servers.popitem()[1].close()


def launch(
    interpreter: Interpreter, bundle: bytes, place: Place, control: socket.socket, passed: Sequence[int]
) -> subprocess.Popen[bytes]:
    """Start an interpreter in a place, which will receive the bundle; its complaints come over its standard error."""
    return subprocess.Popen(
        [*place.lead, *interpreter.words(control.fileno(), bundle, passed)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=[control.fileno(), *passed],
        cwd="/",
        env={},
        **place.identity,
    )


def send(control: socket.socket, data: bytes) -> None:
    """Hand data over; a supervisor that is not there is noticed by who listens to it."""
    control.settimeout(PATIENCE)
    with suppress(OSError):
        control.sendall(data)
    control.settimeout(None)


def finish(process: subprocess.Popen[bytes]) -> None:
    """The end of a process, by itself or by force: bubblewrap's death is that of everybody inside."""
    if not has_ended(process):
        process.kill()
    process.wait()
    if process.stderr:
        process.stderr.close()


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it ends in time. Popen.wait notices up to 50 ms late; it is for kernels before 5.3."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        with suppress(subprocess.TimeoutExpired):
            process.wait(LAST)
        return process.returncode is not None
    try:
        return ends(descriptor, LAST)
    finally:
        os.close(descriptor)


def complaint(process: subprocess.Popen[bytes]) -> str:
    """The last line that bubblewrap or Python wrote before it ended."""
    if not has_ended(process):
        return "it was killed before it began"
    process.wait()
    assert process.stderr is not None
    lines = process.stderr.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit status {process.returncode}"
