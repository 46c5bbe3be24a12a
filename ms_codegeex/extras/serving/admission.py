"""Admission control: whether a caller may have more answers now. Each key has limits (answers per minute, concurrent
answers), and all callers share a limited number of places. Admitted answers go to the engine, whose scheduler decides
when they are computed (`generation/shares.py`)."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ms_codegeex.extras.serving.errors import ApiError, busy, unavailable


@dataclass(frozen=True)
class Caller:
    """The sender of a request: a key or, on a server without keys, an address, whose `key` is empty. At most
    `per_minute` answers may begin per minute and `concurrent` be in progress (None: no limit). `weight` is its relative
    share of the engine."""

    name: str
    key: str = ""
    per_minute: int | None = None
    concurrent: int | None = None
    weight: int = 1


class Limits:
    """Limits answers per minute and key by the generic cell rate algorithm: after an idle minute, a key may use a whole
    minute's answers at once, and they are replenished evenly. Not thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        # time at which the whole burst is available again, by key; all addresses share the empty key
        self._free_at: dict[str, float] = {}

    def enter(self, key: str, per_minute: int, count: int = 1) -> int:
        """Count `count` answers and return 0, or refuse them and return the seconds after which to retry."""
        now = self._clock()
        free_at = max(self._free_at.get(key, 0.0), now) + count * 60 / per_minute
        if free_at - now > 60 + 1e-6:
            return max(math.ceil(free_at - now - 60 - 1e-6), 1)
        self._free_at[key] = free_at
        return 0


def _limited(most: str, seconds: int) -> ApiError:
    message = f"Rate limit reached: at most {most}. Please try again in {seconds}s."
    return ApiError(429, message, code="rate_limit_exceeded", retry_after=seconds)


class Admission(ABC):
    """The `answers` in progress, by number in order of arrival; each belongs to a `client`. At most `slots` of them are
    computed at once (their numbers are in `computing`), and up to `max_queue` wait. If `draining`, none is admitted."""

    def __init__(self, slots: int, max_queue: int):
        self.slots, self.max_queue = slots, max_queue
        self.answers: dict[int, Any] = {}
        self.computing: Sequence[int] = ()
        self.engine_ready, self.draining = False, False
        self._limits = Limits()

    @property
    def ready(self) -> bool:
        return self.engine_ready and not self.draining

    @property
    def in_slots(self) -> list[Any]:
        return [self.answers[number] for number in self.computing if number in self.answers]

    @property
    def active(self) -> int:
        return len(self.in_slots)

    @property
    def queued(self) -> int:
        return len(self.answers) - self.active

    @property
    def idle(self) -> bool:
        return not self.answers

    def count(self, caller: Caller, count: int = 1, counted: int = 0) -> None:
        """Count `count` answers, of which `counted` are counted already, towards the limit per minute. Raises
        `ApiError` if they exceed what is left of it (429) or the whole limit (400)."""
        if caller.per_minute is None:
            return
        if count > caller.per_minute:
            message = f"n: {count} answers at once, at most {caller.per_minute} are allowed in a minute; ask for fewer"
            raise ApiError(400, message, param="n")
        if wait := self._limits.enter(caller.key, caller.per_minute, count - counted):
            raise _limited(f"{caller.per_minute} answers{' of this key' if caller.key else ''} in a minute", wait)

    def check_room(self, caller: Caller, count: int = 1) -> Sequence[Any]:
        """Return others' waiting answers that must yield to `count` new ones. Raises `ApiError` if there is no room."""
        if self.draining:
            raise unavailable("the server is shutting down", "shutting_down")
        if not self.engine_ready:
            raise unavailable("the model is being loaded; try again later", "loading", 5)
        maximum, concurrent = self.slots + self.max_queue, caller.concurrent
        held = sum(answer.client == caller.name for answer in self.answers.values())
        for most, whose in ((maximum, "the server takes"), (concurrent, "this key may have")):
            if most is not None and count > most:
                raise ApiError(400, f"n: {count} answers at once, {whose} {most}; ask for fewer", param="n")
        if concurrent is not None and held + count > concurrent:
            now = f"{held} are in progress, and {count} more are asked for"
            raise _limited(f"{concurrent} answers of this key at once; {now}", 1)
        return self._displaced(len(self.answers) + count - maximum, caller.name, count)

    def admit(self, caller: Caller, count: int = 1, counted: int = 1) -> None:
        """Make room for `count` answers, of which `counted` are counted already towards the limit per minute. Raises
        `ApiError` as `check_room` and `count` do."""
        displaced = self.check_room(caller, count)
        if count > counted:
            self.count(caller, count, counted)
        for answer in displaced:
            self.fail(answer, busy(self.max_queue))

    def _displaced(self, needed: int, client: str, count: int) -> Sequence[Any]:
        """Return the `needed` waiting answers that must yield to `count` new ones of `client`: each time the newest of
        the client with most of them. Raises `ApiError` if no client has more waiting answers than this one would."""
        waiting = defaultdict[str, list[Any]](list)
        computing, displaced = {*self.computing}, list[Any]()
        for number, answer in self.answers.items() if needed > 0 else ():
            if number not in computing:
                waiting[answer.client].append(answer)
        own = len(waiting.pop(client, ())) + count
        for _ in range(needed):
            most = max(waiting.values(), key=len, default=[])
            if len(most) <= own:
                raise busy(self.max_queue)
            displaced.append(most.pop())
        return displaced

    @abstractmethod
    def fail(self, answer: Any, error: ApiError) -> None:
        """End an answer with an error."""
