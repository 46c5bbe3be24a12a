"""Python interface to the compiled decoding operators. Arrays are checked once, when they are registered.

Operators take registration numbers as inputs, never addresses. A `Registration` keeps its memory alive until it is
garbage-collected.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.formats.rounding import GROUPS
from ms_codegeex.generation.matrices import MAX_ADAPTER_RANK, MULTIPLES, ROWS, LoraTerm, PackedMatrix

ACTIVATIONS = ("none", "gelu", "fast_gelu", "silu")
# same order as `Kind` in numbers.h
NUMBERS = (np.float32, np.float16, np.uint16, np.int8, np.int32)
BITS = (32, 16, 16, 8, 4)
# an exchange has a cache line per process, and buffers each large enough for the logits of a row
LINE_BYTES, PART_FLOATS = 64, 1 << 18


class Registration:
    """A registration in `library`: `number` refers to the memory of `kept` as long as this object lives."""

    def __init__(self, library: ctypes.CDLL, number: int, kept: tuple[Any, ...]):
        if number < 0:
            raise RunFailure("decoding kernels: too many models were loaded in one process; start a new one")
        self.number, self._kept = number, kept
        weakref.finalize(self, library.release, number)


@dataclass(frozen=True)
class AdapterSums:
    """What adapters add to the products with a matrix. `factors` has an entry per adapter, None if it adds nothing.
    `chosen` int32 [1 + rows] is read at each product: first how many rows have an adapter, then the number of each
    row's adapter (0: none)."""

    factors: Sequence[LoraTerm | None]
    chosen: np.ndarray


@dataclass(frozen=True)
class AttentionSizes:
    """Sizes of an attention layer: `count` heads of `size` channels each, `groups` of shared keys and values, `rotary`
    channels with rotary embeddings, and a cache of `slots` sequences with `capacity` positions each."""

    count: int
    groups: int
    size: int
    rotary: int
    slots: int
    capacity: int


@dataclass(frozen=True)
class BlockParts:
    """The registrations of a block, in the order of `register_block` in operators.cc. Without `feed_forward_norm`, the
    feed-forward layer has the same input as the attention. `gate` is set for a gated feed-forward layer. With
    `exchange`, the matrices are one device's share."""

    attention_norm: Registration
    feed_forward_norm: Registration | None
    attention: Registration
    exchange: Registration | None
    query: Registration
    key: Registration
    value: Registration
    output: Registration
    gate: Registration | None
    up: Registration
    down: Registration


