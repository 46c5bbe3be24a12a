"""Who may ask how much, and whose turn it is: rates, answers at a time, places in the queue, and shares of the engine.
A client is a key or, without keys, an address. Each has a counter of the tokens that the engine has computed for it,
divided by its weight; whoever has the lowest is next ("Fairness in Serving Large Language Models", OSDI 2024). As an
answer takes long, a client may also get a slot in which another one's answer is computed: see `Turns.exchange`."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from ms_codegeex.extras.serving.errors import ApiError
from ms_codegeex.generation.row_shares import TYPING_SECONDS, on_return

QUANTUM = 128  # tokens of an answer before it gives its slot to a client that has none
MANY = 4096  # clients whose counters are kept; then those that are not there are forgotten
LEAD = 1024  # tokens by which a client may be ahead of one whose slot it gets because it has fewer


class QueuedAnswer(Protocol):
    """An answer of a client. `computed`: tokens since it got its slot."""

    client: str
    computed: int


Answer = TypeVar("Answer", bound=QueuedAnswer)


class Limits:
    """Answers by caller. A caller that was idle for a minute may have a minute's answers at once; they come back
    evenly (the generic cell rate algorithm). Not for use by several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        # by caller, of which there are as many as keys: when the whole burst is available again
        self._free_at: dict[str, float] = {}

    def enter(self, caller: str, per_minute: int, count: int = 1) -> int:
        """Count `count` answers and return 0, or return the seconds after which to try refused ones again."""
        now = self._clock()
        free_at = max(self._free_at.get(caller, 0.0), now) + count * 60 / per_minute
        if free_at - now > 60 + 1e-6:
            wait = math.ceil(free_at - now - 60 - 1e-6)
            return max(wait, 1)
        self._free_at[caller] = free_at
        return 0

    def check(self, caller: str, per_minute: int, count: int = 1, counted: int = 0) -> None:
        """Count `count` answers, of which some are `counted`. `ApiError` if they are too many, at present or ever."""
        if count > per_minute:
            message = f"n: {count} answers at once, at most {per_minute} are allowed in a minute; ask for fewer"
            raise ApiError(400, message, param="n")
        if wait := self.enter(caller, per_minute, count - counted):
            most = f"{per_minute} answers{' of this key' if caller else ''} in a minute"
            message = f"Rate limit reached: at most {most}. Please try again in {wait}s."
            raise ApiError(429, message, code="rate_limit_exceeded", retry_after=wait)


def check_concurrent(concurrent: int | None, held: int, count: int) -> None:
    """`ApiError` unless a key with `held` answers in progress may have `count` more."""
    if concurrent is None:
        return
    if count > concurrent:
        message = f"n: {count} answers at once, this key may have {concurrent}; ask for fewer"
        raise ApiError(400, message, param="n")
    if held + count > concurrent:
        now = f"{held} are in progress, and {count} more are asked for"
        message = (
            f"Rate limit reached: at most {concurrent} answers of this key at once; {now}. Please try again in 1s."
        )
        raise ApiError(429, message, code="rate_limit_exceeded", retry_after=1)


