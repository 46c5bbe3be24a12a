"""A flag for each document of a corpus in one bit, because a process may hold flags of hundreds of millions;
NumPy's take a byte."""

from __future__ import annotations

import numpy as np


class Flags:
    """`size` flags in `bits`, uint8 `[ceil(size / 8)]`, the first one in the lowest bit of the first byte. By default
    none is raised."""

    def __init__(self, size: int, bits: np.ndarray | None = None) -> None:
        self.size = size
        self.bits = np.zeros(-(-size // 8), np.uint8) if bits is None else bits

    def __and__(self, other: Flags) -> Flags:
        return Flags(self.size, self.bits & other.bits)

    def __or__(self, other: Flags) -> Flags:
        return Flags(self.size, self.bits | other.bits)

    def __invert__(self) -> Flags:
        bits = ~self.bits
        if self.size % 8:  # unused bits stay 0
            bits[-1] &= (1 << self.size % 8) - 1
        return Flags(self.size, bits)

    def set(self, numbers: np.ndarray) -> None:
        """Raise the flags of `numbers`, int64; a number may occur several times."""
        for bit in range(8):  # in one pass, all that meet in a byte write the same
            places = numbers[(numbers & 7) == bit] >> 3
            self.bits[places] |= np.uint8(1 << bit)

    def at(self, numbers: np.ndarray) -> np.ndarray:
        """The flags of `numbers`, bool `[numbers]`."""
        return (self.bits[numbers >> 3] >> (numbers & 7).astype(np.uint8) & 1).astype(bool)

    def between(self, first: int, end: int) -> np.ndarray:
        """The flags of `first` to `end - 1`, bool `[end - first]`."""
        start = first // 8
        bits = np.unpackbits(self.bits[start : -(-end // 8)], bitorder="little")
        return bits[first - 8 * start : end - 8 * start].astype(bool)

    def any(self) -> bool:
        """Whether a flag is raised."""
        return bool(self.bits.any())

    def count(self) -> int:
        """How many flags are raised."""
        return int.from_bytes(self.bits.tobytes(), "little").bit_count()

    def first(self, count: int) -> list[int]:
        """The numbers of the first `count` raised flags."""
        indices = np.flatnonzero(self.bits)[:count]  # one at least in each of these bytes
        numbers = [8 * index + bit for index in indices.tolist() for bit in range(8) if self.bits[index] >> bit & 1]
        return numbers[:count]
