"""A pass of the engine consists of rows. A row is a token (id, slot, position); a slot is a sequence's cache. A
pass is int32 [3, s, c]: ids, slots and positions of c rows of each of s sequences. It goes through a family's network
instead of the ids. Padding rows are at position `capacity`, where no sequence reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.kernels.levels import AUTO


@dataclass(frozen=True)
class SlotSizes:
    """`slots` sequences of up to `capacity` positions. `threads` > 0 requests the compiled operators. If they are
    unavailable, and with 0, MindSpore's own do the work. `activation_bits`: the compiled operators round the inputs of
    8-bit and 4-bit weights to 16 or 8 bits, or with 32 keep them in FP32, as all other products do. `cache_bits` 16
    keeps keys and values in FP16. `cpu_level` is that of the compiled operators, by default the best for this CPU.
    `flat`: MindSpore's own operators are those of GPUs (`models/flat.py`), which a GPU always has."""

    capacity: int
    slots: int = 1
    threads: int = 0
    activation_bits: int = 16
    cache_bits: int = 32
    cpu_level: str = AUTO
    flat: bool = False


def activation_bits(exact: bool, fast: bool) -> int:
    """The bits of activations that are multiplied with quantised weights. `UserError` for both options."""
    if exact and fast:
        raise UserError("--exact: not with --fast, which rounds activations to 8 bits; give one of them")
    return 32 if exact else 8 if fast else 16


@dataclass(frozen=True)
class Rows:
    """The inputs of a pass: rows int32 [3, m, 1] or [3, 1, m], the `wanted` rows' numbers int32 [n], `settings`,
    `edits` and `places` as `choice.pack` makes them, and the number of each row's adapter int32 [m], 0 for none."""

    rows: np.ndarray
    wanted: np.ndarray
    settings: np.ndarray
    edits: np.ndarray
    places: np.ndarray
    adapters: np.ndarray


class Network(Protocol):
    """The interface of a network to the engine. `slower`: why the compiled operators are not used; or empty."""

    sizes: SlotSizes
    vocab_size: int
    compiled: bool
    slower: str

    def choose(self, rows: Rows) -> np.ndarray:
        """Choose the tokens after the wanted rows: [n, 1 + k, 2], as `choice.unpack` reads them."""

    def score(self, rows: Rows) -> np.ndarray:
        """Compute the logits of the wanted rows, FP32 [n, V]."""

    def hidden(self, begin: int, end: int) -> np.ndarray:
        """The last hidden states of rows `begin` to `end` of the last pass, which give their logits, FP32 [n, H]."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the keys and values of a slot's first `length` positions to another slot."""

    def cache_bytes(self, length: int) -> int:
        """The size of the keys and values of `length` positions, as `save` keeps them."""

    def save(self, number: int, slot: int, length: int) -> None:
        """Keep a copy of the keys and values of a slot's first `length` positions in host memory."""

    def restore(self, number: int, slot: int, length: int) -> None:
        """Write the first `length` positions of what was saved by this number to a slot."""

    def forget(self, number: int) -> None:
        """Free what was saved by this number."""