class Turns:
    """The counters of clients. A client's weight is that of its last answer."""

    def __init__(self) -> None:
        self._used: dict[str, float] = {}
        self._weights: dict[str, int] = {}

    def used(self, client: str) -> float:
        """Tokens computed for a client, divided by its weight."""
        return self._used.get(client, 0.0)

    def enter(self, client: str, weight: int, present: Collection[str]) -> None:
        """Note a new answer of a client, where `present` have answers; if nobody has, counting begins anew."""
        if not present:
            self._used, self._weights = {client: 0.0}, {}
        elif client not in present:
            self._used[client] = on_return(self.used(client), map(self.used, present))
        self._weights[client] = weight
        if len(self._used) > MANY:  # addresses, of which there is no end
            self._used = {each: self.used(each) for each in (*present, client)}
            self._weights = {each: self._weights.get(each, 1) for each in self._used}

    def charge(self, client: str, tokens: int) -> None:
        """Add tokens that were computed, or will be."""
        self._used[client] = self.used(client) + tokens / self._weights.get(client, 1)

    def exchange(
        self, slots: Sequence[Answer], waiting: Iterable[str], slices: bool = True
    ) -> tuple[Answer, str] | None:
        """One of the answers in `slots` that gives its slot up, and the client of those `waiting` that gets it. A
        client gives a slot to one that has fewer for its weight, if it has no fewer afterwards and the other one is not
        `LEAD` tokens ahead. With `slices`, it also gives one that it has held for `QUANTUM` tokens to a client that has
        none, if the engine has computed as many more for it."""
        held = Counter(answer.client for answer in slots)

        def load(client: str, more: int) -> float:
            return (held[client] + more) / self._weights.get(client, 1)

        taker = min(waiting, key=lambda client: (load(client, 1), self.used(client)), default=None)
        if taker is None or not held:
            return None
        giver, ripe = max(held, key=lambda client: (load(client, 0), self.used(client))), slots
        ahead = self.used(taker) - self.used(giver) > LEAD
        if giver == taker or ahead or load(giver, -1) < load(taker, 1):
            ripe = [answer for answer in slots if answer.computed >= QUANTUM] if slices and not held[taker] else []
            giver = max((answer.client for answer in ripe), key=self.used, default=taker)
            if self.used(giver) - self.used(taker) < QUANTUM:
                return None
        return [answer for answer in ripe if answer.client == giver][-1], taker


class RecentClients:
    """Clients whose last answers ended less than `TYPING_SECONDS` ago. A slot is left free for each, since it holds the
    beginning of such a client's next prompt."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._left: dict[str, float] = {}  # since when

    def leave(self, client: str) -> None:
        """Note the end of an answer."""
        self._left = {each: self._left[each] for each in self.names} | {client: self._clock()}

    @property
    def names(self) -> set[str]:
        """The clients that may still return to their slots."""
        now = self._clock()
        return {client for client, since in self._left.items() if now - since < TYPING_SECONDS}

    def expected(self, present: Collection[str], slots: int) -> int:
        """The number of slots that are left free, a quarter of all at most; none for those `present`."""
        return min(slots // 4, len(self.names.difference(present)))


class WaitingAnswers(Generic[Answer]):
    """Answers that wait for a slot. Each client has its share of the places."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, deque[Answer]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._clients.values()))

    def __iter__(self) -> Iterator[Answer]:
        return itertools.chain.from_iterable(self._clients.values())

    @property
    def clients(self) -> Collection[str]:
        """Those that have answers here, the one that was not served for longest first."""
        return self._clients.keys()

    def add(self, answer: Answer, first: bool = False) -> None:
        """Add an answer after the client's others, or before them."""
        answers = self._clients.setdefault(answer.client, deque())
        if first:
            answers.appendleft(answer)
        else:
            answers.append(answer)

    def next(self, used: Callable[[str], float], returned: Collection[str] = ()) -> Answer:
        """Remove and return the first answer of the client that has used least, of equal ones that served longest
        ago. Those that `returned` come before others, unless they are `LEAD` tokens ahead."""
        least = min(self._clients, key=used)
        back = [each for each in self._clients if each in returned and used(each) - used(least) <= LEAD]
        return self.first(min(back, key=used, default=least))

    def first(self, client: str) -> Answer:
        """Remove and return a client's first answer."""
        answers = self._clients.pop(client)
        answer = answers.popleft()
        if answers:
            self._clients[client] = answers
        return answer

    def remove(self, answer: Answer) -> bool:
        """Remove an answer. Returns whether it was waiting."""
        answers = self._clients.get(answer.client, deque())
        if answer not in answers:
            return False
        answers.remove(answer)
        if not answers:
            del self._clients[answer.client]
        return True

    def displaced(self, needed: int, client: str, count: int) -> list[Answer] | None:
        """The `needed` answers that give their places to `count` new ones of a client: always the newest of the client
        that has the most. None if the new ones would exceed the client's share of the places."""
        own, displaced = len(self._clients.get(client, ())) + count, list[Answer]()
        left = {name: len(answers) for name, answers in self._clients.items() if name != client}
        for _ in range(needed):
            name = max(left, key=left.__getitem__, default="")
            if left.get(name, 0) <= own:
                return None
            left[name] -= 1
            displaced.append(self._clients[name][left[name]])
        return displaced
