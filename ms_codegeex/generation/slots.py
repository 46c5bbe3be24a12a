"""The decoding engine: sequences in slots, each with cached keys and values, and passes of rows through a network.

A prompt is read in chunks; a step of several sequences is one pass, whatever their lengths. What a sequence has in
common with what its slot holds is not computed again. The result of a row is the same bit by bit in any pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ms_codegeex.errors import UserError
from ms_codegeex.generation.choice import Chosen, TokenChoice, pack, unpack
from ms_codegeex.generation.rows import Weights
from ms_codegeex.models.causal import Build

CHUNK = 256  # rows of a prompt in a pass
LEAST_CHUNK = 16


class Pass(nn.Cell):
    """Rows through a network, to the logits of some of them or to the tokens that follow."""

    def __init__(self, model: nn.Cell, head: nn.Cell, choice: nn.Cell | None):
        super().__init__(auto_prefix=False)
        self.model, self.head, self.choice, self.gather = model, head, choice, ops.Gather()

    def construct(self, rows: Tensor, wanted: Tensor, settings: Tensor, edits: Tensor, places: Tensor) -> Tensor:
        """rows int32 [3, s, c], `wanted` rows' numbers int32 [n], the others as `choice.pack` makes them -> [n, 1 + k,
        2]; without a choice, logits [n, V]"""
        logits = self.head(self.gather(self.model(rows, rows), wanted, 0))
        return logits if self.choice is None else self.choice(logits, settings, edits, places)


class SlotEngine:
    """`slots` sequences of up to `capacity` positions through a family's model (`modules`, its file `model.py`).

    Ids from `allowed` on have no token and are never chosen. `threads` > 0 asks for the compiled operators; where they
    cannot be had, and with 0, MindSpore's own do the work. `fast` rounds the activations in front of 8-bit and 4-bit
    weights to 8 bits, and `cache_bits` 16 keeps keys and values in FP16; only compiled operators can.
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
        fast: bool = False,
        cache_bits: int = 32,
    ):
        self.capacity, self.slots, self.chunk = capacity, slots, chunk
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
        self._numbers = ms.float64 if self.compiled else ms.float32
        self._choosing, self._scoring = Pass(model, cells.head, choice), Pass(model, cells.head, None)
        for network in (self._choosing, self._scoring):
            network.set_train(False)
        self.cached: list[list[int]] = [[] for _ in range(slots)]

    def next(self, sequences: Mapping[int, Sequence[int]], choices: Mapping[int, TokenChoice]) -> dict[int, Chosen]:
        """For each slot's whole sequence (1 to `capacity` ids) the next token. Probabilities are those among all rows
        of the table."""
        result: dict[int, Chosen] = {}
        ready = [slot for slot, ids in sequences.items() if self._common(slot, ids) == len(ids) - 1]
        for slot, ids in sequences.items():
            if slot not in ready:
                out = self._read(self._choosing, slot, ids, [choices[slot]])
                result[slot] = unpack(out, [choices[slot]])[0]
        if ready:
            chosen = [choices[slot] for slot in ready]
            out = self._step(ready, [sequences[slot] for slot in ready], chosen)
            result |= zip(ready, unpack(out, chosen), strict=True)
        return {slot: result[slot] for slot in sequences}

    def logits(self, slot: int, ids: Sequence[int]) -> np.ndarray:
        """FP32 [V]: scores of the token that follows `ids`."""
        return self._read(self._scoring, slot, ids, [TokenChoice()])[-1]

    def all_logits(self, slot: int, ids: Sequence[int]) -> np.ndarray:
        """FP32 [len(ids), V]: scores of the token that follows each of `ids`."""
        self.cached[slot] = []
        return self._read(self._scoring, slot, ids, [TokenChoice()] * len(ids))

    def log_probabilities(self, slot: int, ids: Sequence[int]) -> np.ndarray:
        """FP32 [len(ids) - 1]: the logarithm of the probability of each id but the first, given those before it."""
        self.cached[slot] = []  # every position's scores are wanted
        if len(ids) < 2:
            return np.zeros(0, np.float32)
        given = [TokenChoice(given=number) for number in ids[1:]]
        return self._read(self._choosing, slot, ids[:-1], given)[:, 0, 1].astype(np.float32)

    def _common(self, slot: int, ids: Sequence[int]) -> int:
        """How many first ids are cached; at least one is left to compute."""
        cached, most = self.cached[slot], min(len(self.cached[slot]), len(ids) - 1)
        if cached[:most] == list(ids[:most]):
            return most
        return next(i for i in range(most) if cached[i] != ids[i])

    def _read(self, network: nn.Cell, slot: int, ids: Sequence[int], choices: list[TokenChoice]) -> np.ndarray:
        """A sequence in chunks; what `network` gives for the last `len(choices)` ids."""
        begin, found = self._common(slot, ids), []
        while begin < len(ids):
            count = min(self.chunk, len(ids) - begin)
            rows = 1 if count == 1 else min(max(LEAST_CHUNK, _power(count)), self.chunk)
            passed = np.zeros((3, 1, rows), np.int32)
            passed[1], passed[2] = slot, self.capacity
            passed[0, 0, :count], passed[2, 0, :count] = ids[begin : begin + count], range(begin, begin + count)
            first = len(ids) - len(choices)  # whose successor is wanted
            if len(choices) == 1:
                wanted, asked = np.array([count - 1], np.int32), choices
            else:
                wanted, asked = np.arange(rows, dtype=np.int32), choices[begin - first : begin - first + count]
            out = self._run(network, passed, wanted, asked, {slot: begin})
            self.cached[slot] = list(ids[: begin + count])
            found.append(out[: len(asked)])
            begin += count
        return np.concatenate(found[-1:] if len(choices) == 1 else found)

    def _step(self, slots: list[int], sequences: list[Sequence[int]], choices: list[TokenChoice]) -> np.ndarray:
        """One token of each sequence, whose earlier ones are cached."""
        n = min(_power(len(slots)), _power(self.slots))
        passed = np.zeros((3, n, 1), np.int32)
        passed[2] = self.capacity
        for i, (slot, ids) in enumerate(zip(slots, sequences, strict=True)):
            passed[:, i, 0] = ids[-1], slot, len(ids) - 1
        kept = {slot: len(ids) - 1 for slot, ids in zip(slots, sequences, strict=True)}
        out = self._run(self._choosing, passed, np.arange(n, dtype=np.int32), choices, kept)
        for slot, ids in zip(slots, sequences, strict=True):
            self.cached[slot] = list(ids)
        return out[: len(slots)]

    def _run(
        self, network: nn.Cell, rows: np.ndarray, wanted: np.ndarray, choices: list[TokenChoice], kept: dict[int, int]
    ) -> np.ndarray:
        """One pass. `kept`: how many positions of each slot are sure to be right if it is interrupted."""
        for slot, count in kept.items():
            del self.cached[slot][count:]
        settings, edits, places = pack(choices, len(wanted), self.allowed)
        numbers = (Tensor(array, self._numbers) for array in (settings, edits))
        return network(Tensor(rows), Tensor(wanted), *numbers, Tensor(places)).asnumpy()


def _power(number: int) -> int:
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
    return None if path is None else Library(path, threads)
