"""uvicorn's HTTP connections with limits on their number and on the time of silent ones."""

from __future__ import annotations

import asyncio
import resource
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


class Connection(H11Protocol):
    """A connection of uvicorn, with the limits that uvicorn lacks: it waits without end for a first request, and its
    own limit counts idle connections, so that a flood of them would keep all requests out.

    A new connection beyond the `maximum` replaces an idle one: first the oldest that has had no answer, then the one
    that had its answer the longest time ago. If all are busy, its request is refused.
    """

    _head: asyncio.TimerHandle | None = None
    _answered = 0.0  # when it had its last answer

    def __init__(self, *arguments: Any, maximum: int, flood: Flood, **named: Any):
        super().__init__(*arguments, **named)
        self._maximum, self._flood, self._began = maximum, flood, self.loop.time()

    def connection_made(self, transport: Any) -> None:
        """Start the time limit for a request, and make room."""
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) <= self._maximum:
            return
        self._flood.report(
            f"the limit of {self._maximum} connections is reached: idle ones are closed, others are refused; see "
            "--max-connections"
        )
        idle = [each for each in self.connections if each.idle and each is not self]
        if idle:
            oldest = min(idle, key=lambda each: (each._answered, each._began))
            self.connections.discard(oldest)
            oldest.transport.close()

    @property
    def idle(self) -> bool:
        """Whether it may give way: no whole request has come since the last answer."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def data_received(self, data: bytes) -> None:
        """Start or stop the time limit for the rest of a request, which is refused if too many others are answered."""
        self.app = self.config.loaded_app
        # tasks include those that wait for the rest of a body, which give way
        if len(self.tasks) >= self._maximum <= sum(not each.idle for each in self.connections if each is not self):
            self.app = unavailable("the server has too many connections", "too_many_connections").response()
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._head is None:
            self._await_head()

    def _unsupported_upgrade_warning(self) -> None:
        """No warning: a request to change the protocol is answered as any other."""

    def on_response_complete(self) -> None:
        """Leave the connection to uvicorn's limit for idle connections."""
        self._stop_waiting()
        self._answered = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._head = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None
