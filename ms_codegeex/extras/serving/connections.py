"""uvicorn's HTTP connections, with limits on their number and on how long they may stay silent."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from ms_codegeex.base.printing import print_error
from ms_codegeex.extras.serving.errors import unavailable

BACKLOG = 512  # connections that the kernel queues, and that asyncio accepts in one step
IN_FLIGHT = 4  # steps of the event loop between accepting a connection and closing the one that it replaces
RESERVE = 128  # descriptors reserved for the engine, logs, tokenizers and libraries
QUIET_SECONDS = 60.0  # a flood is reported again only after so long a pause
HEAD_SECONDS = 30.0  # time limit for a request's line and headers, from the connection or their first byte


def descriptor_room(wanted: int) -> tuple[int, int]:
    """Raise the limit on open files, as far as the hard limit allows, to fit `wanted` connections and those about to be
    accepted. Return how many connections fit, and the length of the backlog."""
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
    """Reports the start of a flood of events in one line on standard error; a new one only after a quiet minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock, self._last = clock, -QUIET_SECONDS

    def report(self, message: str) -> None:
        """Record an event, and print `message` if it is the first after a quiet time."""
        now = self._clock()
        if now - self._last >= QUIET_SECONDS:
            print_error(message)
        self._last = now

    def handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle exceptions for asyncio. A connection that cannot be accepted counts as an event of the flood; asyncio
        itself would print a traceback thousands of times."""
        if "socket.accept()" in context.get("message", ""):
            self.report(f"connections cannot be accepted ({context.get('exception')}); this is tried again each second")
        else:
            loop.default_exception_handler(context)


class Connection(H11Protocol):
    """A connection of uvicorn with limits that uvicorn lacks: uvicorn waits forever for a first request, and its own
    limit counts idle connections too, so that a flood of them would keep out all requests.

    A new connection beyond the `maximum` replaces an idle one: first the oldest without any response, then the one
    whose last response was longest ago. If all are busy, its request is refused.
    """

    _head: asyncio.TimerHandle | None = None
    _answered = 0.0  # time of its last response

    def __init__(self, *arguments: Any, maximum: int, flood: Flood, **named: Any):
        super().__init__(*arguments, **named)
        self._maximum, self._flood, self._began = maximum, flood, self.loop.time()

    def connection_made(self, transport: Any) -> None:
        """Start the time limit for a request, and close an idle connection if there are too many."""
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
        """Whether it may be closed: no complete request has arrived since the last response."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def data_received(self, data: bytes) -> None:
        """Start or stop the time limit for a request, which is refused if too many others are being answered."""
        self.app = self.config.loaded_app
        # tasks also include those that wait for the rest of a body: their connections count as idle
        if len(self.tasks) >= self._maximum <= sum(not each.idle for each in self.connections if each is not self):
            self.app = unavailable("the server has too many connections", "too_many_connections").response()
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._head is None:
            self._await_head()

    def _unsupported_upgrade_warning(self) -> None:
        """Suppress the warning: a request to change the protocol is answered like any other."""

    def on_response_complete(self) -> None:
        """Stop the time limit: uvicorn's own limit for idle connections applies from here."""
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
