"""How groups of requests, which are the clients of a server, share an engine: its slots, and the rows of its passes.
Each group has a counter of the rows that were computed for it, divided by its weight; who has the lowest is next
("Fairness in Serving Large Language Models", OSDI 2024). As an answer takes long, a group may also get a slot in which
another one's answer is computed. In a pass, the prompts of one group delay the first token of another one little."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

RECENT = 1000  # passes for which a group that has no request is still expected
MANY = 4096  # groups that are kept; then those without requests are forgotten
AHEAD = 256  # rows that a group may have had more than others and still come first in a pass
LEAD = 1024  # rows by which a group may be ahead of one whose slot it gets because it has fewer slots
QUANTUM = 128  # rows of a request before it gives its slot to a group that has none
SMALL = 16  # rows of a short pass
CROWD = 4  # rows, in a pass while another group types, of prompts of groups with several requests
# A group that types is expected to ask again within this time after its last row: its user reads a completion and
# continues to type. A slot is kept free for it, which holds the beginning of its next prompt.
TYPING_SECONDS = 2.0


class SlotHolder(Protocol):
    """A request of a group. `in_slot`: rows that were computed since it has its slot."""

    group: str
    in_slot: int


Holder = TypeVar("Holder", bound=SlotHolder)


@dataclass
class Group:
    """A group's `rows`, divided by its `weight`, and those that it had `before` it came. `entered`: the number of its
    coming; `served`: when it got its last slot, by a count of slots; `last`: of the last pass with a row of it, or
    before its coming; `seen`: when it had its last row."""

    rows: float = 0
    before: float = 0
    weight: int = 1
    entered: int = 0
    served: int = 0
    last: int = 0
    seen: float = -math.inf


class Shares:
    """The rows that were computed for each group, and what follows from them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._groups: dict[str, Group] = {}
        self._passes = self._comings = self._served = 0

    @property
    def several(self) -> bool:
        return len(self._groups) > 1

    def _of(self, group: str) -> Group:
        return self._groups.get(group, Group())

    def enter(self, group: str, present: Collection[str], weight: int = 1) -> None:
        """Note a request of a group; `present` have requests. A group that comes back is not owed what it did not ask
        for while it was away. If nobody is there, counting begins anew."""
        if len(self._groups) > MANY:  # addresses, of which there is no end
            self._keep(present)
        if not present:
            for each in self._groups.values():
                each.before, each.rows = each.before - each.rows, 0
        one = self._groups.setdefault(group, Group())
        one.weight = weight
        if group not in present:
            one.rows = one.before = max(one.rows, min((self._of(each).rows for each in present), default=0))
            self._comings += 1
            one.entered, one.last = self._comings, self._passes

    def note(self, rows: Mapping[str, int], present: Collection[str] = ()) -> None:
        """Note a pass with these numbers of rows of groups. Groups without a row for long, and without requests, are
        forgotten."""
        self._passes += 1
        for group, count in rows.items():
            one = self._groups.setdefault(group, Group())
            one.rows, one.last, one.seen = one.rows + count / one.weight, self._passes, self._clock()
        self._keep({name for name, one in self._groups.items() if one.last >= self._passes - RECENT}.union(present))

    def _keep(self, names: Collection[str]) -> None:
        self._groups = {name: one for name, one in self._groups.items() if name in names}

    def owns(self, group: str) -> bool:
        """Whether the group had rows not long ago, so that a request that begins like its last one is likely."""
        return group in self._groups

    def _used(self, group: str, due: Mapping[str, int]) -> float:
        """A group's rows, and those that are `due`, because its requests have slots, divided by its weight."""
        one = self._of(group)
        return one.rows + due.get(group, 0) / one.weight

    def _typed(self, group: str) -> bool:
        return self._clock() - self._of(group).seen < TYPING_SECONDS

    def left_free(self, present: Collection[str], slots: int) -> int:
        """The number of slots that are left free for groups that may ask again at once, a quarter of all at most; none
        for those `present`."""
        return min(slots // 4, sum(self._typed(each) for each in self._groups if each not in present))

    def next(self, waiting: Collection[str], in_slots: Collection[str], due: Mapping[str, int]) -> str:
        """Of the groups `waiting`, that which gets a free slot: it has used least, of equal ones it got one longest
        ago. Those that typed a moment ago and have none come before others, unless they are `LEAD` rows ahead."""
        used = {each: self._used(each, due) for each in waiting}
        back = [each for each in waiting if self._typed(each) and each not in in_slots]
        back = [each for each in back if used[each] - min(used.values()) <= LEAD]
        chosen = min(back or waiting, key=lambda each: (used[each], self._of(each).served))
        self._served += 1
        self._groups.setdefault(chosen, Group()).served = self._served
        return chosen

    def exchange(
        self, slots: Sequence[Holder], waiting: Iterable[str], due: Mapping[str, int], slices: bool = True
    ) -> tuple[Holder, str] | None:
        """One of the requests in `slots` that gives its slot up, and the group of those `waiting` that gets it. A group
        gives a slot to one that has fewer for its weight, if it has no fewer afterwards and the other one is not `LEAD`
        rows ahead. With `slices`, it also gives one that it has held for `QUANTUM` rows to a group that has none, if as
        many more were computed for it."""
        held = Counter(request.group for request in slots)

        def load(group: str, more: int) -> float:
            return (held[group] + more) / self._of(group).weight

        def used(group: str) -> float:
            return self._used(group, due)

        taker = min(waiting, key=lambda group: (load(group, 1), used(group)), default=None)
        if taker is None or not held:
            return None
        giver, ripe = max(held, key=lambda group: (load(group, 0), used(group))), slots
        if giver == taker or used(taker) - used(giver) > LEAD or load(giver, -1) < load(taker, 1):
            ripe = [request for request in slots if request.in_slot >= QUANTUM] if slices and not held[taker] else []
            giver = max((request.group for request in ripe), key=used, default=taker)
            if used(giver) - used(taker) < QUANTUM:
                return None
        return [request for request in ripe if request.group == giver][-1], taker

    def favoured(self, groups: Collection[str]) -> str:
        """Of the groups that had least, or up to `AHEAD` rows more, the one that came last."""
        known = {each: self._of(each) for each in groups}
        least = min(one.rows for one in known.values())
        return min(known, key=lambda each: (known[each].rows > least + AHEAD, -known[each].entered))

    def typist(self, present: Collection[str]) -> str | None:
        """The group that comes before all others `present` and may ask again at once, or has just asked: its last
        request took few rows, as those of keystrokes do, a moment ago."""
        since = self._clock() - TYPING_SECONDS
        known = self._groups.items()
        short = {name for name, one in known if one.seen > since and (one.rows - one.before) * one.weight < 2 * SMALL}
        first = self.favoured({*present, *short}) if short else None
        return first if first in short else None

    def divided(self, prompts: Sequence[tuple[str, int]], room: int, begun: Iterable[str] = ()) -> list[int]:
        """How many of `room` rows each prompt gets, given its group and the number of rows that it could use. The first
        prompt of the favoured group comes first. If it is complete with this pass, or if one of that group is complete
        anyway, as `begun` says, the others get as many rows at most: the pass is short. Otherwise groups have equal
        shares, within which the first prompts come first; so does what a group does not need."""
        counts, sizes, waiting = [0] * len(prompts), Counter(group for group, _ in prompts), Counter(begun)
        groups = sizes + waiting
        if len(groups) > 1:
            favoured = self.favoured(groups)
            first = next((number for number, (group, _) in enumerate(prompts) if group == favoured), None)
            own = rest = 0
            if first is not None:
                rest = prompts[first][1]
                own = counts[first] = min(rest, room)
            if waiting[favoured] or own == rest:
                room = min(room, max(SMALL, own if waiting[favoured] else 2 * own))
            room -= own
        shares = dict.fromkeys(sizes, room // max(1, len(sizes)))
        for shared_out in (False, True):
            for number, (group, wanted) in enumerate(prompts):
                count = min(wanted - counts[number], room if shared_out else shares[group])
                counts[number], shares[group], room = counts[number] + count, shares[group] - count, room - count
        return counts
