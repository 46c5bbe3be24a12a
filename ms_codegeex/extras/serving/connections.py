"""uvicorn's HTTP connections with limits: on their number, and on the time of silent or dead ones."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import time
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from ms_codegeex.base.printing import print_error
from ms_codegeex.extras.serving.errors import unavailable

BACKLOG = 512  # connections that the kernel holds, and that asyncio accepts in one go
IN_FLIGHT = 4  # steps of the event loop from accepting a connection to the end of another one that gives way
RESERVE = 128  # descriptors for the engine, logs, tokenizers and libraries
QUIET_SECONDS = 60.0  # without a flood, after which a new one is reported
HEAD_SECONDS = 30.0  # for a request's line and headers, from the connection's or its first byte on
LINGER_SECONDS = 0.5  # for the request of a refused connection to arrive
LINGERING = RESERVE // 4  # refused connections at a time; a flood gets resets
TCP_OPTIONS = {  # a silent peer is probed; one that takes nothing for this many milliseconds is cut off
    "TCP_KEEPIDLE": 60,
    "TCP_KEEPINTVL": 15,
    "TCP_KEEPCNT": 4,
    "TCP_USER_TIMEOUT": 120_000,
}


def descriptor_room(wanted: int) -> tuple[int, int]:
    """Raise the limit on open files, as far as the hard limit allows, for `wanted` connections and those that are
    about to be accepted. Return how many connections fit, and the length of the backlog."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + IN_FLIGHT * BACKLOG + RESERVE
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted, BACKLOG
    backlog = max(1, min(BACKLOG, soft // (4 * IN_FLIGHT)))
    return max(1, min(wanted, soft - IN_FLIGHT * backlog - min(RESERVE, soft // 4))), backlog


class Flood:
    """Reports one kind of flood in one line on standard error; the next one only after a minute without."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock, self._last = clock, -QUIET_SECONDS

    def report(self, message: str) -> None:
        """Note one event of the flood."""
        now = self._clock()
        if now - self._last >= QUIET_SECONDS:
            print_error(message)
        self._last = now

    def handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """asyncio's exception handler: a connection that cannot be accepted, which asyncio would report with a
        traceback thousands of times, is such an event."""
        if "socket.accept()" in context.get("message", ""):
            self.report(f"connections cannot be accepted ({context.get('exception')}); this is tried again each second")
        else:
            loop.default_exception_handler(context)


class Pool:
    """At most `maximum` connections. A further one replaces an idle one: first the oldest that has sent no whole
    request, then the one that has been silent for the longest time."""

    def __init__(self, maximum: int, flood: Flood):
        self._maximum, self._flood = maximum, flood
        self.lingering = 0  # refused connections that stay open until their request has been read
        self._open: set[Connection] = set()
        self._new: dict[Connection, None] = {}  # without a request so far, the oldest first
        self._kept: dict[Connection, None] = {}  # between two requests, the first to become idle first

    def admit(self, connection: Connection) -> bool:
        """Add a new connection; False if all others are busy."""
        if len(self._open) >= self._maximum:
            self._flood.report(
                f"the limit of {self._maximum} connections is reached: idle ones are closed, others are refused; see "
                "--max-connections"
            )
            idle = next(iter(self._new or self._kept), None)
            if idle is None:
                return False
            self.remove(idle)
            idle.transport.close()
        self._open.add(connection)
        self._new[connection] = None
        return True

    def set_busy(self, connection: Connection) -> None:
        """Note that a whole request has come."""
        self._new.pop(connection, None)
        self._kept.pop(connection, None)

    def set_idle(self, connection: Connection) -> None:
        """Note that a request has been answered."""
        if connection in self._open:
            self._kept[connection] = None

    def remove(self, connection: Connection) -> None:
        """Forget a connection."""
        self.set_busy(connection)
        self._open.discard(connection)


class Connection(H11Protocol):
    """Closes a connection whose request does not come, whose peer is gone, or whose peer does not read. With `pool`,
    the number of connections is limited."""

    _head: asyncio.TimerHandle | None = None
    _refused = False

    def __init__(self, *arguments: Any, pool: Pool, **named: Any):
        super().__init__(*arguments, **named)
        self._pool = pool

    def connection_made(self, transport: Any) -> None:
        """Start the time limit for a request."""
        super().connection_made(transport)
        if not self._pool.admit(self):
            self._refuse()
            return
        connection = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in TCP_OPTIONS.items():
                if hasattr(socket, name):
                    connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._await_head()

    def _refuse(self) -> None:
        """Answer with 503 without waiting for a request."""
        response = unavailable("the server has too many connections", "too_many_connections").response()
        response.headers["Connection"] = "close"
        head = b"".join(b"%s: %s\r\n" % pair for pair in response.raw_headers)
        self._refused = True
        self.transport.write(b"HTTP/1.1 503 Service Unavailable\r\n" + head + b"\r\n" + response.body)
        if self.transport.can_write_eof() and self._pool.lingering < LINGERING:
            self._pool.lingering += 1
            self.transport.write_eof()
            self.loop.call_later(LINGER_SECONDS, self._linger_no_more)
        else:
            self.transport.close()

    def _linger_no_more(self) -> None:
        self._pool.lingering -= 1
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Start or stop the time limit for the rest of a request."""
        if self._refused:  # read, because closing with unread data would reset the connection and lose the answer
            return
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
            if not self.cycle.more_body:  # until its body is complete, it gives way like one without a request
                self._pool.set_busy(self)
        elif self._head is None:
            self._await_head()

    def _unsupported_upgrade_warning(self) -> None:
        """No warning: a request to change the protocol is answered as any other."""

    def on_response_complete(self) -> None:
        """Leave the connection to uvicorn's limit for idle connections."""
        self._stop_waiting()
        self._pool.set_idle(self)
        super().on_response_complete()
        if self.cycle is not None and not (self.cycle.response_complete or self.cycle.more_body):
            # the next request was there already
            self._pool.set_busy(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers of the connection."""
        self._stop_waiting()
        self._pool.remove(self)
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._head = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None
