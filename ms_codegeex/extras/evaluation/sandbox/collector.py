"""The parent's side of one sandbox: give the programs their whole standard input in advance, collect their output, up
to a cap, and the supervisor's reports."""

from __future__ import annotations

import fcntl
import os
import select
import selectors
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from ms_codegeex.extras.evaluation.sandbox.outcome import End, Execution

SIGKILL = 9
LAST = 1.0  # seconds for the supervisor to end after its last command
GRACE = 30.0  # seconds after the supervisor's own deadlines until everything is killed from outside
CHUNK = 1 << 16  # bytes that are read at a time


class OutputPipe:
    """A program's standard output or error, of which `cap` bytes are kept. On exit, ends that are still open are
    closed. `owner` may open it again as /dev/stdout."""

    def __init__(self, owner: int, cap: int) -> None:
        self.owner, self.cap = owner, cap
        self.data, self.over = bytearray(), False

    def __enter__(self) -> OutputPipe:
        self.read, self.write = os.pipe()
        os.fchown(self.write, self.owner, -1)
        return self

    def close_write(self) -> None:
        """Close our writing end: only the program writes."""
        if self.write >= 0:
            os.close(self.write)
        self.write = -1

    def take(self) -> bool:
        """Read what is available; False at the end. Bytes beyond the cap are dropped, and `over` is set."""
        chunk = os.read(self.read, CHUNK)
        room = self.cap - len(self.data)
        self.over |= len(chunk) > room
        self.data += chunk[:room]
        return bool(chunk)

    def __exit__(self, *_: object) -> None:
        self.close_write()
        os.close(self.read)


@contextmanager
def standard_input(data: bytes, owner: int) -> Iterator[int]:
    """A descriptor from which standard input is read, -1 if it is empty. What has been read from a pipe is gone, so a
    secret that a judge's harness reads first cannot be read again. Only data that does not fit is passed as a file."""
    if not data:
        yield -1
        return
    if (descriptor := filled_pipe(data, owner)) < 0:
        descriptor = sealed_file(data)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def filled_pipe(data: bytes, owner: int) -> int:
    """The reading end of a pipe that contains the data and then ends, -1 if the data does not fit."""
    read, write = os.pipe()
    try:
        os.fchown(read, owner, -1)
        os.set_blocking(write, False)
        if len(data) <= fcntl.fcntl(write, fcntl.F_GETPIPE_SZ) and os.write(write, data) == len(data):
            return read
    except BlockingIOError:
        pass
    finally:
        os.close(write)
    os.close(read)
    return -1


def sealed_file(data: bytes) -> int:
    """A nameless file that can no longer be written: otherwise a program could hide memory in it."""
    descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    every = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, every)
    return descriptor


class Collector:
    """Reads the streams of all commands and the control socket until the sandbox is gone. On exit, a supervisor that
    was ready has ended, with all that it started; one that was not ready ends when it notices that nobody listens."""

    def __init__(self, control: socket.socket, streams: Sequence[Sequence[OutputPipe]], allowed: float) -> None:
        self.control, self.streams = control, streams
        self.began = time.monotonic()
        self.deadline = self.began + allowed + GRACE
        self.reports: list[tuple[End, int, float]] = []  # the supervisor's lines: end, code, seconds of each command
        self.received = b""
        self.ready = False  # whether the supervisor has reached its first command
        self.failure = ""  # why it could not start that, or a later one
        self.complete = False  # whether everything was read to the end
        self.supervisor = -1  # its pidfd, once it has sent one

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.complete:
            self.stop()
        if self.supervisor >= 0:
            if not ends(self.supervisor, LAST):
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self.supervisor, signal.SIGKILL)
                ends(self.supervisor, LAST)
            os.close(self.supervisor)

    def collect(self) -> None:
        """Read until everything is closed. If the outer deadline comes first, `complete` stays False."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.control, selectors.EVENT_READ)
            for stream in (stream for pair in self.streams for stream in pair):
                selector.register(stream.read, selectors.EVENT_READ, stream)
            while selector.get_map():
                if not (ready := selector.select(max(0.0, self.deadline - time.monotonic()))):
                    return
                for key, _ in ready:
                    if not (self.hear() if key.data is None else self.take(key.data)):
                        selector.unregister(key.fileobj)
        self.complete = True

    def take(self, stream: OutputPipe) -> bool:
        """Read a stream; the first byte beyond the cap ends the program."""
        before, alive = stream.over, stream.take()
        if stream.over and not before:
            self.stop()
        return alive

    def stop(self) -> None:
        with suppress(OSError):  # it is gone already
            self.control.shutdown(socket.SHUT_WR)

    def hear(self) -> bool:
        """Read the control socket; False when the supervisor is gone."""
        try:
            chunk, descriptors, _, _ = socket.recv_fds(self.control, 4096, 1)
        except ConnectionError:
            return False
        for self.supervisor in descriptors:
            os.set_inheritable(self.supervisor, False)
        self.received += chunk
        while b"\n" in self.received:
            line, _, self.received = self.received.partition(b"\n")
            if line == b"ready":
                self.ready = True
            elif line.startswith(b"failed "):
                self.failure = line.removeprefix(b"failed ").decode(errors="replace")
            else:
                end, code, seconds = line.decode("ascii").split()
                self.reports.append((End(end), int(code), float(seconds)))
        return bool(chunk)

    def executions(self) -> list[Execution]:
        """The commands' executions. If the supervisor died during a command, that command exceeded its output
        cap or the outer deadline, or was killed along with the sandbox (out of memory)."""
        executions: list[Execution] = []
        for index, (out, error) in enumerate(self.streams):
            if index < len(self.reports):
                end, code, seconds = self.reports[index]
            else:
                seconds = time.monotonic() - self.began - sum(one.seconds for one in executions)
                end, code = End.KILLED if self.complete else End.TIMEOUT, -SIGKILL
            if out.over or error.over:
                end, code = End.OUTPUT, -SIGKILL
            executions.append(Execution(end, code, seconds, bytes(out.data), bytes(error.data)))
            if not executions[-1].succeeded:
                break
        return executions


def ends(process: int, seconds: float) -> bool:
    """Whether the process of this descriptor ends within that time."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(1000 * seconds))
