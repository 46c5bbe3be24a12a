"""Fair sharing of an engine's slots and pass rows among groups of requests, one group per client of a server. Each
group has a counter of the rows computed for it, divided by its weight; the group with the lowest counter is served next
("Fairness in Serving Large Language Models", OSDI 2024). Because answers take long, a group may also take over a slot
in the middle of another group's answer. Prompts of one group barely delay the first token of another."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

RECENT = 1000  # passes after which a group without requests is forgotten
MANY = 4096  # number of groups above which all groups without requests are forgotten
AHEAD = 256  # rows by which a group may exceed the lowest counter and still be favoured in a pass
LEAD = 1024  # rows by which a group may exceed another and still get its slot because it has fewer slots
QUANTUM = 128  # rows of a request before it must yield its slot to a group without slots
SMALL = 16  # rows of a short pass
CROWD = 4  # rows per pass, while another group types, for prompts of groups with several requests
# Within this time after its last row, a typing group is expected to send another request: its user reads a completion
# and types on. A slot is kept free for it, because it holds the beginning of the next prompt.
TYPING_SECONDS = 2.0


class SlotHolder(Protocol):
    """A request of `group`. `in_slot` counts the rows computed since it got its present slot."""

    group: str
    in_slot: int


Holder = TypeVar("Holder", bound=SlotHolder)


@dataclass
class Group:
    """A group's counter `rows`, divided by its `weight`, and the counter's value `before` it entered. `entered` and
    `served` are serial numbers of its latest entry and of the latest slot that it got. `last` is the number of the last
    pass with a row of the group (or before it entered), `seen` the time of its last row."""

    rows: float = 0
    before: float = 0
    weight: int = 1
    entered: int = 0
    served: int = 0
    last: int = 0
    seen: float = -math.inf


class Shares:
    """Counts the rows computed for each group and decides from them which group is next."""

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
        """Record a new request of `group`; the groups in `present` have requests already. A returning group starts at
        least at their lowest counter, so it is not owed rows for its absence. If none is present, all counters restart
        from zero."""
        if len(self._groups) > MANY:  # groups may be client addresses, whose number is unbounded
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
        """Record a pass with these numbers of rows per group. Groups that had no row in the last `RECENT` passes are
        forgotten unless they are `present`."""
        self._passes += 1
        for group, count in rows.items():
            one = self._groups.setdefault(group, Group())
            one.rows, one.last, one.seen = one.rows + count / one.weight, self._passes, self._clock()
        self._keep({name for name, one in self._groups.items() if one.last >= self._passes - RECENT}.union(present))

    def _keep(self, names: Collection[str]) -> None:
        self._groups = {name: one for name, one in self._groups.items() if name in names}

    def owns(self, group: str) -> bool:
        """Return whether the group is remembered: its next request then probably begins like its last one."""
        return group in self._groups

    def _used(self, group: str, due: Mapping[str, int]) -> float:
        """Return a group's counter, including the rows still `due` for its requests in slots, divided by its weight."""
        one = self._of(group)
        return one.rows + due.get(group, 0) / one.weight

    def _typed(self, group: str) -> bool:
        return self._clock() - self._of(group).seen < TYPING_SECONDS

    def left_free(self, present: Collection[str], slots: int) -> int:
        """Return how many of `slots` to keep free for typing groups not `present`: one for each, a quarter at most."""
        return min(slots // 4, sum(self._typed(each) for each in self._groups if each not in present))

    def next(self, waiting: Collection[str], in_slots: Collection[str], due: Mapping[str, int]) -> str:
        """Return which `waiting` group gets a free slot: the one that used least; on a tie, the one served longest ago.
        Typing groups without a slot come first, unless they are more than `LEAD` rows ahead."""
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
        """Return a request in `slots` that must yield its slot and the `waiting` group that gets it, or None. A group
        yields to one with fewer slots per weight, provided that it does not end up with fewer itself and the other is
        not more than `LEAD` rows ahead. With `slices`, a request that held its slot for `QUANTUM` rows also yields to a
        group without slots, if its own group used at least `QUANTUM` rows more."""
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
        """Return the group that entered last among those at most `AHEAD` rows above the lowest counter."""
        known = {each: self._of(each) for each in groups}
        least = min(one.rows for one in known.values())
        return min(known, key=lambda each: (known[each].rows > least + AHEAD, -known[each].entered))

    def typist(self, present: Collection[str]) -> str | None:
        """Return the typing group that is favoured over all others `present`, or None. A group counts as typing if it
        had a row within `TYPING_SECONDS` and has used only a few rows since it entered, as keystrokes do."""
        since = self._clock() - TYPING_SECONDS
        known = self._groups.items()
        short = {name for name, one in known if one.seen > since and (one.rows - one.before) * one.weight < 2 * SMALL}
        first = self.favoured({*present, *short}) if short else None
        return first if first in short else None

    def divided(self, prompts: Sequence[tuple[str, int]], room: int, begun: Iterable[str] = ()) -> list[int]:
        """Divide `room` rows among `prompts`, given as (group, usable rows). Return the rows of each. The first prompt
        of the favoured group is served first. If the pass completes a prompt of that group (this one, or one already
        planned, whose group is in `begun`), it is kept short: up to twice that prompt's rows, or `SMALL`. The remaining
        rows are divided equally among the groups, each in the order of its prompts, and leftovers in the same order."""
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
