"""The interface between the engine and a network: passes made of rows. A row is one token with its slot (the cache of
a sequence) and its position. A pass is int32 [3, s, c]: the ids, slots and positions of c rows for each of s sequences.
A family's network takes it in place of plain ids. Padding rows have position `capacity`, which no sequence reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.kernels.levels import AUTO


@dataclass(frozen=True)
class SlotSizes:
    """`slots` sequences of up to `capacity` positions. `threads` > 0 requests the compiled operators; with 0, or if
    they are unavailable, MindSpore's own are used. `activation_bits` 16 or 8 makes the compiled operators round the
    inputs of 8-bit and 4-bit weights; 32 keeps them in FP32, as in all other products. `cache_bits` 16 stores keys and
    values in FP16. `cpu_level` is the instruction level of the compiled operators, by default the best for this CPU.
    `flat` selects the variant of MindSpore's operators for GPUs (`models/flat.py`), which GPUs use in any case."""

    capacity: int
    slots: int = 1
    threads: int = 0
    activation_bits: int = 16
    cache_bits: int = 32
    cpu_level: str = AUTO
    flat: bool = False


def activation_bits(exact: bool, fast: bool) -> int:
    """Return the bits of activations in products with quantised weights. Raises `UserError` if both options are set."""
    if exact and fast:
        raise UserError("--exact: not with --fast, which rounds activations to 8 bits; give one of them")
    return 32 if exact else 8 if fast else 16


@dataclass(frozen=True)
class Rows:
    """The inputs of a pass: `rows` int32 [3, m, 1] or [3, 1, m]; the indices of the `wanted` rows, int32 [n];
    `settings`, `edits` and `places` from `choice.pack`; the number of each row's adapter, int32 [m], 0 for none."""

    rows: np.ndarray
    wanted: np.ndarray
    settings: np.ndarray
    edits: np.ndarray
    places: np.ndarray
    adapters: np.ndarray


class Network(Protocol):
    """The interface of a network to the engine. `slower` says why the compiled operators are missing, or is empty."""

    sizes: SlotSizes
    vocab_size: int
    compiled: bool
    slower: str

    def choose(self, rows: Rows) -> np.ndarray:
        """Run a pass and choose the tokens after the wanted rows. Return [n, 1 + k, 2] for `choice.unpack`."""

    def score(self, rows: Rows) -> np.ndarray:
        """Run a pass and return the logits of the wanted rows, FP32 [n, V]."""

    def hidden(self, begin: int, end: int) -> np.ndarray:
        """Return the last hidden states (the head's inputs) of rows `begin` to `end` of the last pass, FP32 [n, H]."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the keys and values of a slot's first `length` positions to another slot."""

    def cache_bytes(self, length: int) -> int:
        """Return the size in bytes of `length` saved positions."""

    def save(self, number: int, slot: int, length: int) -> None:
        """Copy the keys and values of a slot's first `length` positions to host memory, under `number`."""

    def restore(self, number: int, slot: int, length: int) -> None:
        """Write the first `length` positions saved under `number` to a slot."""

    def forget(self, number: int) -> None:
        """Free what was saved under `number`."""
