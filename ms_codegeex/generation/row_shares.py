"""How groups of requests share the rows of passes: the prompts of one delay the first token of another one little."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

RECENT = 1000  # passes for which a group that has no request is still expected
AHEAD = 256  # rows that a group may have had more than others and still come first
TYPING_PASSES = 200  # passes for which the slot of a group that has no request is taken after others
SMALL = 16  # rows of a short pass
AWAITED = 8  # rows, in a pass while another group is awaited, of prompts of groups with several requests
AWAITED_SECONDS = 2.0  # after a group's last row


class RowShares:
    """The rows that were computed for each group. One that comes back is not owed what it did not ask for."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rows: dict[str, int] = {}
        self._seen: dict[str, float] = {}  # when it had its last row
        self._before: dict[str, int] = {}  # rows when the group came
        self._last: dict[str, int] = {}  # the last pass with a row of the group, or before its coming
        self._entered: dict[str, int] = {}  # the number of the group's coming
        self._passes = 0

    @property
    def several(self) -> bool:
        """Whether there is more than one group, or was a short time ago."""
        return len(self._last) > 1

    def enter(self, group: str, present: Collection[str]) -> None:
        """Note a request of a group; `present` have requests."""
        if group not in present:
            least = min((self._rows.get(each, 0) for each in present), default=0)
            self._rows[group] = max(self._rows.get(group, 0), least)
            self._entered[group] = max(self._entered.values(), default=0) + 1
            self._last[group] = self._passes
            self._before[group] = self._rows[group]

    def note(self, rows: Mapping[str, int]) -> None:
        """Note a pass with so many rows of each group."""
        self._passes += 1
        for group, count in rows.items():
            self._rows[group] = self._rows.get(group, 0) + count
            self._last[group] = self._passes
            self._seen[group] = self._clock()
        for group in [each for each, last in self._last.items() if last < self._passes - RECENT]:
            del self._last[group], self._rows[group]
            for known in (self._entered, self._seen, self._before):
                known.pop(group, None)

    def typing(self, group: str) -> bool:
        """Whether the group had rows a moment ago, so that a request that begins like its last one is likely."""
        return self._passes - self._last.get(group, -TYPING_PASSES) < TYPING_PASSES

    def favoured(self, groups: Collection[str]) -> str:
        """Of the groups that had least, or up to `AHEAD` rows more, the one that came last."""
        rows = {each: self._rows.get(each, 0) for each in groups}
        least = min(rows.values())
        return min(groups, key=lambda each: (rows[each] > least + AHEAD, -self._entered.get(each, 0)))

    def awaited(self, present: Collection[str]) -> bool:
        """Whether a group that has no request now would come before those `present`, and may ask again at once: its
        last request took few rows, as those of keystrokes do, a moment ago."""
        since = self._clock() - AWAITED_SECONDS
        away = {
            group
            for group, seen in self._seen.items()
            if group not in present and seen > since and self._rows[group] - self._before.get(group, 0) <= 2 * SMALL
        }
        return bool(away) and self.favoured({*present, *away}) in away

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
