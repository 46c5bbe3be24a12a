"""Limits on the requests of a key: per minute, and at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """The reason for refusing a request, and the seconds after which to try again."""

    message: str
    retry_after: int


@dataclass
class _Caller:
    free_at: float = 0.0  # when the whole burst is available again
    active: int = 0


class Limits:
    """Requests by caller. A caller that was idle for a minute may make a minute's requests at once; they come back
    evenly (the generic cell rate algorithm). Not for use by several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._callers: dict[str, _Caller] = {}  # as many as there are keys

    def enter(self, caller: str, requests_per_minute: int | None, concurrent: int | None) -> Refusal | None:
        """Admit a request, or return the reason for refusing it. An admitted request has to `leave`. A server without
        keys has one caller with an empty name."""
        state, now = self._callers.setdefault(caller, _Caller()), self._clock()
        whose = " of this key" if caller else ""
        if concurrent is not None and state.active >= concurrent:
            return Refusal(f"{state.active} requests{whose} are in progress, at most {concurrent} may be", 1)
        if requests_per_minute is not None:
            each = 60 / requests_per_minute
            free_at = max(state.free_at, now) + each
            if free_at - now > 60 + 1e-6:
                wait = math.ceil(free_at - now - 60 - 1e-6)
                return Refusal(f"more than {requests_per_minute} requests{whose} in a minute", max(wait, 1))
            state.free_at = free_at
        state.active += 1
        return None

    def leave(self, caller: str) -> None:
        """Note the end of an admitted request."""
        self._callers[caller].active -= 1
