"""The first values of weights: random ones, and those that `training.initial` chooses. Imports no MindSpore, because
commands that start runs import this module.

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
SQUARED_AMPLITUDE = 2 / 3  # a sinusoid's in a normalised row, where words and positions begin with the same std
QUERY, KEY = (f"blocks.0.attention.{name}.weight" for name in ("query", "key"))


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


def first_values(config: RunConfig) -> dict[str, LazyTensor]:
    """The weights of a new model that do not begin as N(0, `model.init_std`²), by the run's `training.initial`: FP32
    tensors by name."""
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
    """float64 [⌈channels / 2⌉], in radians a position, between 0 and π. The sum of cos(frequency · distance) over
    evenly spaced ones is zero at the distances between neighbours, which tells these apart best; at twice the channels
    it is again that of distance 0. The exponent prevents this."""
    count = -(-channels // 2)
    return math.pi * ((np.arange(count) + 0.5) / count) ** 1.2


def sinusoids(shape: tuple[int, ...], std: float) -> np.ndarray:
    """FP32 [positions, channels] of amplitude `std`: sines in the first half of the channels, cosines in the second
    (Vaswani et al. 2017, section 3.5, with other frequencies)."""
    positions, channels = shape
    angles = np.outer(np.arange(positions), frequencies(channels))
    return (std * np.concatenate([np.sin(angles), np.cos(angles)], 1)[:, :channels]).astype(np.float32)


def _previous(name: str, shape: tuple[int, ...], std: float, config: RunConfig) -> np.ndarray:
    """Queries or keys of block 0, FP32 [heads x width, channels], whose head h looks at the token h + 1 places before.
    A head takes every `num_heads`-th frequency, a sine and a cosine each. Keys take them as they are, queries as they
    were h + 1 places before; their product is the sum of cos(frequency · (distance - h - 1))."""
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
