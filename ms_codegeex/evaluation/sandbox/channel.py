"""The outside end of one program: what it writes is collected, capped; what its supervisor reports is read."""

from __future__ import annotations

import os
import select
import selectors
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from ms_codegeex.evaluation.sandbox.outcome import End, Execution

SIGKILL = 9
LAST = 1.0  # seconds from the end of the last command to that of the supervisor
GRACE = 30.0  # seconds beyond the supervisor's own deadlines before everything is killed from outside
CHUNK = 1 << 16


@dataclass
class Stream:
    """The reading end of a program's standard output or error."""

    descriptor: int
    cap: int
    data: bytearray = field(default_factory=bytearray)
    over: bool = False

    def take(self) -> bool:
        """Read what there is; False at its end. Beyond the cap it is read and dropped, and `over` set."""
        chunk = os.read(self.descriptor, CHUNK)
        room = self.cap - len(self.data)
        self.over |= len(chunk) > room
        self.data += chunk[:room]
        return bool(chunk)


@dataclass
class Report:
    """A supervisor's line about one command."""

    end: End
    code: int
    seconds: float


class Collector:
    """Reads the streams of all commands and the control socket until the sandbox is gone.

    A context: at its end a supervisor that was ready has ended, and what it has started with it, whatever happened; one
    that was not ends as soon as it hears that nobody listens.
    """

    def __init__(self, control: socket.socket, streams: Sequence[tuple[Stream, Stream]], allowed: float) -> None:
        self.control, self.streams = control, streams
        self.began = time.monotonic()
        self.deadline = self.began + allowed + GRACE
        self.reports: list[Report] = []
        self.received = b""
        self.ready = False  # whether the supervisor has come as far as its first command
        self.failure = ""  # what kept it from that, or from starting a later one
        self.complete = False  # whether everything was read to its end
        self.supervisor = -1  # a descriptor of that process, once it has sent one

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
        """Read until everything is closed; not `complete` if the deadline from outside comes first."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.control, selectors.EVENT_READ)
            for stream in (stream for pair in self.streams for stream in pair):
                selector.register(stream.descriptor, selectors.EVENT_READ, stream)
            while selector.get_map():
                ready = selector.select(max(0.0, self.deadline - time.monotonic()))
                if not ready:
                    return
                for key, _ in ready:
                    if not (self.hear() if key.data is None else self.take(key.data)):
                        selector.unregister(key.fileobj)
        self.complete = True

    def take(self, stream: Stream) -> bool:
        """Read a stream; the first byte too many ends the program."""
        before = stream.over
        alive = stream.take()
        if stream.over and not before:
            self.stop()
        return alive

    def stop(self) -> None:
        """Tell the supervisor, by closing our direction, to kill everything."""
        with suppress(OSError):  # it has gone already
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
                continue
            if line.startswith(b"failed "):
                self.failure = line.removeprefix(b"failed ").decode(errors="replace")
                continue
            end, code, seconds = line.decode("ascii").split()
            self.reports.append(Report(End(end), int(code), float(seconds)))
        return bool(chunk)

    def executions(self) -> list[Execution]:
        """What the commands did. One that was running when its supervisor went has gone over its output, or over the
        deadline from outside, or was killed along with the sandbox (out of memory)."""
        found: list[Execution] = []
        for index, (out, error) in enumerate(self.streams):
            report = self.reports[index] if index < len(self.reports) else None
            spent = time.monotonic() - self.began - sum(one.seconds for one in found)
            if report is None:
                report = Report(End.KILLED if self.complete else End.TIMEOUT, -SIGKILL, spent)
            end = End.OUTPUT if out.over or error.over else report.end
            code = -SIGKILL if end is End.OUTPUT else report.code
            found.append(Execution(end, code, report.seconds, bytes(out.data), bytes(error.data)))
            if not found[-1].succeeded:
                break
        return found


def ends(process: int, seconds: float) -> bool:
    """Whether the process of this descriptor ends within that time."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(1000 * seconds))
