"""Random first values of weights. Imports no MindSpore, because commands that start runs import this module."""

from __future__ import annotations

import zlib

import numpy as np


def initial_weight(
    name: str, shape: tuple[int, ...], std: float, seed: int, window: tuple[slice, ...] | None = None
) -> np.ndarray:
    """FP32: ones for the weights of norms, zeros for biases, otherwise N(0, std²); only the part in `window` is made.
    Each row of a matrix has its own random stream (Philox, keyed by row number), so a device that holds some rows draws
    only those."""
    window = window or tuple(slice(0, size) for size in shape)
    local = [part.stop - part.start for part in window]
    if name.endswith(("norm.weight", ".bias")):
        return np.full(local, 1.0 if name.endswith("weight") else 0.0, np.float32)
    key = seed << 32 | zlib.crc32(name.encode())
    rows = [
        np.random.Generator(np.random.Philox(key=key, counter=[0, row, 0, 0])).standard_normal(shape[1], np.float32)
        for row in range(window[0].start, window[0].stop)
    ]
    return np.stack(rows)[:, window[1]] * np.float32(std)
