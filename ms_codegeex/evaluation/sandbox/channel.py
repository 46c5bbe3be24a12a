"""The outside end of one program: what it writes is collected, capped; what its supervisor reports is read."""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from ms_codegeex.evaluation.sandbox.outcome import End, Execution

SIGKILL = 9
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
    """Reads the streams of all commands and the control socket until the sandbox is gone."""

    def __init__(self, control: socket.socket, streams: Sequence[tuple[Stream, Stream]], allowed: float) -> None:
        self.control, self.streams = control, streams
        self.began = time.monotonic()
        self.deadline = self.began + allowed + GRACE
        self.reports: list[Report] = []
        self.received = b""
        self.ready = False  # whether the supervisor has come as far as its first command

    def collect(self) -> bool:
        """Read until everything is closed; False if the deadline from outside came first."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.control, selectors.EVENT_READ)
            for stream in (stream for pair in self.streams for stream in pair):
                selector.register(stream.descriptor, selectors.EVENT_READ, stream)
            while selector.get_map():
                ready = selector.select(max(0.0, self.deadline - time.monotonic()))
                if not ready:
                    return False
                for key, _ in ready:
                    if not (self.hear() if key.data is None else self.take(key.data)):
                        selector.unregister(key.fileobj)
        return True

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
            chunk = self.control.recv(4096)
        except ConnectionError:
            return False
        self.received += chunk
        while b"\n" in self.received:
            line, _, self.received = self.received.partition(b"\n")
            self.ready = True
            if line == b"ready":
                continue
            end, code, seconds = line.decode("ascii").split()
            self.reports.append(Report(End(end), int(code), float(seconds)))
        return bool(chunk)

    def executions(self, complete: bool) -> list[Execution]:
        """What the commands did. One that was running when its supervisor went has gone over its output, or over the
        deadline from outside, or was killed along with the sandbox (out of memory)."""
        found: list[Execution] = []
        for index, (out, error) in enumerate(self.streams):
            report = self.reports[index] if index < len(self.reports) else None
            spent = time.monotonic() - self.began - sum(one.seconds for one in found)
            if report is None:
                report = Report(End.KILLED if complete else End.TIMEOUT, -SIGKILL, spent)
            end = End.OUTPUT if out.over or error.over else report.end
            code = -SIGKILL if end is End.OUTPUT else report.code
            found.append(Execution(end, code, report.seconds, bytes(out.data), bytes(error.data)))
            if not found[-1].succeeded:
                break
        return found
