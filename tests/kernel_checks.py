"""The CPU operators against NumPy in float64, without MindSpore.

As a program, for a library with sanitizers: `python tests/kernel_checks.py LIBRARY`.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from training_kernel_checks import ACTIVATIONS, numbers, training_cases

from ms_codegeex.base.options import declared
from ms_codegeex.formats.rounding import QuantisedMatrix, quantise
from ms_codegeex.generation.choice import COLUMNS, TokenChoice
from ms_codegeex.generation.kernels.library import (
    PART_FLOATS,
    AdapterSums,
    AttentionSizes,
    BlockParts,
    Library,
    Registration,
    cache_shapes,
    exchange_bytes,
)
from ms_codegeex.generation.matrices import LoraTerm, aligned, pack
from ms_codegeex.generation.sampling import Drawing

ROWS = (*range(1, 18), 33)
FORMATS = ((32, 0), (16, 0), (8, 0), (4, 32), (4, 64), (4, 128))
# of a block's matrices: equal ones, and some that cannot share what they read
BLOCK_FORMATS = (((32, 32),), ((8, 16),), ((4, 16),), ((4, 32),), ((4, 16), (4, 8), (8, 8), (8, 16), (32, 32), (4, 16)))
WIDTH = 128  # of a block; both kinds of quantised rows have it without padding


class Kernels(Library):
    """Operators called as MindSpore calls them."""

    def call(self, name: str, registration: Registration | int | None, *arrays: np.ndarray) -> int:
        """What the operator returns; 0 is success. The registration is the last input, in front of the output."""
        if registration is not None:
            number = registration if isinstance(registration, int) else registration.number
            arrays = (*arrays[:-1], np.array([number], np.int64), arrays[-1])
        n = len(arrays)
        shapes = [(ctypes.c_int64 * a.ndim)(*a.shape) for a in arrays]
        return getattr(self._library, name)(
            n,
            (ctypes.c_void_p * n)(*[a.ctypes.data for a in arrays]),
            (ctypes.c_int * n)(*[a.ndim for a in arrays]),
            (ctypes.POINTER(ctypes.c_int64) * n)(*[ctypes.cast(s, ctypes.POINTER(ctypes.c_int64)) for s in shapes]),
            (ctypes.c_char_p * n)(*[a.dtype.name.encode() for a in arrays]),
            None,
            None,
        )


ACTIVATED = {
    name: formula for name, (formula, _) in zip(("none", "gelu", "fast_gelu", "silu"), ACTIVATIONS, strict=True)
}


def check_linear(kernels: Kernels, n: int, k: int, bits: int, group: int, activation: str, rows=ROWS) -> None:
    """Every number of rows is right, and a row's result does not depend on its neighbours."""
    weight, bias, single = quantise(numbers(0, n, k), bits, group or 64), numbers(1, n), {}
    x, residual = numbers(2, max(rows), k), numbers(3, max(rows), n)
    plain = kernels.matrix(pack(weight))
    full = kernels.matrix(pack(weight), bias, activation)
    exact = x.astype(np.float64) @ weight.float32().T.astype(np.float64)
    for m in rows:
        y, added = np.full((m, n), np.nan, np.float32), np.full((m, n), np.nan, np.float32)
        assert kernels.call("linear", plain, x[:m].copy(), y) == 0
        assert kernels.call("linear_add", full, residual[:m].copy(), x[:m].copy(), added) == 0
        assert np.abs(y - exact[:m]).max() <= 2e-6 * k, (m, np.abs(y - exact[:m]).max())
        expected = ACTIVATED[activation](exact[:m] + bias) + residual[:m]
        assert np.abs(added - expected).max() <= 2e-6 * k
        for i in range(m):
            for which, result in (("y", y), ("added", added)):
                assert np.array_equal(single.setdefault((which, i), result[i].copy()), result[i]), (m, i)


