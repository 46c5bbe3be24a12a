"""Rows: what a pass of the engine is made of. A row is a token (id, slot, position); a slot is a sequence's cache.

A pass is int32 [3, s, c]: ids, slots and positions of c rows of each of s sequences. It goes through a family's network
in the place of the ids. Padding rows are at position `capacity`, where no sequence reads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ms_codegeex.formats.tensors import LazyTensor
from ms_codegeex.generation.matrices import Quantised, quantise, stored


class Weights(Protocol):
    """A model's weights by our names. `bits` are those of its products, or None where nothing was rounded."""

    bits: int | None

    def matrix(self, name: str) -> Quantised:
        """[n, k]"""

    def vector(self, name: str) -> np.ndarray:
        """FP32 [n]"""


class TensorWeights:
    """Weights of a source, read when they are asked for; those named in `products` are rounded to `bits`. FP16 and BF16
    stay what they are, others become FP32."""

    def __init__(
        self,
        tensors: Mapping[str, LazyTensor],
        bits: int | None = None,
        group: int = 64,
        products: Collection[str] = (),
    ):
        self.tensors, self.bits, self.group, self.products = tensors, bits, group, products

    def matrix(self, name: str) -> Quantised:
        """[n, k]"""
        tensor = self.tensors[name]
        rounded = self.bits is not None and name in self.products
        return quantise(tensor.float32(), self.bits, self.group) if rounded else stored(tensor)

    def vector(self, name: str) -> np.ndarray:
        """FP32 [n]"""
        return self.tensors[name].float32()


class Same(nn.Cell):
    """The first input."""

    def construct(self, x: Tensor) -> Tensor:
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


class RowMask(nn.Cell):
    """In place of a model's mask: which slot and position each row has; positions of padding lie within the tables."""

    def __init__(self, capacity: int):
        super().__init__()
        self.last, self.within = Tensor(capacity - 1, ms.int32), ops.Minimum()

    def construct(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """int32 [3, s, c] -> slots and positions int32 [2, s, c], positions int32 [s, c]"""
        return rows[1:], self.within(rows[2], self.last)


def named_cells(model: nn.Cell, *kinds: type[nn.Cell]) -> Iterator[tuple[nn.Cell, str, nn.Cell]]:
    """(parent, attribute, cell) of every cell of these kinds."""
    found = [
        (parent, name, cell)
        for _, parent in model.cells_and_names()
        for name, cell in parent.name_cells().items()
        if isinstance(cell, kinds)
    ]
    yield from found
