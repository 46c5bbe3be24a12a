"""Slices of a tensor: whether they cover it exactly once, and where a window overlaps one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ms_codegeex.base.errors import UserError

Window = Sequence[slice | tuple[int, int]]
Index = tuple[slice, ...]


def check_coverage(name: str, tensor: Mapping[str, Any], where: str) -> None:
    """Raise `UserError` unless the slices cover the tensor exactly once: their borders divide it into cells, each of
    which must be covered once."""
    shape = tensor["shape"]
    boxes = [[(o, o + n) for o, n in zip(s["offset"], s["shape"], strict=True)] for s in tensor["slices"]]
    for box in boxes:
        if len(box) != len(shape) or any(not 0 <= a <= b <= size for (a, b), size in zip(box, shape, strict=True)):
            raise UserError(f"{where}: tensor {name} of shape {shape} has a slice {box} outside it")
    cuts = [sorted({0, size, *(edge for box in boxes for edge in box[axis])}) for axis, size in enumerate(shape)]
    places = [{edge: k for k, edge in enumerate(axis)} for axis in cuts]
    count = np.zeros([len(axis) - 1 for axis in cuts], np.int32)
    for box in boxes:
        count[tuple(slice(at[a], at[b]) for at, (a, b) in zip(places, box, strict=True))] += 1
    if not (count == 1).all():
        wrong = np.argwhere(np.atleast_1d(count != 1))[0]
        cell = [[axis[k], axis[k + 1]] for axis, k in zip(cuts, wrong, strict=False)]
        times = int(np.atleast_1d(count)[tuple(wrong)])
        raise UserError(f"{where}: tensor {name}: part {cell} of shape {shape} is held {times} times, expected once")


def window_ranges(shape: Sequence[int], window: Window | None) -> list[tuple[int, int]]:
    """`window` as (start, stop) per axis of a tensor of `shape`, start <= stop; None is the whole tensor. `ValueError`
    for another number of axes or a step other than 1."""
    parts = [slice(None)] * len(shape) if window is None else window
    whole = (part if isinstance(part, slice) else slice(*part) for part in parts)
    ranges = [part.indices(size) for part, size in zip(whole, shape, strict=True)]
    if any(step != 1 for *_, step in ranges):
        raise ValueError(f"window {window}: steps other than 1 are not supported")
    return [(start, max(start, stop)) for start, stop, _ in ranges]


def overlap(ranges: Sequence[tuple[int, int]], record: Mapping[str, Any]) -> tuple[Index, Index] | None:
    """What a slice (`offset`, `shape`) and a window share, as an index into the slice and one into the window."""
    inside, within = [], []
    for (start, stop), offset, size in zip(ranges, record["offset"], record["shape"], strict=True):
        low, high = max(start, offset), min(stop, offset + size)
        if low >= high:
            return None
        inside.append(slice(low - offset, high - offset))
        within.append(slice(low - start, high - start))
    return tuple(inside), tuple(within)
