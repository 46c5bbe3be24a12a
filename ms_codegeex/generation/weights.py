"""A model's weights, as the engine requests them. Nothing here imports MindSpore."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import numpy as np

from ms_codegeex.formats.tensors import LazyTensor
from ms_codegeex.generation.matrices import WHOLE, Quantised, quantise, stored


class Weights(Protocol):
    """A model's weights by our names. `bits` are those of its products, or None if nothing was rounded."""

    bits: int | None

    def matrix(self, name: str, rows: slice = WHOLE, columns: slice = WHOLE) -> Quantised:
        """[n, k], or a part of it"""

    def vector(self, name: str, rows: slice = WHOLE) -> np.ndarray:
        """FP32 [n], or a part of it"""


class TensorWeights:
    """Weights of a source, read on demand; those named in `products` are rounded to `bits`. FP16 and BF16 are kept,
    other types become FP32."""

    def __init__(
        self,
        tensors: Mapping[str, LazyTensor],
        bits: int | None = None,
        group: int = 64,
        products: Collection[str] = (),
    ):
        self.tensors, self.bits, self.group, self.products = tensors, bits, group, products

    def matrix(self, name: str, rows: slice = WHOLE, columns: slice = WHOLE) -> Quantised:
        """[n, k], or a part of it"""
        tensor, part = self.tensors[name], (rows, columns) != (WHOLE, WHOLE)
        if self.bits is not None and name in self.products:
            rounded = quantise(tensor.float32(), self.bits, self.group)
            return rounded.part(rows, columns) if part else rounded
        return stored(tensor.window((rows, columns))).part(WHOLE, WHOLE) if part else stored(tensor)

    def vector(self, name: str, rows: slice = WHOLE) -> np.ndarray:
        """FP32 [n], or a part of it"""
        tensor = self.tensors[name]
        return tensor.float32() if rows == WHOLE else tensor.window((rows,)).float32()