def check_adapters(
    kernels: Kernels, n: int, k: int, bits: int, group: int, activation: str, activation_bits=32
) -> None:
    """Rows get what their own adapters add, in float64 up to rounding; those without one keep their bits, and no row
    depends on its neighbours."""
    weight, bias, m = quantise(numbers(0, n, k), bits, group or 64), numbers(1, n), 19
    x, residual = numbers(2, m, k), numbers(3, m, n)
    factors = [LoraTerm(numbers(4, 3, k), numbers(5, n, 3)), None, LoraTerm(numbers(6, 17, k), numbers(7, n, 17) / 8)]
    chosen = np.zeros(1 + m, np.int32)
    packed = pack(weight, kernels.blocks(bits, activation_bits))
    plain = kernels.matrix(packed, bias, activation, activation_bits)
    adapted = kernels.matrix(packed, bias, activation, activation_bits, AdapterSums(factors, chosen))
    flat = kernels.matrix(packed, bias, "none", activation_bits)

    def run(matrix: Registration, rows: slice, adapters=()) -> tuple[np.ndarray, np.ndarray]:
        chosen[0], chosen[1 : 1 + len(adapters)] = np.count_nonzero(adapters), adapters
        y, added = np.full((2, len(x[rows]), n), np.nan, np.float32)
        assert kernels.call("linear", matrix, x[rows].copy(), y) == 0
        assert kernels.call("linear_add", matrix, residual[rows].copy(), x[rows].copy(), added) == 0
        return y, added

    everything, own = slice(None), np.array([0, 1, 2, 3] * 5)[:m]
    before, (linear, _) = run(plain, everything), run(flat, everything)
    assert all(map(np.array_equal, before, run(adapted, everything, [0] * m)))
    found = run(adapted, everything, own)
    for i, number in enumerate(own):
        here, exact = slice(i, i + 1), linear[i].astype(np.float64)
        if number in (0, 2):
            assert all(np.array_equal(new[i], old[i]) for new, old in zip(found, before, strict=True))
        else:
            a, b = factors[number - 1].a.astype(np.float64), factors[number - 1].b.astype(np.float64)
            exact = ACTIVATED[activation](exact + b @ (a @ x[i]))
            assert np.abs(found[0][i] - exact).max() <= 4e-6 * (k + 60), np.abs(found[0][i] - exact).max()
            assert np.abs(found[1][i] - (exact + residual[i])).max() <= 4e-6 * (k + 60)
        alone = run(adapted, here, [number])
        assert all(np.array_equal(one[0], new[i]) for one, new in zip(alone, found, strict=True))
    for wrong in ([-1], [4]):
        chosen[0], chosen[1] = 1, wrong[0]
        assert kernels.call("linear", adapted, x[:1].copy(), np.zeros((1, n), np.float32)) != 0
    chosen[:2] = 1
    many = np.zeros((m + 1, k), np.float32)
    assert kernels.call("linear", adapted, many, np.zeros((m + 1, n), np.float32)) != 0


def check_sixteen(kernels: Kernels, n: int, k: int, rows=ROWS) -> None:
    """FP16 and BF16 weights, subnormal ones too: bit by bit the products of the same weights in FP32."""
    weight, x = numbers(0, n, k), numbers(2, max(rows), k)
    weight[::2] *= 1e-6
    brain = (weight.view(np.uint32) >> 16).astype(np.uint16)
    for narrow in (QuantisedMatrix(weight.astype(np.float16), 16), QuantisedMatrix(brain, 16)):
        found, expected = (kernels.matrix(pack(w)) for w in (narrow, QuantisedMatrix(narrow.float32(), 32)))
        for m in rows:
            y, whole = np.zeros((2, m, n), np.float32)
            assert kernels.call("linear", found, x[:m].copy(), y) == 0
            assert kernels.call("linear", expected, x[:m].copy(), whole) == 0
            assert np.array_equal(y, whole), m
        row = np.zeros((1, k), np.float32)
        assert kernels.call("lookup", found, np.array([n - 1], np.int32), row) == 0
        assert np.array_equal(row[0], narrow.float32()[-1])


def emulated(weight: QuantisedMatrix, x: np.ndarray, activation_bits: int) -> np.ndarray:
    """x wᵀ, FP32 [m, n], as products with rounded activations are defined: whole numbers with a scale for each row,
    exact sums of integers where scales are shared, those of 4 bits added in the order of their groups."""
    limit, largest = np.float32({16: 32639, 8: 127}[activation_bits]), np.abs(x).max(1, keepdims=True)
    inverse = np.divide(limit, largest, out=np.zeros_like(largest), where=largest > 0)
    q, numbers = np.rint(x * inverse).astype(np.int64), weight.values.astype(np.int64)
    if weight.bits == 8:
        sums = (q @ numbers.T).astype(np.float32) * weight.scales
    else:
        sums = np.zeros((len(x), len(numbers)), np.float32)
        for group, scales in enumerate(weight.scales.T):
            part = slice(group * weight.group, (group + 1) * weight.group)
            sums += (q[:, part] @ numbers[:, part].T).astype(np.float32) * scales
    return sums * (largest / limit)


