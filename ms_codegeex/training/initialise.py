"""Initial weights: a pure function of seed and parameter name, or another model's; the same on any device and mesh."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.slices import overlap, window_ranges
from ms_codegeex.formats.tensors import LazyTensor


def initial_weight(
    name: str, shape: tuple[int, ...], std: float, seed: int, window: tuple[slice, ...] | None = None
) -> np.ndarray:
    """FP32: ones for the weights of norms, zeros for biases, otherwise N(0, std²); only the part in `window` is made.

    Each row of a matrix has its own random stream (Philox, keyed by row number), so a device that holds some rows
    draws only those.
    """
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


def starting_weight(
    name: str,
    shape: tuple[int, ...],
    std: float,
    seed: int,
    window: tuple[slice, ...] | None,
    weights: Mapping[str, LazyTensor],
) -> np.ndarray:
    """FP32: the numbers of `weights[name]`, which may have fewer rows than `shape`; `initial_weight` where it has none.
    Only the part in `window` is read. `UserError` for numbers that are not finite."""
    if name not in weights:
        return initial_weight(name, shape, std, seed, window)
    tensor, ranges = weights[name], window_ranges(shape, window)
    common = overlap(ranges, {"offset": (0,) * len(shape), "shape": tensor.shape})
    if common is None:
        return initial_weight(name, shape, std, seed, window)
    there, here = common
    value = tensor.window(there).float32()
    if not np.isfinite(value).all():
        raise UserError(f"model.weights: tensor {name} holds numbers that are not finite; start from another model")
    if value.shape == tuple(stop - start for start, stop in ranges):
        return value
    whole = initial_weight(name, shape, std, seed, window)
    whole[here] = value
    return whole
