"""The weights of a new model that do not begin as N(0, `model.init_std`²): `training.initial`.

A model copies with a previous-token head and, in a later block, an induction head (Olsson et al. 2022, "In-context
Learning and Induction Heads"). With sinusoids as positions, a model can begin with previous-token heads.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from ms_codegeex.config import RunConfig
from ms_codegeex.formats.tensors import LazyTensor
from ms_codegeex.models.parameters import ROW, TABLE
from ms_codegeex.training.initial_weights import initial_weight

LOGIT = 8.0  # of the token that a head looks for, from positions alone
SQUARE = 2 / 3  # of a sinusoid's amplitude in a normalised row, where words and positions begin with the same std
QUERY, KEY = (f"blocks.0.attention.{name}.weight" for name in ("query", "key"))


def first_values(config: RunConfig) -> dict[str, LazyTensor]:
    """FP32 tensors by name, for the run's `training.initial`."""
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
    scale = math.sqrt(LOGIT * math.sqrt(width) / (SQUARE * len(sines)))
    value = initial_weight(name, shape, std, config.seed)
    for number, head in enumerate(value.reshape(sizes.num_heads, width, shape[1])):
        channels = np.arange(len(sines)) * sizes.num_heads + number
        angles = frequencies(shape[1])[channels] * (number + 1 if name == QUERY else 0)
        head[sines, channels] += scale * np.cos(angles)
        head[sines, half + channels] -= scale * np.sin(angles)
        head[sines + 1, channels] += scale * np.sin(angles)
        head[sines + 1, half + channels] += scale * np.cos(angles)
    return value