def check_rounded(kernels: Kernels, n: int, k: int, bits: int, group: int, activation_bits: int, rows=ROWS) -> None:
    """Bit by bit what integers give in NumPy, and near the products of what was rounded. A row does not depend on its
    neighbours."""
    weight, bias = quantise(numbers(0, n, k), bits, group or 64), numbers(1, n)
    x, residual = numbers(2, max(rows), k), numbers(3, max(rows), n)
    x[1 % len(x)], x[2 % len(x), 0] = 0.0, 1e4
    packed = pack(weight, kernels.blocks(bits, activation_bits))
    matrix = kernels.matrix(packed, bias, activation_bits=activation_bits)
    products = emulated(weight, x, activation_bits)
    exact = x.astype(np.float64) @ weight.float32().T.astype(np.float64)
    error = np.abs(x).max(1, keepdims=True) * np.abs(weight.float32()).sum(1)  # of each number at most half a step
    near = 0.5001 * error / {16: 32639, 8: 127}[activation_bits] + 1e-6 * k
    assert (np.abs(products - exact) <= near).all()
    expected = residual + (products + bias)
    for m in rows:
        y = np.full((m, n), np.nan, np.float32)
        assert kernels.call("linear_add", matrix, residual[:m].copy(), x[:m].copy(), y) == 0
        assert np.array_equal(y, expected[:m]), (m, np.abs(y - expected[:m]).max())
    for wrong in (np.nan, np.inf):
        x[0, k // 2] = wrong
        y = np.zeros((2, n), np.float32)
        assert kernels.call("linear_add", matrix, residual[:2].copy(), x[:2].copy(), y) == 0
        assert np.isnan(y[0]).all() and np.array_equal(y[1], expected[1])
    assert kernels.call("lookup", matrix, np.zeros(1, np.int32), np.zeros((1, k), np.float32)) != 0


def check_largest(kernels: Kernels) -> None:
    """The largest sums that there can be, of either sign, in no number too small for them."""
    for bits, k, sign, activation_bits in product((8, 4), (128, 4096, 9000, 70000), (1, -1), (16, 8)):
        top = {8: 127, 4: 7}[bits]
        values = np.full((33, k), top, np.int8)
        values[1], values[2, ::2] = -top, -top
        scales = np.ones(33 if bits == 8 else (33, -(-k // 128)), np.float32)
        weight, x = QuantisedMatrix(values, bits, scales, 0 if bits == 8 else 128), np.full((5, k), sign, np.float32)
        x[1, ::2] *= -1
        matrix = kernels.matrix(pack(weight, kernels.blocks(bits, activation_bits)), activation_bits=activation_bits)
        y = np.zeros((5, 33), np.float32)
        assert kernels.call("linear", matrix, x, y) == 0
        assert np.array_equal(y, emulated(weight, x, activation_bits)), (bits, k, sign, activation_bits)


def check_lookup(kernels: Kernels, n: int, k: int, bits: int, group: int) -> None:
    """Rows are those of the matrix that the numbers stand for, exactly."""
    weight, indices = quantise(numbers(0, n, k), bits, group or 64), np.array([[n - 1, 0], [n // 2, 0]], np.int32)
    matrix, out = kernels.matrix(pack(weight)), np.zeros((2, 2, k), np.float32)
    assert kernels.call("lookup", matrix, indices, out) == 0
    assert np.array_equal(out, weight.float32()[indices])
    for wrong in (-1, n):
        assert kernels.call("lookup", matrix, np.array([wrong], np.int32), np.zeros((1, k), np.float32)) != 0


def check_norm(kernels: Kernels, h: int, rms: bool) -> None:
    """Against the definition; every number of rows gives the same."""
    x, weight, bias = numbers(0, 33, h) * 3 + 1, numbers(1, h), None if rms else numbers(2, h)
    wide, registration, alone = x.astype(np.float64), kernels.norm(weight, bias, 1e-5), np.zeros((1, h), np.float32)
    centred = wide if rms else wide - wide.mean(1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5) * weight + (0 if rms else bias)
    for m in (1, 16, 33):
        y = np.zeros((m, h), np.float32)
        assert kernels.call("norm", registration, x[:m].copy(), y) == 0
        assert np.abs(y - expected[:m]).max() < 1e-5
        for i in range(m):
            assert kernels.call("norm", registration, x[i : i + 1].copy(), alone) == 0
            assert np.array_equal(alone[0], y[i])


class Sequences:
    """Attention in float64 that remembers each slot's rows."""

    def __init__(self, kernels: Kernels, heads: AttentionSizes, dtype: type = np.float32):
        self.kernels, self.heads, self.dtype = kernels, heads, dtype
        angles = np.arange(heads.capacity)[:, None] * 0.3 ** np.arange(heads.rotary // 2)
        self.cos, self.sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        self.cache = [aligned(shape, dtype) for shape in cache_shapes(heads)]
        self.registration = kernels.attention(heads, self.cos, self.sin, *self.cache)
        self.keys: dict[tuple[int, int], np.ndarray] = {}
        self.values: dict[tuple[int, int], np.ndarray] = {}

    def turned(self, x: np.ndarray, t: int) -> np.ndarray:
        """[heads, size] at position t, float64"""
        out, r = x.astype(np.float64), self.heads.rotary
        even, odd = out[:, 0:r:2].copy(), out[:, 1:r:2].copy()
        out[:, 0:r:2], out[:, 1:r:2] = even * self.cos[t] - odd * self.sin[t], odd * self.cos[t] + even * self.sin[t]
        return out

    def run(self, rows: list[tuple[int, int]], seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The operator's output and the expected one of rows (slot, position)."""
        h, m = self.heads, len(rows)
        q = numbers(seed, m, h.count * h.size)
        k, v = numbers(seed + 1, m, h.groups * h.size), numbers(seed + 2, m, h.groups * h.size)
        out, expected = np.full_like(q, np.nan), np.zeros(q.shape)
        assert self.kernels.call("attend", self.registration, q, k, v, np.array(rows, np.int32).T.copy(), out) == 0
        for i, (slot, t) in enumerate(rows):
            if t < h.capacity:
                self.values[slot, t] = v[i].reshape(h.groups, h.size).astype(self.dtype).astype(np.float64)
                key = self.turned(k[i].reshape(h.groups, h.size), t)
                if self.dtype == np.float16:  # its last bit depends on the turn's rounding: as it was kept, if near
                    kept = self.cache[0][slot, :, t // 16, :, t % 16].astype(np.float64)
                    assert (np.abs(kept - key) <= np.abs(key) * 2**-11 * 1.001 + 1e-6).all()
                    key = kept
                self.keys[slot, t] = key
        for i, (slot, t) in enumerate(rows):
            if t < h.capacity:
                keys = np.stack([self.keys[slot, j] for j in range(t + 1)])
                values = np.stack([self.values[slot, j] for j in range(t + 1)])
                query = self.turned(q[i].reshape(h.count, h.size), t).reshape(h.groups, -1, h.size)
                scores = np.einsum("gcd,tgd->gct", query, keys) / math.sqrt(h.size)
                p = np.exp(scores - scores.max(-1, keepdims=True))
                expected[i] = np.einsum("gct,tgd->gcd", p / p.sum(-1, keepdims=True), values).reshape(-1)
        return out, expected


def check_attention(kernels: Kernels, count: int, groups: int, size: int, rotary: int, dtype=np.float32) -> None:
    """Prompts in chunks along with decoding sequences at unequal positions, padding rows, a rewritten end."""
    together = Sequences(kernels, AttentionSizes(count, groups, size, rotary, slots=3, capacity=90), dtype)
    padding = (0, 90)
    steps = [
        [(0, t) for t in range(37)],
        [(1, 0), padding],
        [(2, t) for t in range(5)] + [padding] * 3,
        [(0, 37), (1, 1), (2, 5)],
        [(2, t) for t in range(6, 70)] + [(0, 38), (1, 2), (1, 3)],
        [(0, 20), padding, (2, 70)],
        [(2, t) for t in range(71, 90)],
        [(0, 21), (1, 4), (0, 22), (0, 23), (1, 5)],
    ]
    for i, rows in enumerate(steps):
        out, expected = together.run(rows, 10 * i)
        assert np.abs(out - expected).max() < 2e-5, (i, np.abs(out - expected).max())


def check_half_cache(kernels: Kernels) -> None:
    """Keys and values are kept as NumPy rounds them to FP16; what is beyond its largest number becomes that."""
    rows = np.array([(0, t) for t in range(10)], np.int32).T.copy()
    q, k, v = numbers(0, 10, 16), numbers(1, 10, 16), numbers(2, 10, 16)
    k *= 10.0 ** np.arange(-8, 2)[:, None].astype(np.float32)
    k[:, :4], v[:, 0] = [2049 * 2.0**-11, 2051 * 2.0**-11, 65519, -1e9], 3 * 2.0**-25
    one, out = Sequences(kernels, AttentionSizes(1, 1, 16, 0, slots=1, capacity=16), np.float16), np.zeros_like(q)
    assert kernels.call("attend", one.registration, q, k, v, rows, out) == 0
    assert np.array_equal(one.cache[0][0, 0, 0].T[:10], k.clip(-65504, 65504).astype(np.float16))
    assert np.array_equal(one.cache[1][0, 0, :10], v.astype(np.float16)) and np.isfinite(out).all()


def check_attention_one_by_one(kernels: Kernels, count: int, groups: int, size: int, dtype: type = np.float32) -> None:
    """A prompt at once is bit by bit a prompt in rows."""
    heads = AttentionSizes(count, groups, size, 0, slots=1, capacity=64)
    q, k, v = numbers(0, 40, count * size), numbers(1, 40, groups * size), numbers(2, 40, groups * size)
    rows = np.array([(0, t) for t in range(40)], np.int32).T.copy()
    results = []
    for parts in ([40], [1] * 40, [17, 6, 17]):
        one, out, begin = Sequences(kernels, heads, dtype), np.zeros_like(q), 0
        for n in parts:
            piece = slice(begin, begin + n)
            part = np.zeros((n, count * size), np.float32)
            inputs = (q[piece].copy(), k[piece].copy(), v[piece].copy(), rows[:, piece].copy())
            assert kernels.call("attend", one.registration, *inputs, part) == 0
            out[piece], begin = part, begin + n
        results.append(out)
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])


class OneBlock:
    """A decoder block of `WIDTH` channels with its registrations, and the same by the operators of its steps."""

    HEADS = AttentionSizes(count=4, groups=2, size=8, rotary=4, slots=2, capacity=20)
    SHAPES: ClassVar = {
        **{"query": (32, WIDTH), "key": (16, WIDTH), "value": (16, WIDTH), "output": (WIDTH, 32)},
        **{"gate": (40, WIDTH), "up": (40, WIDTH), "down": (WIDTH, 40)},
    }

    def __init__(self, kernels: Kernels, parallel: bool, gated: bool, formats: Sequence[tuple[int, int]] = ((32, 32),)):
        """`formats`: bits of weights and activations, of one matrix after the other."""
        self.kernels, self.parallel, self.gated = kernels, parallel, gated
        self.norms = [kernels.norm(1 + numbers(seed, WIDTH) / 4, numbers(seed + 2, WIDTH), 1e-5) for seed in (0, 1)]
        self.matrices = {}
        for seed, (name, (n, k)) in enumerate(self.SHAPES.items()):
            activation = "silu" if name == "gate" else "gelu" if name == "up" and not gated else "none"
            bits, activation_bits = formats[seed % len(formats)]
            weight = quantise(numbers(10 + seed, n, k) / 5, bits, 32)
            packed = pack(weight, kernels.blocks(bits, activation_bits))
            bias = numbers(20 + seed, n)
            self.matrices[name] = kernels.matrix(packed, bias, activation, activation_bits)
        self.whole, self.steps = Sequences(kernels, self.HEADS), Sequences(kernels, self.HEADS)
        second = None if parallel else self.norms[1]
        gate = None if not gated else self.matrices["gate"]
        self.parts = BlockParts(self.norms[0], second, self.whole.registration, None, **{**self.matrices, "gate": gate})
        self.registration = kernels.block(self.parts)

    def _call(self, name: str, registration: Registration, width: int, *arrays: np.ndarray) -> np.ndarray:
        out = np.full((len(arrays[0]), width), np.nan, np.float32)
        assert self.kernels.call(name, registration, *arrays, out) == 0
        return out

    def _product(self, name: str, x: np.ndarray) -> np.ndarray:
        return self._call("linear", self.matrices[name], self.SHAPES[name][0], x)

    def by_steps(self, x: np.ndarray, rows: np.ndarray, query: np.ndarray | None) -> np.ndarray:
        """What the block must give."""
        y = self._call("norm", self.norms[0], WIDTH, x)
        asked = self._product("query", y if query is None else query)
        key, value = self._product("key", y), self._product("value", y)
        attended = self._call("attend", self.steps.registration, 32, asked, key, value, rows)
        x = self._call("linear_add", self.matrices["output"], WIDTH, x, attended)
        y = y if self.parallel else self._call("norm", self.norms[1], WIDTH, x)
        up = self._product("up", y)
        active = up * self._product("gate", y) if self.gated else up
        return self._call("linear_add", self.matrices["down"], WIDTH, x, active)


def check_blocks(kernels: Kernels, parallel: bool, gated: bool, formats: Sequence[tuple[int, int]]) -> None:
    """Two blocks in one call give bit by bit what their steps give, and so does one with other queries. Rows of padding
    at the end are zeros."""
    pair = [OneBlock(kernels, parallel, gated, formats) for _ in range(2)]
    last = [(1, 0), (0, 25), (0, 18), *[(0, 20)] * 6]  # of padding: the second, and those at the end
    for seed, rows in enumerate(([(0, t) for t in range(17)], [(0, 17)], [(0, 20)] * 2, last)):
        x, places = numbers(seed, len(rows), WIDTH), np.array(rows, np.int32).T.copy()
        expected = pair[1].by_steps(pair[0].by_steps(x, places, None), places, None)
        expected[len(rows) - [row == (0, 20) for row in rows].count(True) :] = 0
        both, y = np.array([each.registration.number for each in pair], np.int64), np.full_like(x, np.nan)
        assert kernels.call("blocks", None, x, places, both, y) == 0
        assert np.array_equal(y, expected)
    query = numbers(9, len(last), WIDTH)
    assert kernels.call("blocks", pair[0].registration, x, places, query, y) == 0
    assert np.array_equal(y[:3], pair[0].by_steps(x, places, query)[:3]) and not np.array_equal(y, expected)


def check_wrong_blocks(kernels: Kernels) -> None:
    """Parts that are missing, gone or of other sizes, and rows that do not suit, are refused."""
    one = OneBlock(kernels, parallel=False, gated=True)
    x, places = numbers(0, 2, WIDTH), np.array([(0, 0), (0, 1)], np.int32).T.copy()
    assert kernels.call("blocks", one.registration, x, places, x.copy()) == 0
    gone = SimpleNamespace(number=kernels.norm(numbers(0, WIDTH), None, 1e-5).number)
    for changes in (
        {"up": None},
        {"attention_norm": gone},
        {"attention_norm": None},
        *({name: one.matrices["output"]} for name in ("query", "key", "value")),
        {"key": one.matrices["query"]},
        {"value": one.matrices["query"]},
        {"output": one.matrices["query"]},
        {"gate": one.matrices["value"]},
        {"down": one.matrices["up"]},
        {"gate": one.norms[0]},
        {"exchange": one.matrices["up"]},
        {"feed_forward_norm": kernels.norm(numbers(0, WIDTH - 1), None, 1e-5)},
    ):
        assert kernels.call("blocks", kernels.block(replace(one.parts, **changes)), x, places, x.copy()) != 0, changes
    numbers_of_both = np.array([one.registration.number] * 2, np.int64)
    assert kernels.call("blocks", None, x, places, x.copy(), numbers_of_both, x.copy()) != 0  # a query for two
    for wrong in (x[:1].copy(), x[:, :-1].copy(), x.astype(np.float64)):
        assert kernels.call("blocks", one.registration, wrong, places, np.zeros_like(wrong)) != 0
    assert kernels.call("blocks", one.norms[0], x, places, x.copy()) != 0
    for row in ((2, 0), (0, -1)):
        assert kernels.call("blocks", one.registration, x, np.array([row] * 2, np.int32).T.copy(), x.copy()) != 0


def choose(
    kernels: Kernels, logits: np.ndarray, choice: TokenChoice, allowed: int, edits=((-1, 1, 0),), k: int = 0
) -> np.ndarray:
    """The same choice of each row -> [n, 1 + k, 2] ids and log-probabilities."""
    out, n = np.zeros((len(logits), 1 + k, 2)), len(logits)
    rows = np.tile(np.array(choice.row(allowed), np.float64), (n, 1))
    edited = np.tile(np.array(edits, np.float64), (n, 1, 1))
    assert kernels.call("choose", None, logits, rows, edited, np.zeros(1 + k, np.int32), out) == 0
    return out


def check_choice(kernels: Kernels) -> None:
    """Greedy, given and drawn tokens, with all limits; equal weights too."""
    logits = numbers(0, 5, 1003) * 3
    logits[:, 7::50] = logits[:, 7:8]
    logits[3], logits[4] = 0.0, -1e4
    logits[4, 500] = 1e4
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    scores = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    for allowed in (1003, 64, 1):
        out = choose(kernels, logits, TokenChoice(), allowed)[:, 0]
        assert np.array_equal(out[:, 0], logits[:, :allowed].argmax(1))
        assert np.abs(out[:, 1] - scores[np.arange(5), out[:, 0].astype(int)]).max() < 1e-4
        given = choose(kernels, logits, TokenChoice(temperature=1, given=1002), allowed)[:, 0]
        assert np.array_equal(given[:, 0], [1002] * 5) and np.abs(given[:, 1] - scores[:, 1002]).max() < 1e-4
        filters = product((0.3, 1.0, 40.0), (0, 1, 30, 5000), (0.2, 0.95, 1.0), (0.0, 0.2), (0.0, 0.4, 0.999999))
        for t, k, p, m, u in filters:
            choice = TokenChoice(temperature=t, top_k=k, top_p=p, min_p=m, uniform=u)
            out = choose(kernels, logits, choice, allowed)[:, 0]
            assert ((out[:, 0] >= 0) & (out[:, 0] < allowed)).all()
        for k in {1, 16, 64} - set(range(allowed + 1, 65)):
            choice, wide = TokenChoice(temperature=1, uniform=0.5), scores[:, :allowed]
            out = choose(kernels, logits, choice, allowed, k=k)
            expected = np.argsort(-logits[:, :allowed], 1, kind="stable")[:, :k]
            assert np.array_equal(out[:, 1:, 0], expected)
            assert np.abs(out[:, 1:, 1] - np.take_along_axis(wide, expected, 1)).max() < 1e-4
    check_edits(kernels, logits)
    check_odd_logits(kernels)


def check_odd_logits(kernels: Kernels) -> None:
    """One logit of a row that is not finite makes all the row's log-probabilities NaN, and no other row's."""
    logits = numbers(1, 4, 1003) * 3
    for (place, odd), (t, p, given), k in product(
        product((0, 500, 1002), (math.nan, math.inf, -math.inf)), ((0, 1, -1), (0.7, 0.9, -1), (1, 1, 3)), (0, 8)
    ):
        wrong = logits.copy()
        wrong[2, place] = odd
        choice = TokenChoice(temperature=t, top_p=p, uniform=0.4, given=given)
        out, sound = (choose(kernels, x, choice, 1000, k=k) for x in (wrong, logits))
        assert np.isnan(out[2, :, 1]).all() and (out[2, :, 0] >= 0).all() and (out[2, :, 0] < 1000).all()
        assert np.array_equal(np.delete(out, 2, 0), np.delete(sound, 2, 0))


def check_edits(kernels: Kernels, logits: np.ndarray) -> None:
    """Edited logits choose, those as they were give the log-probabilities; wrong rows are refused."""
    edits = [(7, 1.5, 0.25), (-1, 1, 0), (1002, 0.5, -3), (500, 1, -1e6)]
    edited = logits.copy()
    for i, factor, term in ((7, 1.5, 0.25), (1002, 0.5, -3), (500, 1, -1e6)):
        x = edited[:, i]
        edited[:, i] = np.where(x > 0, x / np.float32(factor), x * np.float32(factor)) + np.float32(term)
    hot = TokenChoice(temperature=0.7, top_k=30, top_p=0.9, uniform=0.8)
    for choice in (TokenChoice(), TokenChoice(temperature=1, uniform=0.3), hot):
        out = choose(kernels, logits, choice, 1003, edits=edits)
        raw = choose(kernels, edited, choice, 1003)
        assert np.array_equal(out[:, 0, 0], raw[:, 0, 0])
        given = [choose(kernels, logits, TokenChoice(given=i), 1003)[:, 0] for i in out[:, 0, 0]]
        assert all(np.array_equal(out[i, 0], given[i][i]) for i in range(5))
    right, nan = dict(zip(COLUMNS, TokenChoice(temperature=1).row(1003), strict=True)), math.nan
    places, none = np.zeros(1, np.int32), (-1, 1, 0)
    assert refused(kernels, logits, right, none, places) == 0
    beyond = {"uniform": (-0.5, 1), "given": (1003, -2), "allowed": (0, 1004)}
    for each in declared(Drawing):
        beyond[each.name] = (each.option.gt if each.option.ge is None else each.option.ge - 1, 1e300)
    assert {*beyond} == {*COLUMNS}
    for name, values in beyond.items():
        for value in (*values, nan):
            assert refused(kernels, logits, {**right, name: value}, none, places) != 0, (name, value)
    for wrong in ((-2, 1, 0), (1003, 1, 0), (nan, 1, 0), (3, 0, 0), (3, nan, 0), (3, 1, nan), (3, 1, math.inf)):
        assert refused(kernels, logits, right, wrong, places) != 0
    few = {**right, "allowed": 10}
    assert refused(kernels, logits, few, none, np.zeros(12, np.int32)) != 0  # more than are allowed
    assert refused(kernels, logits, right, none, np.zeros(2, np.int32), np.zeros((5, 1, 2))) != 0
    assert refused(kernels, logits, right, none, np.zeros(0, np.int32)) != 0


def refused(kernels: Kernels, logits, settings: dict[str, float], edit, places, out=None) -> int:
    """What the operator returns for rows of the same settings and edit."""
    row = np.array([settings[name] for name in COLUMNS], np.float64)
    rows, edits = np.tile(row, (5, 1)), np.tile(np.array(edit, np.float64), (5, 1, 1))
    out = np.zeros((5, len(places), 2)) if out is None else out
    return kernels.call("choose", None, logits, rows, edits, places, out)


def check_mistakes(kernels: Kernels) -> None:
    """Numbers, sizes and types that do not suit are refused, and nothing is touched."""
    matrix, norm = kernels.matrix(pack(quantise(numbers(0, 8, 24), 32))), kernels.norm(numbers(0, 24), None, 1e-5)
    x, y = numbers(0, 2, 24), np.zeros((2, 8), np.float32)
    assert kernels.call("linear", matrix, x, y) == 0
    gone = kernels.matrix(pack(quantise(numbers(0, 8, 24), 32))).number
    for wrong in (norm.number, gone, -1, 2**40):
        assert kernels.call("linear", wrong, x, y) != 0
    for wrong in (x[:, :23].copy(), x.astype(np.float64), x[:1].copy()):
        assert kernels.call("linear", matrix, wrong, y) != 0
    assert kernels.call("norm", norm, y, y.copy()) != 0
    assert kernels.call("linear_add", matrix, y[:1].copy(), x, y) != 0
    one = Sequences(kernels, AttentionSizes(2, 1, 8, 4, slots=1, capacity=20))
    q, k = numbers(0, 1, 16), numbers(1, 1, 8)
    for row in ((1, 0), (-1, 0), (0, -1)):
        wrong = np.array([row], np.int32).T.copy()
        assert kernels.call("attend", one.registration, q, k, k, wrong, q.copy()) != 0


def meet(kernels: Kernels, name: str, ranks: int, inputs, out_shapes) -> tuple[list[int], list[np.ndarray]]:
    """What the operator returns and gives in each of `ranks` threads, one after the other for each of the inputs."""
    memory = aligned((exchange_bytes(ranks),), np.uint8)
    places = [kernels.exchange(memory, rank, ranks) for rank in range(ranks)]

    def run(rank: int) -> tuple[list[int], list[np.ndarray]]:
        outs = [np.full(shape, np.nan, np.float32) for shape in out_shapes]
        codes = []
        for arrays, out in zip(inputs[rank], outs, strict=True):
            number = np.array([places[rank].number], np.int64)
            codes.append(kernels.call(name, None, *arrays, number, out))
        return codes, outs

    with ThreadPoolExecutor(ranks) as pool:
        found = list(pool.map(run, range(ranks)))
    return [code for codes, _ in found for code in codes], [out for _, outs in found for out in outs]


def check_exchange(kernels: Kernels, ranks: int) -> None:
    """Sums and columns, also in pieces, are the same bit by bit in all ranks; ranks that disagree are reported."""
    shapes = [(1, 7), (3, 1000), (1, PART_FLOATS - 1), (3, PART_FLOATS // 2), (1, 1)]
    parts = [[numbers(10 * rank + i, *shape) for i, shape in enumerate(shapes)] for rank in range(ranks)]
    totals = [sum((own[i] for own in parts[1:]), start=parts[0][i]) for i in range(len(shapes))]
    codes, found = meet(kernels, "sum_ranks", ranks, [[(x,) for x in own] for own in parts], shapes)
    assert not any(codes) and all(map(np.array_equal, found, totals * ranks))
    widths = [[5 + rank, 40000 - 9 * rank, 1] for rank in range(ranks)]
    columns = [[(numbers(rank, 11, n),) for n in own] for rank, own in enumerate(widths)]
    wholes = [np.concatenate([own[i][0] for own in columns], 1) for i in range(3)]
    codes, found = meet(kernels, "gather_ranks", ranks, columns, [whole.shape for whole in wholes])
    assert not any(codes) and all(map(np.array_equal, found, wholes * ranks))
    if ranks > 1:
        unequal = [[(numbers(0, 2, 3 + (rank == 1)),)] for rank in range(ranks)]
        codes, _ = meet(kernels, "gather_ranks", ranks, unequal, [(2, 3 * ranks)])
        assert all(codes)
    codes, _ = meet(kernels, "sum_ranks", ranks, [[(numbers(0, 2),)]] * ranks, [(3,)])
    assert all(codes)


HEADS = (  # count, groups, channels, turned channels
    *((2, 2, 64, 64), (4, 2, 80, 20), (1, 1, 8, 0), (2, 2, 8, 8), (16, 1, 16, 8), (32, 2, 128, 64), (2, 1, 256, 64)),
    *((4, 2, 9, 4), (2, 2, 1, 0), (6, 3, 33, 32)),  # of odd size: the last channel has no partner
)
# bits, group, what follows, bits of activations
ADAPTED = (32, 0, "none", 32), (32, 0, "gelu", 32), (8, 0, "fast_gelu", 32), (4, 32, "silu", 8), (4, 64, "none", 16)


def cases(shapes: Sequence[tuple[int, int]], rows: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    """Each check with its arguments but the first, the kernels: matrices of these shapes, and these numbers of rows."""
    for shape in shapes:
        for (bits, group), activation_bits in product(FORMATS, (32, 16, 8)):
            if activation_bits == 32:
                yield check_linear, *shape, bits, group, "gelu", rows
                yield check_lookup, *shape, bits, group
            elif bits <= 8:
                yield check_rounded, *shape, bits, group, activation_bits, (2, *rows)
        yield check_sixteen, *shape, rows
        yield from ((check_adapters, *shape, *each) for each in ADAPTED)
    yield (check_largest,)
    for activation in ACTIVATED:
        yield check_linear, 45, 40, 32, 0, activation, (1, 7, 9)
    yield from ((check_norm, *each) for each in product((8, 100, 256), (False, True)))
    for heads, dtype in product(HEADS, (np.float32, np.float16)):
        yield check_attention, *heads, dtype
        yield check_attention_one_by_one, *heads[:3], dtype
    yield (check_half_cache,)
    yield (check_choice,)
    yield from ((check_blocks, *each) for each in product((False, True), (False, True), BLOCK_FORMATS))
    yield (check_mistakes,)
    yield (check_wrong_blocks,)
    yield from training_cases()
    yield from ((check_exchange, ranks) for ranks in (1, 2, 3))


def check_everything(kernels: Kernels, shapes: Sequence[tuple[int, int]], rows: Sequence[int]) -> None:
    for check, *arguments in cases(shapes, rows):
        check(kernels, *arguments)


if __name__ == "__main__":
    check_everything(Kernels(Path(sys.argv[1]), 2), ((1, 1), (33, 129), (70, 1500)), (1, 2, 5, 8, 9, 17, 33))
    print("right")
