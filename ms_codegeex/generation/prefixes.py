"""A prefix cache in host memory: ids that were evicted from their slot, with a copy of their keys and values. When the
size limit is reached, the least recently used entry of the group with the most bytes is dropped. A prompt that shares a
prefix with an entry gets the copy, and only the rest is computed."""

from __future__ import annotations

import itertools
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from ms_codegeex.base.host import available_memory
from ms_codegeex.generation.slots import SlotEngine, shared

MAX_BYTES = 2 * 10**9  # upper bound of the default limit
MIN_COPIED = 32  # fewer ids are not worth a copy: one small pass recomputes them


def affordable(engine: SlotEngine) -> int:
    """Return the default size limit in bytes: a quarter of the free host memory, up to `MAX_BYTES`. All slots count as
    full, because they occupy their memory only once they are used."""
    memory, slots = available_memory(), engine.slots * engine.network.cache_bytes(engine.capacity)
    return MAX_BYTES if memory is None else max(0, min(MAX_BYTES, (memory - slots) // 4))


@dataclass(frozen=True)
class KeptPrefix:
    """An entry: `ids` computed with adapter number `adapter` for `group`. Their keys and values take `size` bytes."""

    ids: tuple[int, ...]
    adapter: int
    group: str
    size: int


class Prefixes:
    """Former contents of an engine's slots, up to `limit` bytes. `hits` counts the restored copies, `tokens` the ids
    restored with them."""

    def __init__(self, engine: SlotEngine, limit: int):
        self.engine, self.limit = engine, limit
        self.size = self.hits = self.tokens = 0
        self._kept: OrderedDict[int, KeptPrefix] = OrderedDict()  # by number, least recently used first
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._kept)

    def warm_up(self) -> None:
        """Run each operation once to compile its graph, if it has one. No slot may be in use."""
        number = next(self._numbers)
        self.engine.network.save(number, 0, 1)
        self.engine.network.restore(number, 0, 1)
        self.engine.network.forget(number)

    def keep(self, slot: int, group: str = "") -> None:
        """Copy the contents of a slot, which were computed for the requests of `group`. Nothing is copied if they are
        short, larger than the limit or here already. Entries that are a prefix of them are dropped."""
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
        """Return the number of the least recently used entry of the group with the most bytes. A flood of requests from
        one group therefore does not evict the entries of others."""
        sizes: Counter[str] = Counter()
        for kept in self._kept.values():
            sizes[kept.group] += kept.size
        (largest, _), *_ = sizes.most_common(1)
        return next(number for number, kept in self._kept.items() if kept.group == largest)

    def _drop(self, number: int) -> None:
        self.engine.network.forget(number)
        self.size -= self._kept.pop(number).size

    def longest(self, ids: Sequence[int], adapter: int) -> tuple[int, int]:
        """Return the number of the entry (-1: none) with the longest common prefix with `ids`, and its length."""
        given = tuple(ids)
        found = ((number, shared(kept.ids, given)) for number, kept in self._kept.items() if kept.adapter == adapter)
        return max(found, key=lambda each: each[1], default=(-1, 0))

    def restore(self, number: int, slot: int, length: int) -> None:
        """Fill a slot with the first `length` ids of an entry, which is kept."""
        self._kept.move_to_end(number)
        kept = self._kept[number]
        self.engine.restore(number, slot, kept.ids[:length], kept.adapter)
        self.hits, self.tokens = self.hits + 1, self.tokens + length
