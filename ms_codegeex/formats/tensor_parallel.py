"""Cutting tensors into the slices of tensor-parallel ranks, and putting the slices of all ranks together again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ms_codegeex.errors import UserError
from ms_codegeex.formats.slices import overlap, window_ranges
from ms_codegeex.formats.tensors import NUMPY_DTYPES, LazyTensor


def cut(tensor: LazyTensor, axis: int | None, rank: int, ranks: int) -> LazyTensor:
    """The slice of `rank`: an equal share along `axis`, or the whole tensor when `axis` is None."""
    if axis is None:
        return tensor
    share = tensor.shape[axis] // ranks
    index = [slice(None)] * len(tensor.shape)
    index[axis] = slice(rank * share, (rank + 1) * share)
    return tensor.window(tuple(index))


def assembled(shape: tuple[int, ...], parts: Mapping[tuple[int, ...], LazyTensor]) -> LazyTensor:
    """Equal parts by their place in a grid as one tensor; a window loads only the parts that it meets."""
    first = next(iter(parts.values()))

    def part(index: Sequence[slice] | None) -> np.ndarray:
        ranges = window_ranges(shape, index)
        result = np.empty([stop - start for start, stop in ranges], NUMPY_DTYPES[first.dtype])
        for cell, piece in parts.items():
            offset = [place * size for place, size in zip(cell, piece.shape, strict=True)]
            if (common := overlap(ranges, {"offset": offset, "shape": piece.shape})) is not None:
                inside, within = common
                result[within] = piece.array()[inside]
        return result

    return first if len(parts) == 1 else LazyTensor(first.dtype, shape, lambda: part(None), part)


def _joined(pieces: Sequence[LazyTensor], axis: int) -> LazyTensor:
    """Equal pieces one behind the other along `axis`."""
    first = pieces[0].shape
    shape = tuple(n * len(pieces) if k == axis else n for k, n in enumerate(first))
    return assembled(shape, {tuple(r * (k == axis) for k in range(len(first))): p for r, p in enumerate(pieces)})


def _same(name: str, copies: Sequence[LazyTensor], where: Sequence[str]) -> LazyTensor:
    """The first of equal copies; whether they are equal is checked when it is loaded."""

    def load() -> np.ndarray:
        first = copies[0].array()
        for copy, place in zip(copies[1:], where[1:], strict=True):
            if copy.array().tobytes() != first.tobytes():
                raise UserError(
                    f"{place}: tensor {name} differs from that in {where[0]}, though every rank holds all of it; "
                    "the files are not of one checkpoint"
                )
        return first

    return LazyTensor(copies[0].dtype, copies[0].shape, load)


def merge(
    ranks: Sequence[Mapping[str, LazyTensor]], axes: Mapping[str, int | None], where: Sequence[str]
) -> dict[str, LazyTensor]:
    """The whole tensors of a model from the slices of every rank, in rank order; nothing is loaded yet.

    `axes`: name -> the axis it is cut along, None for a tensor that every rank holds whole. `where` names the ranks'
    files in messages. Raises `UserError` for dtypes that differ between ranks, and on loading for copies that differ.
    """
    result = {}
    for name, first in ranks[0].items():
        pieces = [rank[name] for rank in ranks]
        for piece, place in zip(pieces, where, strict=True):
            if (piece.dtype, piece.shape) != (first.dtype, first.shape):
                raise UserError(
                    f"{place}: tensor {name} is {piece.dtype} {list(piece.shape)}, in {where[0]} it is "
                    f"{first.dtype} {list(first.shape)}; the files are not of one checkpoint"
                )
        if len(pieces) == 1:
            result[name] = first
        else:
            axis = axes.get(name)
            result[name] = _same(name, pieces, where) if axis is None else _joined(pieces, axis)
    return result