class Library:
    """A library built by `compile_library`. Operators registered here run on `threads` threads; the choice of tokens
    uses the number of threads of the latest `Library`."""

    def __init__(self, path: Path, threads: int):
        self.path, self.threads, self._library = Path(path), threads, ctypes.CDLL(str(path))
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        for name, arguments in (
            ("register_matrix", [pointer] * 5 + [number] * 11),
            ("register_norm", [pointer, pointer, number, ctypes.c_double, number]),
            ("register_attention", [number] * 6 + [pointer] * 4 + [number] * 2),
            ("register_exchange", [pointer] + [number] * 4),
            ("register_block", [pointer, number]),
            ("eight_in_blocks", []),
        ):
            getattr(self._library, name).argtypes = arguments
            getattr(self._library, name).restype = number
        for name in ("release", "use_threads"):
            getattr(self._library, name).argtypes, getattr(self._library, name).restype = [number], None
        if threads < 1:
            raise ValueError(f"{threads} threads")
        self._library.use_threads(threads)

    def blocks(self, bits: int, activation_bits: int) -> bool:
        wanted = {4: True, 8: self._library.eight_in_blocks() == 1}
        return activation_bits < 32 and wanted.get(bits, False)

    def matrix(
        self,
        packed: PackedMatrix,
        bias: np.ndarray | None = None,
        activation: str = "none",
        activation_bits: int = 32,
        adapted: AdapterSums | None = None,
    ) -> Registration:
        """Register a matrix [n, k] for products or row lookups. `bias` FP32 [n] is copied. Products with 8-bit and
        4-bit matrices may round activations to 16 or 8 `activation_bits`; such matrices must be packed in blocks where
        `blocks` says so, and do not support row lookups. What `adapted` adds is not rounded. Raises `ValueError` for
        arrays that do not fit."""
        rows, width, kind = packed.rows, packed.width, NUMBERS.index(packed.data.dtype.type)
        if BITS[kind] != packed.bits or (packed.bits == 4 and packed.group not in GROUPS):
            raise ValueError(f"{packed.data.dtype} for {packed.bits} bits in groups of {packed.group}")
        _check(packed.data, NUMBERS[kind], (rows, width // 8 if packed.bits == 4 else width), 64)
        expected = {8: (rows,), 4: (rows, width // (packed.group or width))}.get(packed.bits, (1,))
        _check(packed.scales, np.float32, expected)
        fits = rows - ROWS < packed.n <= rows and 0 < packed.k <= width
        if not fits or rows % ROWS or width % MULTIPLES[packed.bits]:
            raise ValueError(f"a matrix [{packed.n}, {packed.k}] packed as [{rows}, {width}]")
        if activation_bits not in ((32, 16, 8) if packed.bits <= 8 else (32,)):
            raise ValueError(f"no products of {activation_bits} bits with {packed.bits} bits")
        if packed.blocks != self.blocks(packed.bits, activation_bits):
            raise ValueError(f"{packed.bits} bits in blocks: {packed.blocks}, activations of {activation_bits} bits")
        padded = None
        if bias is not None:
            _check(bias, np.float32, (packed.n,))
            padded = np.zeros(rows, np.float32)
            padded[: packed.n] = bias
        table, factors, chosen, maximum = None, (), None, 0
        if adapted is not None:
            table, factors = _factors(adapted.factors, packed)
            chosen, maximum = adapted.chosen, len(adapted.chosen) - 1
            _check(chosen, np.int32, (maximum + 1,))
        arrays = packed.data, packed.scales, padded, table, chosen
        number = self._library.register_matrix(
            *(None if array is None else array.ctypes.data for array in arrays),
            *(packed.n, packed.k, rows, width, kind, packed.group, ACTIVATIONS.index(activation)),
            activation_bits,
            *(0 if table is None else len(table), maximum, self.threads),
        )
        return Registration(self._library, number, (packed, padded, table, factors, chosen))

    def norm(self, weight: np.ndarray, bias: np.ndarray | None, epsilon: float) -> Registration:
        """Register a LayerNorm of rows [h], or an RMSNorm if there is no `bias`; both arrays are FP32 [h]."""
        _check(weight, np.float32, weight.shape[:1])
        if bias is not None:
            _check(bias, np.float32, weight.shape)
        address = None if bias is None else bias.ctypes.data
        number = self._library.register_norm(weight.ctypes.data, address, len(weight), epsilon, self.threads)
        return Registration(self._library, number, (weight, bias))

    def exchange(self, memory: np.ndarray, rank: int, ranks: int) -> Registration:
        """Register an exchange between processes: `memory` uint8 [exchange_bytes(ranks)], initially zero, is mapped by
        all of them. All processes must run their operators in the same order."""
        _check(memory, np.uint8, (exchange_bytes(ranks),), 64)
        if not 0 <= rank < ranks:
            raise ValueError(f"rank {rank} of {ranks}")
        number = self._library.register_exchange(memory.ctypes.data, rank, ranks, PART_FLOATS, self.threads)
        return Registration(self._library, number, (memory,))

    def attention(
        self, heads: AttentionSizes, cos: np.ndarray, sin: np.ndarray, keys: np.ndarray, values: np.ndarray
    ) -> Registration:
        """Register an attention layer with its cache. `keys` and `values` have the shapes of `cache_shapes` and are
        both FP32 or both FP16; `cos` and `sin` are FP32 [capacity, rotary / 2]."""
        for name in ("count", "groups", "size", "slots", "capacity"):
            if not 0 < getattr(heads, name) < 2**31:
                raise ValueError(f"{name}: {getattr(heads, name)}")
        if heads.count % heads.groups or heads.rotary % 2 or heads.rotary > heads.size:
            raise ValueError(f"no kernel for {heads}")
        for array in (cos, sin):
            _check(array, np.float32, (heads.capacity, heads.rotary // 2))
        half = keys.dtype == np.float16
        for array, shape in zip((keys, values), cache_shapes(heads), strict=True):
            _check(array, np.float16 if half else np.float32, shape, 64)
        number = self._library.register_attention(
            *(heads.count, heads.groups, heads.size, heads.rotary, heads.slots, heads.capacity),
            *(array.ctypes.data for array in (cos, sin, keys, values)),
            *(16 if half else 32, self.threads),
        )
        return Registration(self._library, number, (cos, sin, keys, values))

    def block(self, parts: BlockParts) -> Registration:
        """Register a decoder block made of registrations. Whether its parts fit together is checked at each call."""
        given = [getattr(parts, each.name) for each in fields(parts)]
        numbers = np.array([-1 if each is None else each.number for each in given], np.int64)
        return Registration(self._library, self._library.register_block(numbers.ctypes.data, self.threads), (given,))

    def run(self, operator: str, *arrays: np.ndarray) -> None:
        """Run an operator of operators.cc on C-contiguous arrays; the last one receives the result. Raises `RunFailure`
        if memory runs out or the inputs are wrong."""
        n, pointer = len(arrays), ctypes.POINTER(ctypes.c_int64)
        failed = getattr(self._library, operator)(
            n,
            (ctypes.c_void_p * n)(*(each.ctypes.data for each in arrays)),
            (ctypes.c_int * n)(*(each.ndim for each in arrays)),
            (pointer * n)(*(ctypes.cast(each.ctypes.shape, pointer) for each in arrays)),
            (ctypes.c_char_p * n)(*(each.dtype.name.encode() for each in arrays)),
            None,
            None,
        )
        if failed:
            raise RunFailure(f"generation: the operator {operator} failed: memory is out, or its inputs are wrong")


def _factors(factors: Sequence[LoraTerm | None], packed: PackedMatrix) -> tuple[np.ndarray, tuple[Any, ...]]:
    """Return a table int64 [adapters, 3] with the addresses of A [r, width] and of B transposed [r, rows], and r; and
    the arrays at these addresses, which the caller must keep alive."""
    table, kept = np.zeros((len(factors), 3), np.int64), []
    for index, each in enumerate(factors):
        if each is None:
            continue
        rank = len(each.a)
        if each.a.shape != (rank, packed.k) or each.b.shape != (packed.n, rank) or not 0 < rank <= MAX_ADAPTER_RANK:
            raise ValueError(f"factors {each.a.shape} and {each.b.shape} for a matrix [{packed.n}, {packed.k}]")
        a, b = np.zeros((rank, packed.width), np.float32), np.zeros((rank, packed.rows), np.float32)
        a[:, : packed.k], b[:, : packed.n] = each.a, each.b.T
        table[index] = a.ctypes.data, b.ctypes.data, rank
        kept += [a, b]
    return table, tuple(kept)


def exchange_bytes(ranks: int) -> int:
    return LINE_BYTES * ranks + 2 * ranks * PART_FLOATS * 4


def cache_shapes(heads: AttentionSizes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of the caches of keys and values. Positions, and the values' channels, are padded to 16s."""
    blocks, depth = -(-heads.capacity // 16), -(-heads.size // 16) * 16
    return (heads.slots, heads.groups, blocks, heads.size, 16), (heads.slots, heads.groups, 16 * blocks, depth)


def _check(array: np.ndarray, dtype: type, shape: tuple[int, ...], alignment: int = 4) -> None:
    """Raise `ValueError` for an array that a kernel would misread."""
    right = array.dtype == dtype and array.shape == shape and array.flags.c_contiguous
    if not right or array.ctypes.data % alignment:
        raise ValueError(f"an array {array.dtype} {array.shape} where {np.dtype(dtype)} {shape} is needed, contiguous")
