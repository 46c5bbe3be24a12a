"""Which tensors of two models or checkpoints differ, and by how much; read by blocks, so large ones fit in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ms_codegeex.formats.tensors import NUMPY_DTYPES, LazyTensor, from_array, from_bfloat16

BLOCK_BYTES = 16 << 20
FIRST = 3  # differing numbers that are shown


@dataclass
class Difference:
    """How a tensor differs. `what` is None if only numbers differ: `count` of them, at most by `largest` (None if a
    number that is not finite is among them), and the first ones as index, left and right."""

    name: str
    what: str | None = None
    count: int = 0
    largest: float | None = 0.0
    first: list[tuple[list[int], float, float]] = field(default_factory=list)


def differences(
    left: Mapping[str, LazyTensor], right: Mapping[str, LazyTensor], progress: Callable[[int], object]
) -> Iterator[Difference]:
    """The differing tensors, in the order of `left`. Numbers are compared by their bits. `progress` gets the bytes that
    were compared."""
    for name in dict.fromkeys([*left, *right]):
        a, b = left.get(name), right.get(name)
        if a is None or b is None:
            yield Difference(name, f"only in the {'second' if a is None else 'first'}")
        elif (a.dtype, a.shape) != (b.dtype, b.shape):
            yield Difference(name, f"{a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)}")
        else:
            difference = Difference(name)
            for first_row, one, other in _blocks(a, b):
                _compare(difference, first_row, one, other, a.dtype)
                progress(one.nbytes)
            if difference.count:
                yield difference


def _blocks(a: LazyTensor, b: LazyTensor) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    if not a.shape:
        yield 0, a.array(), b.array()
        return
    # what cannot be read in parts is read once
    a, b = (from_array(each.array(), each.dtype) if each.part is None else each for each in (a, b))
    rows = max(1, BLOCK_BYTES // max(1, a.nbytes // max(1, a.shape[0])))
    for start in range(0, a.shape[0], rows):
        index = (slice(start, min(start + rows, a.shape[0])), *(slice(None) for _ in a.shape[1:]))
        yield start, a.window(index).array(), b.window(index).array()


def _compare(difference: Difference, first_row: int, a: np.ndarray, b: np.ndarray, dtype: str) -> None:
    bits = f"u{NUMPY_DTYPES[dtype].itemsize}"
    a, b = (np.ascontiguousarray(array) for array in (a, b))
    unequal = a.view(bits) != b.view(bits)
    if not unequal.any():
        return
    left, right = (_numbers(array[unequal], dtype) for array in (a, b))
    difference.count += left.size
    with np.errstate(invalid="ignore"):
        largest = float(np.abs(left - right).max())
    known = difference.largest is not None and math.isfinite(largest)
    difference.largest = max(difference.largest, largest) if known else None
    for index, one, other in zip(np.argwhere(unequal)[:FIRST], left, right, strict=False):
        if len(difference.first) < FIRST:
            position = [int(index[0]) + first_row, *map(int, index[1:])] if a.ndim else []
            difference.first.append((position, float(one), float(other)))


def _numbers(array: np.ndarray, dtype: str) -> np.ndarray:
    return (from_bfloat16(array) if dtype == "bfloat16" else array).astype(np.float64)


def as_json(difference: Difference) -> dict[str, Any]:
    """A difference as JSON values; numbers that are not finite become None."""
    if difference.what:
        return {"name": difference.name, "what": difference.what}
    first = [[index, *(value if math.isfinite(value) else None for value in pair)] for index, *pair in difference.first]
    return {"name": difference.name, "count": difference.count, "largest": difference.largest, "first": first}


def line(difference: Difference) -> str:
    """A difference for people."""
    if difference.what:
        return f"{difference.name}: {difference.what}"
    largest = "some are not finite" if difference.largest is None else f"at most by {difference.largest:.3g}"
    first = ", ".join(f"{index} {one:.8g} and {other:.8g}" for index, one, other in difference.first)
    return f"{difference.name}: {difference.count:,} numbers differ, {largest}; first {first}"
