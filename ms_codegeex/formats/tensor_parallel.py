"""Splitting tensors into the slices of tensor-parallel ranks, and merging the slices of all ranks."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.tensors import NUMPY_DTYPES, LazyTensor, content_hash, overlap, window_ranges


def shard(tensor: LazyTensor, axis: int | None, rank: int, ranks: int) -> LazyTensor:
    """The slice of `rank`: an equal share along `axis`, or the whole tensor when `axis` is None."""
    if axis is None:
        return tensor
    share = tensor.shape[axis] // ranks
    index = [slice(None)] * len(tensor.shape)
    index[axis] = slice(rank * share, (rank + 1) * share)
    return tensor.window(tuple(index))


class Distinct:
    """Finds a rank's file that is a copy of another rank's, by the slices they hold of split tensors: two ranks may
    hold equal slices of one tensor, such as a bias of zeros, but not of all. The smallest tensor that differs ends the
    search, so little is read unless a file is a copy."""

    def __init__(self) -> None:
        self._slices: dict[str, dict[str, LazyTensor]] = defaultdict(dict)  # path -> name -> slice
        self._lock = threading.Lock()
        self._checked = False

    def joined(self, name: str, parts: Mapping[tuple[int, ...], LazyTensor], where: Sequence[str]) -> LazyTensor:
        """Equal parts of a tensor by their position in a grid as one tensor; a window loads only the parts that it
        meets. `where`: the file of each part, no two of which hold the same one; `check` precedes the first load."""
        first = next(iter(parts.values()))
        if len(parts) == 1:
            return first
        for path, piece in zip(where, parts.values(), strict=True):
            self._slices[path][name] = piece
        shape = tuple(size * (1 + max(axis)) for size, axis in zip(first.shape, zip(*parts, strict=True), strict=True))

        def part(index: Sequence[slice] | None) -> np.ndarray:
            self.check()
            ranges = window_ranges(shape, index)
            result = np.empty([stop - start for start, stop in ranges], NUMPY_DTYPES[first.dtype])
            for cell, piece in parts.items():
                offset = [coordinate * size for coordinate, size in zip(cell, piece.shape, strict=True)]
                if (common := overlap(ranges, {"offset": offset, "shape": piece.shape})) is not None:
                    inside, within = common
                    result[within] = piece.array()[inside]
            return result

        return LazyTensor(first.dtype, shape, lambda: part(None), part)

    def check(self) -> None:
        """`UserError` naming two files of which one is a copy; looks once, however many threads ask."""
        with self._lock:
            if not self._checked:
                alike = defaultdict(list)
                for path, slices in self._slices.items():
                    alike[frozenset(slices)].append(path)
                for names, paths in alike.items():
                    self._check(names, paths)
                self._checked = True

    def _check(self, names: Collection[str], paths: Sequence[str]) -> None:
        waiting, telling = [paths], False
        for name in sorted(names, key=lambda name: (self._slices[paths[0]][name].nbytes, name)):
            same = defaultdict(list)
            for number, group in enumerate(waiting):
                for path in group:
                    array = self._slices[path][name].array()
                    same[number, content_hash(array)].append(path)
            waiting = [group for group in same.values() if len(group) > 1]
            if not waiting:
                return
            first = self._slices[waiting[0][0]][name].array().reshape(-1)
            telling = telling or bool((first != first[:1]).any())  # slices of one repeated number prove nothing
        if telling:
            one, other, *_ = waiting[0]
            reason = f"holds the same slices as {one}, so one of them is a copy of the other"
            raise UserError(f"{other}: {reason}; copy the files of all ranks again")


def _same(name: str, copies: Sequence[LazyTensor], where: Sequence[str]) -> LazyTensor:
    """The first of equal copies; whether they are equal is checked when it is loaded."""

    def load() -> np.ndarray:
        first = copies[0].array()
        for copy, path in zip(copies[1:], where[1:], strict=True):
            if copy.array().tobytes() != first.tobytes():
                differs = f"tensor {name} differs from that in {where[0]}, though every rank holds all of it"
                raise UserError(f"{path}: {differs}; the files are not of one checkpoint")
        return first

    return LazyTensor(copies[0].dtype, copies[0].shape, load)


def check_alike(name: str, parts: Iterable[LazyTensor], where: Sequence[object], of: str) -> None:
    """`UserError` unless the parts of a tensor have one dtype and shape; `where` names their files, of one `of`."""
    kinds = [f"{part.dtype} {list(part.shape)}" for part in parts]
    for path, kind in zip(where, kinds, strict=True):
        if kind != kinds[0]:
            differ = f"tensor {name} is {kind}, in {where[0]} it is {kinds[0]}"
            raise UserError(f"{path}: {differ}; the files are not of one {of}")


def merge(
    ranks: Sequence[Mapping[str, LazyTensor]], axes: Mapping[str, int | None], where: Sequence[str]
) -> dict[str, LazyTensor]:
    """The whole tensors of a model from the slices of every rank, in rank order; nothing is loaded yet. `axes`: name ->
    the axis along which it is split; None: every rank holds it whole. `where` names the ranks' files. `UserError` for
    dtypes that differ, and on loading for copies that differ or a file that is a copy of another rank's."""
    result, distinct = {}, Distinct()
    for name, first in ranks[0].items():
        pieces = [rank[name] for rank in ranks]
        check_alike(name, pieces, where, "checkpoint")
        axis = axes.get(name)
        if len(pieces) == 1:
            result[name] = first
        elif axis is None:
            result[name] = _same(name, pieces, where)
        else:
            axes_of = range(len(first.shape))
            cells = {tuple(rank * (k == axis) for k in axes_of): piece for rank, piece in enumerate(pieces)}
            result[name] = distinct.joined(name, cells, where)
    return result
