"""The decoding engine: sequences in slots, each with cached keys and values, and passes of rows through a network.

A pass takes rows of any slots: chunks of prompts, the newest token of a sequence, guesses of its next ones. What a
sequence has in common with what its slot holds is not computed again, and one slot's contents can be copied to another.
The result of a row is the same bit by bit in any pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ms_codegeex.errors import UserError
from ms_codegeex.generation.choice import Chosen, TokenChoice, pack, unpack
from ms_codegeex.generation.rows import Weights
from ms_codegeex.models.causal import Build

CHUNK = 256  # rows of a pass
LEAST_CHUNK = 16  # of a prompt


@dataclass(frozen=True)
class Part:
    """Ids of a slot from position `begin` on, whose earlier ones are cached, and how the tokens after the last
    `len(choices)` of them are chosen."""

    slot: int
    begin: int
    ids: Sequence[int]
    choices: Sequence[TokenChoice] = ()

    @property
    def end(self) -> int:
        """The position after them."""
        return self.begin + len(self.ids)


class Pass(nn.Cell):
    """Rows through a network, to the logits of some of them or to the tokens that follow."""

    def __init__(self, model: nn.Cell, head: nn.Cell, choice: nn.Cell | None):
        super().__init__(auto_prefix=False)
        self.model, self.head, self.choice, self.gather = model, head, choice, ops.Gather()

    def construct(self, rows: Tensor, wanted: Tensor, settings: Tensor, edits: Tensor, places: Tensor) -> Tensor:
        """rows int32 [3, m, 1] or [3, 1, m], `wanted` rows' numbers int32 [n], the others as `choice.pack` makes them
        -> [n, 1 + k, 2]; without a choice, logits [n, V]"""
        logits = self.head(self.gather(self.model(rows, rows), wanted, 0))
        return logits if self.choice is None else self.choice(logits, settings, edits, places)


class SlotEngine:
    """`slots` sequences of up to `capacity` positions through a family's model (`modules`, its file `model.py`).

    Ids from `allowed` on have no token and are never chosen. `threads` > 0 asks for the compiled operators; where they
    cannot be had, and with 0, MindSpore's own do the work. Up to `guesses` tokens of each sequence are guessed. `fast`
    rounds the activations in front of 8-bit and 4-bit weights to 8 bits, and `cache_bits` 16 keeps keys and values in
    FP16; only compiled operators can.
    """

    def __init__(
        self,
        modules: Any,
        config: Any,
        weights: Weights,
        capacity: int,
        *,
        allowed: int | None = None,
        slots: int = 1,
        threads: int = 0,
        chunk: int = CHUNK,
        guesses: int = 0,
        fast: bool = False,
        cache_bits: int = 32,
    ):
        self.capacity, self.slots = capacity, slots
        self._most = power(slots * (1 + guesses))  # choices of a pass
        self.chunk = max(chunk, 2 * self._most)  # there is room beside sequences that decode
        self.allowed = allowed or config.vocab_size
        with ms.nn.utils.no_init_parameters():  # every weight is given by `weights`
            network = modules.Logits(config, Build(seq_length=capacity, reset_at_eos=False))
        model = network.model
        library = _library(threads)
        self.compiled = library is not None
        _check(weights, self.compiled, fast, cache_bits)
        if library is not None:
            from ms_codegeex.generation.kernels.cells import KernelCells, KernelChoice

            numbers = {"fast": fast, "cache_bits": cache_bits}
            cells, choice = KernelCells(library, model, weights, slots, capacity, **numbers), KernelChoice(library)
        else:
            from ms_codegeex.generation.composite import CompositeCells, CompositeChoice

            cells, choice = CompositeCells(model, weights, slots, capacity), CompositeChoice()
        self._cells = cells
        self._numbers = ms.float64 if self.compiled else ms.float32
        self._choosing, self._scoring = Pass(model, cells.head, choice), Pass(model, cells.head, None)
        for network in (self._choosing, self._scoring):
            network.set_train(False)
        self.cached: list[list[int]] = [[] for _ in range(slots)]

    def keep(self, slot: int, ids: Sequence[int]) -> int:
        """Forget what the slot holds beyond its common beginning with `ids`; how many ids that leaves, not all."""
        cached, most = self.cached[slot], min(len(self.cached[slot]), len(ids) - 1)
        common = shared(cached[:most], ids[:most])
        del cached[common:]
        return common

    def copy(self, source: int, target: int, length: int) -> None:
        """Let `target` hold the first `length` ids of `source`."""
        self.cached[target] = []
        self._cells.copy(source, target, length)
        self.cached[target] = self.cached[source][:length]

    def advance(self, parts: Sequence[Part]) -> list[list[Chosen]]:
        """One pass of parts of different slots, at most `chunk` rows: the tokens of each part's choices. Probabilities
        are those among all rows of the table."""
        found = self._advance(self._choosing, parts)
        return [unpack(rows, part.choices) for part, rows in zip(parts, found, strict=True)]

    def next(self, sequences: Mapping[int, Sequence[int]], choices: Mapping[int, TokenChoice]) -> dict[int, Chosen]:
        """For each slot's whole sequence (1 to `capacity` ids) the next token."""
        left, result = dict(sequences), dict[int, Chosen]()
        while left:
            parts: list[Part] = []
            room = self.chunk
            for slot, ids in left.items():
                begin = self.keep(slot, ids)
                part = Part(slot, begin, ids[begin : begin + room])
                if part.end == len(ids):
                    part = replace(part, choices=[choices[slot]])
                if part.ids:
                    parts.append(part)
                room -= len(part.ids)
            for part, found in zip(parts, self.advance(parts), strict=True):
                if found:
                    result[part.slot] = found[0]
                    del left[part.slot]
        return {slot: result[slot] for slot in sequences}

    def logits(self, slot: int, ids: Sequence[int]) -> np.ndarray:
        """FP32 [V]: scores of the token that follows `ids`."""
        begin = self.keep(slot, ids)
        return self._read(self._scoring, slot, ids, begin, [TokenChoice()])[-1]

    def all_logits(self, slot: int, ids: Sequence[int]) -> np.ndarray:
        """FP32 [len(ids), V]: scores of the token that follows each of `ids`."""
        return self._read(self._scoring, slot, ids, 0, [TokenChoice()] * len(ids))

    def log_probabilities(self, slot: int, ids: Sequence[int]) -> np.ndarray:
        """FP32 [len(ids) - 1]: the logarithm of the probability of each id but the first, given those before it."""
        if len(ids) < 2:
            return np.zeros(0, np.float32)
        given = [TokenChoice(given=number) for number in ids[1:]]
        return self._read(self._choosing, slot, ids[:-1], 0, given)[:, 0, 1].astype(np.float32)

    def _read(
        self, network: nn.Cell, slot: int, ids: Sequence[int], begin: int, choices: list[TokenChoice]
    ) -> np.ndarray:
        """A sequence from `begin` on in chunks; what `network` gives for the last `len(choices)` ids."""
        found, first = [], len(ids) - len(choices)
        while begin < len(ids):
            end = min(begin + self.chunk, len(ids))
            asked = choices[max(begin - first, 0) : max(end - first, 0)]
            found += self._advance(network, [Part(slot, begin, ids[begin:end], asked)])
            begin = end
        return np.concatenate([rows for rows in found if len(rows)])

    def _advance(self, network: nn.Cell, parts: Sequence[Part]) -> list[np.ndarray]:
        """What `network` gives for each part's choices. The composite cells take rows of one sequence, or one row of
        each of several."""
        if self.compiled:
            return self._run(network, parts, together=True)
        found: dict[int, np.ndarray] = {}
        single = [part for part in parts if len(part.ids) == 1]
        if single:
            found |= zip((part.slot for part in single), self._run(network, single, together=True), strict=True)
        for part in parts:
            if len(part.ids) > 1:
                (found[part.slot],) = self._run(network, [part], together=False)
        return [found[part.slot] for part in parts]

    def _run(self, network: nn.Cell, parts: Sequence[Part], together: bool) -> list[np.ndarray]:
        """One pass, as [3, m, 1] or [3, 1, m]. If it is interrupted, what it may have overwritten is forgotten."""
        for part in parts:
            del self.cached[part.slot][part.begin :]
        m = power(sum(len(part.ids) for part in parts))
        m = m if m <= self._most else max(m, LEAST_CHUNK)
        rows, count = np.zeros((3, m), np.int32), 0
        rows[2] = self.capacity
        wanted: list[int] = []
        for part in parts:
            count += len(part.ids)
            here = slice(count - len(part.ids), count)
            rows[0, here], rows[1, here], rows[2, here] = part.ids, part.slot, range(part.begin, part.end)
            wanted += range(count - len(part.choices), count)
        choices = [choice for part in parts for choice in part.choices]
        n = min(m, max(self._most, power(len(choices) or 1)))  # few kinds of pass: each is compiled
        wanted += [0] * (n - len(wanted))
        settings, edits, places = pack(choices, n, self.allowed)
        numbers = (Tensor(array, self._numbers) for array in (settings, edits))
        passed = Tensor(rows.reshape((3, m, 1) if together else (3, 1, m)))
        out = network(passed, Tensor(wanted, ms.int32), *numbers, Tensor(places)).asnumpy()
        for part in parts:
            self.cached[part.slot] += part.ids
        borders = np.cumsum([0] + [len(part.choices) for part in parts])
        return [out[begin:end] for begin, end in itertools.pairwise(borders)]


def shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids two sequences begin with alike."""
    most = min(len(first), len(second))
    if first[:most] == second[:most]:
        return most
    return next(i for i in range(most) if first[i] != second[i])


def power(number: int) -> int:
    """The power of two that is at least `number`."""
    return 1 << (number - 1).bit_length()


def _check(weights: Weights, compiled: bool, fast: bool, cache_bits: int) -> None:
    if cache_bits not in (32, 16):
        raise UserError(f"cache bits: {cache_bits}; choose 32 or 16")
    if fast and weights.bits not in (8, 4):
        raise UserError("--fast: the model has no 8-bit or 4-bit weights; give one made by 'ms-codegeex quantize'")
    if not compiled and (fast or cache_bits == 16):
        option = "--fast" if fast else "--cache-bits 16"
        raise UserError(f"{option}: needs the operators that a C++ compiler makes for CPUs; install g++ or 'ziglang'")


def _library(threads: int) -> Any:
    """The compiled operators, or None where they do not serve."""
    if threads < 1 or ms.get_context("device_target") != "CPU":
        return None
    from ms_codegeex.generation.kernels.compiling import library_path
    from ms_codegeex.generation.kernels.library import Library

    path = library_path()
    try:
        return None if path is None else Library(path, threads)
    except OSError:  # a cache whose files may not be executed, a library made on another machine
        return None
