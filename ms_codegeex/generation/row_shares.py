"""How groups of requests share the rows of passes: the prompts of one delay the first token of another one little."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

RECENT = 1000  # passes for which a group that has no request is still expected
AHEAD = 256  # rows that a group may have had more than others and still come first
OWNED = 200  # passes for which the slot of a group that has no request is taken after others
SMALL = 16  # rows of a short pass
CROWD = 4  # rows, in a pass while another group types, of prompts of groups with several requests
# A group that types is expected to ask again within this time after its last row: its user reads a completion and
# continues to type. The server keeps a slot for such a client (`fairness.py`).
TYPING_SECONDS = 2.0


@dataclass
class Group:
    """A group's `rows`, and those that it had `before` it came. `entered`: the number of its coming; `last`: of the
    last pass with a row of it, or before its coming; `seen`: when it had its last row."""

    rows: int = 0
    before: int = 0
    entered: int = 0
    last: int = 0
    seen: float = -math.inf


def on_return(own: float, present: Iterable[float]) -> float:
    """What counts as used by one that comes back, given what those `present` used: it is not owed what it did not ask
    for while it was away."""
    return max(own, min(present, default=0))


class RowShares:
    """The rows that were computed for each group."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._groups: dict[str, Group] = {}
        self._passes = self._comings = 0

    @property
    def several(self) -> bool:
        """Whether there is more than one group, or was a short time ago."""
        return len(self._groups) > 1

    def _of(self, group: str) -> Group:
        return self._groups.get(group, Group())

    def enter(self, group: str, present: Collection[str]) -> None:
        """Note a request of a group; `present` have requests."""
        if group not in present:
            one = self._groups.setdefault(group, Group())
            one.rows = one.before = on_return(one.rows, (self._of(each).rows for each in present))
            self._comings += 1
            one.entered, one.last = self._comings, self._passes

    def note(self, rows: Mapping[str, int]) -> None:
        """Note a pass with these numbers of rows of groups."""
        self._passes += 1
        for group, count in rows.items():
            one = self._groups.setdefault(group, Group())
            one.rows, one.last, one.seen = one.rows + count, self._passes, self._clock()
        self._groups = {name: one for name, one in self._groups.items() if one.last >= self._passes - RECENT}

    def owns(self, group: str) -> bool:
        """Whether the group had rows a moment ago, so that a request that begins like its last one is likely."""
        return group in self._groups and self._passes - self._groups[group].last < OWNED

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
        short = {name for name, one in known if one.seen > since and one.rows - one.before < 2 * SMALL}
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
