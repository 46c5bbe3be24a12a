"""The decoding engine. Each slot holds one sequence with its cached keys and values. A pass runs rows of any slots
through the network: chunks of prompts, the newest token of a sequence, and guesses of its next tokens. A prefix that
a slot already holds is not recomputed, and can be copied to another slot. With the compiled operators, a row's result
is bit-identical in every pass."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.generation.choice import TokenChoice, check_finite, pack, unpack
from ms_codegeex.generation.rows import Network, Rows
from ms_codegeex.generation.sampling import ChosenToken

CHUNK = 256  # default for the maximum number of rows per pass
MIN_PROMPT_ROWS = 16
Run = Callable[[Rows], np.ndarray]  # `Network.choose` or `Network.score`


@dataclass(frozen=True)
class Part:
    """One slot's contribution to a pass: `ids` for the positions from `begin` on (earlier positions are cached).
    `choices` say how to choose the token after each of the last `len(choices)` ids. The pass adds the last hidden
    states of all `ids` to `states`, float64 [H], if given."""

    slot: int
    begin: int
    ids: Sequence[int]
    choices: Sequence[TokenChoice] = ()
    states: np.ndarray | None = None

    @property
    def end(self) -> int:
        return self.begin + len(self.ids)


class SlotEngine:
    """The sequences in the slots of `network`. Only ids below `allowed` are chosen: the others have no token. A pass
    has at most `chunk` rows, and up to `guesses` guessed tokens per sequence."""

    def __init__(self, network: Network, *, allowed: int | None = None, chunk: int = CHUNK, guesses: int = 0):
        self.network, self.capacity, self.slots = network, network.sizes.capacity, network.sizes.slots
        self._maximum = power(self.slots * (1 + guesses))  # most choices in a pass
        self.chunk = max(chunk, 2 * self._maximum)  # leaves room for prompts when all slots decode
        self.allowed = allowed or network.vocab_size
        self.rows_cost = network.compiled  # whether passes of fewer rows are faster
        self.least = 1  # minimum rows of a padded pass; a larger value means fewer shapes to compile
        self.cached: list[list[int]] = [[] for _ in range(self.slots)]
        self.adapter = [0] * self.slots  # number of the adapter that computed each slot's contents; 0: none

    def warm_up(self, choices: Sequence[TokenChoice]) -> None:
        """Run one pass of every shape that answers with these choices need, to compile MindSpore's graphs. No slot may
        be in use: the contents of all slots are lost."""
        if self.network.compiled:
            return
        for choice in choices:
            for counts in self._kinds():
                for slot in range(self.slots):
                    self.clear(slot)
                each = sum(counts) <= self._maximum  # a pass may choose no more tokens
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
        """Empty the slot. Its next ids are computed with adapter number `adapter` (0: none)."""
        self.cached[slot], self.adapter[slot] = [], adapter

    def common(self, slot: int, ids: Sequence[int], adapter: int = 0) -> int:
        """Return how many leading `ids` the slot holds, computed with adapter number `adapter` (0: none)."""
        return shared(self.cached[slot], ids) if self.adapter[slot] == adapter else 0

    def keep(self, slot: int, ids: Sequence[int], adapter: int = 0) -> int:
        """Truncate the slot to its longest common prefix with `ids`; empty it if another adapter than number `adapter`
        (0: none) computed it. Return the prefix's length, always less than `len(ids)`."""
        if self.adapter[slot] != adapter:
            self.clear(slot, adapter)
        cached, maximum = self.cached[slot], min(len(self.cached[slot]), len(ids) - 1)
        common = shared(cached[:maximum], ids[:maximum])
        del cached[common:]
        return common

    def copy(self, source: int, target: int, length: int) -> None:
        """Replace the contents of slot `target` by the first `length` ids of slot `source`."""
        self.cached[target] = []
        self.network.copy(source, target, length)
        self.cached[target], self.adapter[target] = self.cached[source][:length], self.adapter[source]

    def restore(self, number: int, slot: int, ids: Sequence[int], adapter: int = 0) -> None:
        """Fill a slot from what the network saved under `number`. `ids` are the leading ids of that copy, and `adapter`
        is the number of the adapter that computed them."""
        self.cached[slot] = []
        self.network.restore(number, slot, len(ids))
        self.cached[slot], self.adapter[slot] = list(ids), adapter

    def advance(self, parts: Sequence[Part]) -> list[list[ChosenToken]]:
        """Compute `parts` and return the tokens chosen for each of them."""
        results = self._advance(self.network.choose, parts)
        return [unpack(rows, part.choices) for part, rows in zip(parts, results, strict=True)]

    def next(
        self, sequences: Mapping[int, Sequence[int]], choices: Mapping[int, TokenChoice], adapter: int = 0
    ) -> dict[int, ChosenToken]:
        """Return the next token for each slot's complete sequence of 1 to `capacity` ids."""
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
        """Return the logits of the token after `ids`, FP32 [V]."""
        begin = self.keep(slot, ids, adapter)
        return self._read(self.network.score, slot, ids, begin, [TokenChoice()])[-1]

    def all_logits(self, slot: int, ids: Sequence[int], adapter: int = 0) -> np.ndarray:
        """Return the logits of the token after each of `ids`, FP32 [len(ids), V]."""
        self.clear(slot, adapter)
        return self._read(self.network.score, slot, ids, 0, [TokenChoice()] * len(ids))

    def log_probabilities(self, slot: int, ids: Sequence[int], adapter: int = 0) -> np.ndarray:
        """Return the natural log-probability of each id but the first, given those before it, FP32 [len(ids) - 1]."""
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
        """Run one pass, with rows [3, m, 1] if `together`, else [3, 1, m]. Contents that the pass may overwrite are
        dropped first, so an interruption leaves no wrong cache."""
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
    """Return the length of the longest common prefix of two sequences."""
    maximum = min(len(first), len(second))
    if first[:maximum] == second[:maximum]:
        return maximum
    return next(i for i in range(maximum) if first[i] != second[i])


def power(number: int) -> int:
    return 1 << (number - 1).bit_length()
