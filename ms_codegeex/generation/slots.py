"""The decoding engine: sequences in slots, each with cached keys and values, and passes of rows through a network. A
pass takes rows of any slots: chunks of prompts, the newest token of a sequence, guesses of its next ones. The beginning
that a sequence shares with its slot is not computed again, and one slot's contents can be copied to another. With the
compiled operators, the result of a row is the same bit for bit in any pass."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.generation.choice import TokenChoice, check_finite, pack, unpack
from ms_codegeex.generation.rows import Network, Rows
from ms_codegeex.generation.sampling import ChosenToken

CHUNK = 256  # rows of a pass
MIN_PROMPT_ROWS = 16
Run = Callable[[Rows], np.ndarray]  # `Network.choose` or `Network.score`


@dataclass(frozen=True)
class Part:
    """Ids of a slot from position `begin` on (earlier ones are cached), and how the tokens after the last
    `len(choices)` of them are chosen. The pass adds their last hidden states to `states`, float64 [H]."""

    slot: int
    begin: int
    ids: Sequence[int]
    choices: Sequence[TokenChoice] = ()
    states: np.ndarray | None = None

    @property
    def end(self) -> int:
        return self.begin + len(self.ids)


class SlotEngine:
    """Sequences in the slots of a network. Ids from `allowed` on have no token and are never chosen. Up to `guesses`
    tokens of each sequence are guessed."""

    def __init__(self, network: Network, *, allowed: int | None = None, chunk: int = CHUNK, guesses: int = 0):
        self.network, self.capacity, self.slots = network, network.sizes.capacity, network.sizes.slots
        self._maximum = power(self.slots * (1 + guesses))  # choices of a pass
        self.chunk = max(chunk, 2 * self._maximum)  # room for prompts next to sequences that decode
        self.allowed = allowed or network.vocab_size
        self.rows_cost = network.compiled  # with the CPU's operators, a pass of fewer rows takes less time
        self.least = 1  # a pass is padded to this many rows: more leave fewer shapes to compile, for answers drawn once
        self.cached: list[list[int]] = [[] for _ in range(self.slots)]
        self.adapter = [0] * self.slots  # the adapter that computed the contents of each slot; 0: none

    def warm_up(self, choices: Sequence[TokenChoice]) -> None:
        """Compute a pass of each kind that answers with such choices need, so that MindSpore's graphs are compiled. No
        slot may be in use; all lose their contents."""
        if self.network.compiled:
            return
        for choice in choices:
            for counts in self._kinds():
                for slot in range(self.slots):
                    self.clear(slot)
                each = sum(counts) <= self._maximum  # tokens that a pass may choose
                parts = [(slot, count, count if each else 1) for slot, count in enumerate(counts)]
                self.advance([Part(slot, 0, [0] * count, [choice] * tokens) for slot, count, tokens in parts])
        if self.slots > 1:
            self.network.copy(0, 1, 1)
        for slot in range(self.slots):
            self.clear(slot)

    def _kinds(self) -> list[list[int]]:
        maximum = min(self.chunk, self.capacity)
        return [
            *([min(size, maximum)] for size in self._sizes(maximum)),
            *([1] * min(size, self.slots) for size in self._sizes(self.slots)[1:]),
        ]

    def _sizes(self, maximum: int) -> list[int]:
        return sorted({self._padded(count) for count in range(1, maximum + 1)})

    def _padded(self, count: int) -> int:
        if self.network.compiled:
            return count
        padded = power(max(count, self.least))
        return padded if padded <= self._maximum else max(padded, MIN_PROMPT_ROWS)

    def clear(self, slot: int, adapter: int = 0) -> None:
        """Forget the slot's contents. Its next ids are computed with adapter number `adapter` (0: none)."""
        self.cached[slot], self.adapter[slot] = [], adapter

    def common(self, slot: int, ids: Sequence[int], adapter: int = 0) -> int:
        """How many of the first `ids` the slot holds, computed with adapter number `adapter` (0: none)."""
        return shared(self.cached[slot], ids) if self.adapter[slot] == adapter else 0

    def keep(self, slot: int, ids: Sequence[int], adapter: int = 0) -> int:
        """Forget the slot's contents after its common beginning with `ids`, computed with adapter number `adapter` (0:
        none). Return the number of ids kept, always fewer than all."""
        if self.adapter[slot] != adapter:
            self.clear(slot, adapter)
        cached, maximum = self.cached[slot], min(len(self.cached[slot]), len(ids) - 1)
        common = shared(cached[:maximum], ids[:maximum])
        del cached[common:]
        return common

    def copy(self, source: int, target: int, length: int) -> None:
        """Let `target` hold the first `length` ids of `source`."""
        self.cached[target] = []
        self.network.copy(source, target, length)
        self.cached[target], self.adapter[target] = self.cached[source][:length], self.adapter[source]

    def restore(self, number: int, slot: int, ids: Sequence[int], adapter: int = 0) -> None:
        """Let a slot hold `ids`, computed with an adapter, which begin what the network saved by this number."""
        self.cached[slot] = []
        self.network.restore(number, slot, len(ids))
        self.cached[slot], self.adapter[slot] = list(ids), adapter

    def advance(self, parts: Sequence[Part]) -> list[list[ChosenToken]]:
        results = self._advance(self.network.choose, parts)
        return [unpack(rows, part.choices) for part, rows in zip(parts, results, strict=True)]

    def next(
        self, sequences: Mapping[int, Sequence[int]], choices: Mapping[int, TokenChoice], adapter: int = 0
    ) -> dict[int, ChosenToken]:
        """For each slot's whole sequence (1 to `capacity` ids) the next token."""
        left, result = dict(sequences), dict[int, ChosenToken]()
        while left:
            parts: list[Part] = []
            room = self.chunk
            for slot, ids in left.items():
                begin = self.keep(slot, ids, adapter)
                part = Part(slot, begin, ids[begin : begin + room])
                if part.end == len(ids):
                    part = replace(part, choices=[choices[slot]])
                if part.ids:
                    parts.append(part)
                room -= len(part.ids)
            for part, chosen in zip(parts, self.advance(parts), strict=True):
                if chosen:
                    result[part.slot] = chosen[0]
                    del left[part.slot]
        return {slot: result[slot] for slot in sequences}

    def logits(self, slot: int, ids: Sequence[int], adapter: int = 0) -> np.ndarray:
        """FP32 [V]: scores of the token that follows `ids`."""
        begin = self.keep(slot, ids, adapter)
        return self._read(self.network.score, slot, ids, begin, [TokenChoice()])[-1]

    def all_logits(self, slot: int, ids: Sequence[int], adapter: int = 0) -> np.ndarray:
        """FP32 [len(ids), V]: scores of the token that follows each of `ids`."""
        self.clear(slot, adapter)
        return self._read(self.network.score, slot, ids, 0, [TokenChoice()] * len(ids))

    def log_probabilities(self, slot: int, ids: Sequence[int], adapter: int = 0) -> np.ndarray:
        """FP32 [len(ids) - 1]: the logarithm of the probability of each id but the first, given those before it."""
        self.clear(slot, adapter)
        if len(ids) < 2:
            return np.zeros(0, np.float32)
        given = [TokenChoice(given=number) for number in ids[1:]]
        return self._read(self.network.choose, slot, ids[:-1], 0, given)[:, 0, 1].astype(np.float32)

    def _read(self, run: Run, slot: int, ids: Sequence[int], begin: int, choices: list[TokenChoice]) -> np.ndarray:
        computed, first = [], len(ids) - len(choices)
        while begin < len(ids):
            end = min(begin + self.chunk, len(ids))
            requested = choices[max(begin - first, 0) : max(end - first, 0)]
            computed += self._advance(run, [Part(slot, begin, ids[begin:end], requested)])
            begin = end
        results = np.concatenate([rows for rows in computed if len(rows)])
        try:
            check_finite(results)
        except RunFailure:
            self.clear(slot)
            raise
        return results

    def _advance(self, run: Run, parts: Sequence[Part]) -> list[np.ndarray]:
        if self.network.compiled:
            return self._run(run, parts, together=True)
        results: dict[int, np.ndarray] = {}
        single = [part for part in parts if len(part.ids) == 1]
        if single:
            results |= zip((part.slot for part in single), self._run(run, single, together=True), strict=True)
        for part in parts:
            if len(part.ids) > 1:
                (results[part.slot],) = self._run(run, [part], together=False)
        return [results[part.slot] for part in parts]

    def _run(self, run: Run, parts: Sequence[Part], together: bool) -> list[np.ndarray]:
        """One pass, as [3, m, 1] or [3, 1, m]. If interrupted, drops the contents that it may have overwritten."""
        for part in parts:
            del self.cached[part.slot][part.begin :]
        m = self._padded(sum(len(part.ids) for part in parts))
        rows, adapters, count = np.zeros((3, m), np.int32), np.zeros(m, np.int32), 0
        rows[2] = self.capacity
        wanted: list[int] = []
        for part in parts:
            count += len(part.ids)
            here = slice(count - len(part.ids), count)
            rows[0, here], rows[1, here], rows[2, here] = part.ids, part.slot, range(part.begin, part.end)
            adapters[here] = self.adapter[part.slot]
            wanted += range(count - len(part.choices), count)
        choices = [choice for part in parts for choice in part.choices]
        n = len(choices) if self.network.compiled else min(m, power(max(len(choices), self.least)))
        wanted += [0] * (n - len(wanted))
        passed = rows.reshape((3, m, 1) if together else (3, 1, m))
        out = run(Rows(passed, np.array(wanted, np.int32), *pack(choices, n, self.allowed), adapters))
        end = 0
        for part in parts:
            self.cached[part.slot] += part.ids
            end += len(part.ids)
            if (states := part.states) is not None:
                states += self.network.hidden(end - len(part.ids), end).sum(0, dtype=np.float64)
        borders = np.cumsum([0] + [len(part.choices) for part in parts])
        return [out[begin:end] for begin, end in itertools.pairwise(borders)]


def shared(first: Sequence[int], second: Sequence[int]) -> int:
    """The length of the common beginning of two sequences."""
    maximum = min(len(first), len(second))
    if first[:maximum] == second[:maximum]:
        return maximum
    return next(i for i in range(maximum) if first[i] != second[i])


def power(number: int) -> int:
    return 1 << (number - 1).bit_length()
