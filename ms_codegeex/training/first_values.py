"""Initial values of weights: random ones, and those that `training.initial` chooses. Commands that start runs import
this module, so it does not import MindSpore.

A model copies with a previous-token head and, in a later block, an induction head (Olsson et al. 2022, "In-context
Learning and Induction Heads"). With sinusoids as positions, a model can begin with previous-token heads.
"""

from __future__ import annotations

import math
import zlib
from functools import partial

import numpy as np

from ms_codegeex.config import RunConfig
from ms_codegeex.formats.tensors import LazyTensor
from ms_codegeex.models.parameters import ROW, TABLE

PREVIOUS_TOKEN_LOGIT = 8.0  # from positions alone
SQUARED_AMPLITUDE = 2 / 3  # of a sinusoid in a normalised row, if words and positions begin with the same std
QUERY, KEY = (f"blocks.0.attention.{name}.weight" for name in ("query", "key"))


def initial_weight(
    name: str, shape: tuple[int, ...], std: float, seed: int, window: tuple[slice, ...] | None = None
) -> np.ndarray:
    """Return the part in `window` of a weight in FP32: ones for weights of norms, zeros for biases, N(0, std²) for all
    others. Each row of a matrix has its own random stream (Philox, keyed by row number), so a device draws only the
    rows that it holds."""
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


def first_values(config: RunConfig) -> dict[str, LazyTensor]:
    """Return the FP32 weights that `training.initial` chooses, by name; all others begin as `initial_weight` says."""
    sizes, initial, found = config.model.sizes, config.training.initial, {}
    for name, shape in sizes.parameter_shapes().items():
        layer, _, kind = name.rpartition(".")
        role = sizes.table.layer(layer).role if kind == "weight" else None
        std = sizes.initial_std(name)
        if role is ROW and initial.outputs == "zero":
            make = partial(np.zeros, shape, np.float32)
        elif role is TABLE and initial.positions == "sinusoid":
            make = partial(sinusoids, shape, std)
        elif name in (QUERY, KEY) and initial.attention == "previous" and config.model.weights is None:
            make = partial(_previous, name, shape, std, config)
        else:
            continue
        found[name] = LazyTensor("float32", shape, make)
    return found


def frequencies(channels: int) -> np.ndarray:
    """Return float64 [⌈channels / 2⌉] frequencies between 0 and π, in radians per position. Evenly spaced ones separate
    neighbouring positions best: their sum of cos(frequency · distance) is zero there. But at twice the channels the sum
    would again be that of distance 0. The exponent prevents this."""
    count = -(-channels // 2)
    return math.pi * ((np.arange(count) + 0.5) / count) ** 1.2


def sinusoids(shape: tuple[int, ...], std: float) -> np.ndarray:
    """Return FP32 [positions, channels] of amplitude `std`: sines in the first half of the channels, cosines in the
    second (Vaswani et al. 2017, section 3.5, with other frequencies)."""
    positions, channels = shape
    angles = np.outer(np.arange(positions), frequencies(channels))
    return (std * np.concatenate([np.sin(angles), np.cos(angles)], 1)[:, :channels]).astype(np.float32)


def _previous(name: str, shape: tuple[int, ...], std: float, config: RunConfig) -> np.ndarray:
    """Return the queries or keys of block 0, FP32 [heads x width, channels], with which head h attends to the token
    h + 1 places back. A head uses every `num_heads`-th frequency, a sine and a cosine each. Keys use the token's own
    position, queries the position h + 1 places back, so their product is Σ cos(frequency · (distance - h - 1))."""
    sizes = config.model.sizes
    width, half = sizes.head_dim, -(-shape[1] // 2)
    sines = 2 * np.arange(width // 2)
    scale = math.sqrt(PREVIOUS_TOKEN_LOGIT * math.sqrt(width) / (SQUARED_AMPLITUDE * len(sines)))
    value = initial_weight(name, shape, std, config.seed)
    for number, head in enumerate(value.reshape(sizes.num_heads, width, shape[1])):
        channels = np.arange(len(sines)) * sizes.num_heads + number
        angles = frequencies(shape[1])[channels] * (number + 1 if name == QUERY else 0)
        head[sines, channels] += scale * np.cos(angles)
        head[sines, half + channels] -= scale * np.sin(angles)
        head[sines + 1, channels] += scale * np.sin(angles)
        head[sines + 1, half + channels] += scale * np.cos(angles)
    return value
