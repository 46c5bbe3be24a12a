"""The limit on the requests of a key per minute."""

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


class Limits:
    """Requests by caller. A caller that was idle for a minute may make a minute's requests at once; they come back
    evenly (the generic cell rate algorithm). Not for use by several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        # by caller, of which there are as many as keys: when the whole burst is available again
        self._free_at: dict[str, float] = {}

    def enter(self, caller: str, requests_per_minute: int | None) -> Refusal | None:
        """Count a request, or return the reason for refusing it. A server without keys has one caller with an empty
        name."""
        if requests_per_minute is None:
            return None
        now, each = self._clock(), 60 / requests_per_minute
        free_at = max(self._free_at.get(caller, 0.0), now) + each
        if free_at - now > 60 + 1e-6:
            wait = math.ceil(free_at - now - 60 - 1e-6)
            whose = " of this key" if caller else ""
            return Refusal(f"more than {requests_per_minute} requests{whose} in a minute", max(wait, 1))
        self._free_at[caller] = free_at
        return None
