"""Beginnings of texts that no slot holds any more, in host memory: the ids, and a copy of their keys and values. A slot
that takes up another text loses most of its contents. With `Prefixes` they are kept, up to a number of bytes; the least
recently used go first, of the group that has most. A prompt that begins like one of them gets the copy; what is not in
it is computed."""

from __future__ import annotations

import itertools
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from ms_codegeex.base.host import available_memory
from ms_codegeex.generation.slots import SlotEngine, shared

MAX_BYTES = 2 * 10**9  # unless the user gives a number
MIN_COPIED = 32  # fewer ids are computed in one small pass


def affordable(engine: SlotEngine) -> int:
    """Bytes of host memory for what the engine's slots lose: a quarter of what is free, up to `MAX_BYTES`. Slots occupy
    their memory only when they are used, so it counts as taken."""
    memory, slots = available_memory(), engine.slots * engine.network.cache_bytes(engine.capacity)
    return MAX_BYTES if memory is None else max(0, min(MAX_BYTES, (memory - slots) // 4))


@dataclass(frozen=True)
class KeptPrefix:
    """Ids that were computed with adapter number `adapter` for a group of requests; their keys and values take `size`
    bytes."""

    ids: tuple[int, ...]
    adapter: int
    group: str
    size: int


class Prefixes:
    """What the slots of an engine held before, up to `limit` bytes. `hits` counts copies that were used, `tokens` their
    ids."""

    def __init__(self, engine: SlotEngine, limit: int):
        self.engine, self.limit = engine, limit
        self.size = self.hits = self.tokens = 0
        self._kept: OrderedDict[int, KeptPrefix] = OrderedDict()  # by their numbers, the least recently used first
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._kept)

    def warm_up(self) -> None:
        """Run each operation once, so that what has a graph is compiled. No slot may be in use."""
        number = next(self._numbers)
        self.engine.network.save(number, 0, 1)
        self.engine.network.restore(number, 0, 1)
        self.engine.network.forget(number)

    def keep(self, slot: int, group: str = "") -> None:
        """Copy the contents of a slot, which were computed for a group of requests. Short ones, and those that are here
        already, are not copied; copies that they continue are dropped."""
        ids, adapter = tuple(self.engine.cached[slot]), self.engine.adapter[slot]
        size = self.engine.network.cache_bytes(len(ids))
        if len(ids) < MIN_COPIED or size > self.limit:
            return
        for number, kept in list(self._kept.items()):
            common = shared(kept.ids, ids) if kept.adapter == adapter else 0
            if common == len(ids):
                self._kept.move_to_end(number)
                return
            if common == len(kept.ids):
                self._drop(number)
        while self.size + size > self.limit:
            self._drop(self._least_useful())
        number = next(self._numbers)
        self.engine.network.save(number, slot, len(ids))
        self._kept[number] = KeptPrefix(ids, adapter, group, size)
        self.size += size

    def _least_useful(self) -> int:
        """The number of the least recently used copy of the group that has most bytes: a flood of one group leaves the
        copies of others alone."""
        sizes: Counter[str] = Counter()
        for kept in self._kept.values():
            sizes[kept.group] += kept.size
        (largest, _), *_ = sizes.most_common(1)
        return next(number for number, kept in self._kept.items() if kept.group == largest)

    def _drop(self, number: int) -> None:
        self.engine.network.forget(number)
        self.size -= self._kept.pop(number).size

    def longest(self, ids: Sequence[int], adapter: int) -> tuple[int, int]:
        """The number of the copy that has most of the first `ids`, computed with this adapter, and how many it has."""
        given = tuple(ids)
        found = ((number, shared(kept.ids, given)) for number, kept in self._kept.items() if kept.adapter == adapter)
        return max(found, key=lambda each: each[1], default=(-1, 0))

    def restore(self, number: int, slot: int, length: int) -> None:
        """Let a slot hold the first `length` ids of a copy, which stays."""
        self._kept.move_to_end(number)
        kept = self._kept[number]
        self.engine.restore(number, slot, kept.ids[:length], kept.adapter)
        self.hits, self.tokens = self.hits + 1, self.tokens + length
