"""Rows, of which a pass of the engine consists. A row is a token (id, slot, position); a slot is a sequence's cache. A
pass is int32 [3, s, c]: ids, slots and positions of c rows of each of s sequences. It goes through a family's network
instead of the ids. Padding rows are at position `capacity`, where no sequence reads."""

from __future__ import annotations

from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ms_codegeex.base.errors import UserError
from ms_codegeex.kernels.levels import AUTO


@dataclass(frozen=True)
class SlotSizes:
    """`slots` sequences of up to `capacity` positions. `threads` > 0 requests the compiled operators. If they are
    unavailable, and with 0, MindSpore's own do the work. `activation_bits`: the compiled operators round the inputs of
    8-bit and 4-bit weights to 16 or 8 bits, or with 32 keep them in FP32, as all other products do. `cache_bits` 16
    keeps keys and values in FP16. `cpu_level` is that of the compiled operators, by default the best for this CPU."""

    capacity: int
    slots: int = 1
    threads: int = 0
    activation_bits: int = 16
    cache_bits: int = 32
    cpu_level: str = AUTO


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


class Same(nn.Cell):
    """The first input."""

    def construct(self, x: Tensor, sample_keys: Tensor | None = None) -> Tensor:
        """x"""
        return x


class WordOfRows(nn.Cell):
    """A table's rows for the ids of a pass."""

    def __init__(self, table: nn.Cell):
        super().__init__()
        self.table = table

    def construct(self, rows: Tensor) -> Tensor:
        """int32 [3, s, c] -> FP32 [s, c, H]"""
        return self.table(rows[0])


class SharedRows(nn.Cell):
    """A table of which this process has the rows from `begin` to `end`; `total` adds the rows of all processes."""

    def __init__(self, table: nn.Cell, part: slice, total: nn.Cell):
        super().__init__()
        self.table, self.total = table, total
        self.begin, self.end = Tensor(part.start, ms.int32), Tensor(part.stop, ms.int32)

    def construct(self, indices: Tensor) -> Tensor:
        """int32 [...] -> FP32 [..., H]"""
        here = ops.logical_and(indices >= self.begin, indices < self.end)
        x = self.table(ops.select(here, indices - self.begin, ops.zeros_like(indices)))
        return self.total(x * ops.expand_dims(ops.cast(here, ms.float32), -1))


class RowMask(nn.Cell):
    """Replaces a model's mask: the slot and position of each row; positions of padding are within the tables."""

    def __init__(self, capacity: int):
        super().__init__()
        self.last, self.within = Tensor(capacity - 1, ms.int32), ops.Minimum()

    def construct(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """int32 [3, s, c] -> slots and positions int32 [2, s, c], positions int32 [s, c]"""
        return rows[1:], self.within(rows[2], self.last)


def named_cells(model: nn.Cell, *kinds: type[nn.Cell]) -> list[tuple[nn.Cell, str, nn.Cell]]:
    """(parent, attribute, cell) of every cell of these kinds."""
    return [
        (parent, name, cell)
        for _, parent in model.cells_and_names()
        for name, cell in parent.name_cells().items()
        if isinstance(cell, kinds)
    ]
