"""Sample order as a pure function of (seed, global sample number): a keyed permutation, no index arrays.

A balanced Feistel network permutes the smallest even power of two that holds an epoch. Results outside the epoch are
permuted again until they fall inside (cycle walking), which makes it a permutation of exactly `size` values.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 6


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser, uint64 -> uint64 (Steele et al., 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _feistel(values: np.ndarray, half_bits: int, keys: np.ndarray) -> np.ndarray:
    mask, shift = np.uint64((1 << half_bits) - 1), np.uint64(half_bits)
    left, right = values >> shift, values & mask
    for i in range(ROUNDS):
        left, right = right, left ^ (_mix(right + keys[i]) & mask)
    return (left << shift) | right


def stream_seed(seed: int, stream: int) -> int:
    """Seed for the order of corpus number `stream` of a blend, different for each; number 0 has `seed` itself."""
    if stream == 0:
        return seed
    with np.errstate(over="ignore"):
        return int(_mix(np.uint64(seed) + _mix(np.uint64(stream))))


def sample_indices(numbers: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Index in 0..size-1 of each global sample number; every epoch of `size` numbers visits each index once.

    `numbers` int64 [n], any values >= 0; returns int64 [n]. O(1) per number for any size of epoch.
    """
    numbers = np.asarray(numbers, np.uint64)
    epoch, position = numbers // np.uint64(size), numbers % np.uint64(size)
    half_bits = max(1, (int(size - 1).bit_length() + 1) // 2)
    with np.errstate(over="ignore"):  # the arithmetic is modulo 2^64 on purpose
        key = _mix(np.uint64(seed) + _mix(epoch + np.uint64(0x9E3779B97F4A7C15)))
        keys = np.stack([_mix(key + np.uint64(i)) for i in range(ROUNDS)])
        result = _feistel(position, half_bits, keys)
        outside = result >= size
        while outside.any():
            result[outside] = _feistel(result[outside], half_bits, keys[:, outside])
            outside = result >= size
    return result.astype(np.int64)
