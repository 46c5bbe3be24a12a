"""How the tensors of two formats correspond, as data that both directions of a conversion read.

A family's `weights.py` lists `Entry`s; nothing here or in `convert` knows any family's names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from ms_codegeex.errors import UserError
from ms_codegeex.formats.tensors import LazyTensor
from ms_codegeex.formats.transpose import transposed

Shape = tuple[int, ...]
Foreign = str | tuple[str, ...]  # a flat name, or the path through nested dictionaries


@dataclass(frozen=True)
class Transform:
    """How some of our tensors make one foreign tensor, and back.

    `shape`: our shapes -> the foreign shape. `join`: our arrays -> the foreign array. `split`: the foreign array and
    our shapes -> our arrays, the exact inverse; where it can it gives views, so that a part of a mapped file is read
    alone. `of_rank`: the number of tensor-parallel ranks -> the transform of a rank's slices, if it is another one.
    """

    shape: Callable[[Sequence[Shape]], Shape]
    join: Callable[[Sequence[np.ndarray]], np.ndarray]
    split: Callable[[np.ndarray, Sequence[Shape]], Sequence[np.ndarray]]
    of_rank: Callable[[int], Transform] | None = None


def _stacked_shape(shapes: Sequence[Shape]) -> Shape:
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def _unstack(array: np.ndarray, shapes: Sequence[Shape]) -> Sequence[np.ndarray]:
    return np.split(array, np.cumsum([shape[0] for shape in shapes])[:-1])


COPY = Transform(lambda shapes: shapes[0], lambda arrays: arrays[0], lambda array, _: (array,))
TRANSPOSE = Transform(
    lambda shapes: shapes[0][::-1], lambda arrays: transposed(arrays[0]), lambda array, _: (transposed(array),)
)
STACK = Transform(_stacked_shape, np.concatenate, _unstack)  # the rows of one below those of the other


def grouped(groups: int) -> Transform:
    """The rows of equal tensors in `groups` groups, each with a run of rows of every tensor; N ranks share the groups.

    The tensors of `Entry.ours` come in the order inside a group.
    """

    def join(arrays: Sequence[np.ndarray]) -> np.ndarray:
        runs = [np.split(array, groups) for array in arrays]
        return np.concatenate([run[g] for g in range(groups) for run in runs])

    def split(array: np.ndarray, shapes: Sequence[Shape]) -> Sequence[np.ndarray]:
        view = array.reshape(groups, len(shapes), -1, *array.shape[1:])
        return [view[:, k].reshape(shape) for k, shape in enumerate(shapes)]

    return Transform(_stacked_shape, join, split, lambda ranks: grouped(groups // ranks))


@dataclass(frozen=True)
class Entry:
    """One foreign tensor and ours that make it; `{i}` in the names stands for a layer's number."""

    ours: tuple[str, ...]
    foreign: Foreign
    transform: Transform = COPY

    def numbered(self, i: int) -> Entry:
        """The entry of layer `i`."""
        foreign = self.foreign
        foreign = (
            foreign.replace("{i}", str(i))
            if isinstance(foreign, str)
            else tuple(part.replace("{i}", str(i)) for part in foreign)
        )
        return Entry(tuple(name.replace("{i}", str(i)) for name in self.ours), foreign, self.transform)

    def of_rank(self, ranks: int) -> Entry:
        """The entry of one of `ranks` tensor-parallel slices."""
        other = self.transform.of_rank
        return self if ranks == 1 or other is None else replace(self, transform=other(ranks))


def expand(patterns: Iterable[Entry], num_layers: int) -> tuple[Entry, ...]:
    """Number the patterns: a run of patterns with `{i}` is repeated layer by layer, in order."""
    result: list[Entry] = []
    for repeated, run in groupby(patterns, key=lambda entry: any("{i}" in name for name in entry.ours)):
        group = list(run)
        result += [e.numbered(i) for i in range(num_layers) for e in group] if repeated else group
    return tuple(result)


def shown(name: Foreign) -> str:
    """A foreign name for a message."""
    return name if isinstance(name, str) else " -> ".join(name)


def check_names(found: Iterable[Foreign], expected: Iterable[Foreign], where: str) -> None:
    """Raise `UserError` naming the first missing or unexpected tensor of `where`."""
    found, expected = dict.fromkeys(found), dict.fromkeys(expected)
    for kind, names in (
        ("missing", [n for n in expected if n not in found]),
        ("unexpected", [n for n in found if n not in expected]),
    ):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise UserError(
                f"{where}: {kind} tensor {shown(names[0])}{more}; the model's configuration asks for "
                f"{len(expected)} tensors, {len(found)} are there"
            )


def _check_shape(name: Foreign, found: Shape, expected: Shape, where: str) -> None:
    if found != expected:
        raise UserError(
            f"{where}: tensor {shown(name)} has shape {list(found)}, "
            f"the model's configuration asks for {list(expected)}"
        )


def check_tensors(tensors: Mapping[str, LazyTensor], shapes: Mapping[str, Shape], where: str) -> None:
    """Raise `UserError` unless `tensors` are exactly those of `shapes`, all of a floating-point dtype."""
    check_names(tensors, shapes, where)
    for name, shape in shapes.items():
        _check_shape(name, tensors[name].shape, shape, where)
        _check_float(name, tensors[name], where)


def _check_float(name: Foreign, tensor: LazyTensor, where: str) -> None:
    if "float" not in tensor.dtype:
        raise UserError(f"{where}: tensor {shown(name)} has dtype {tensor.dtype}, expected a floating-point type")


def _common_dtype(entry: Entry, tensors: Mapping[str, LazyTensor]) -> str:
    dtypes = {tensors[name].dtype for name in entry.ours}
    if len(dtypes) > 1:
        raise UserError(
            f"tensors {', '.join(entry.ours)} make one tensor and must share a dtype, found "
            f"{', '.join(sorted(dtypes))}; choose one with --dtype"
        )
    return dtypes.pop()


def to_foreign(entries: Iterable[Entry], tensors: Mapping[str, LazyTensor]) -> dict[Foreign, LazyTensor]:
    """Our tensors as the foreign ones, in the entries' order; nothing is loaded yet."""

    def joined(entry: Entry) -> LazyTensor:
        parts = [tensors[name] for name in entry.ours]
        return LazyTensor(
            _common_dtype(entry, tensors),
            entry.transform.shape([part.shape for part in parts]),
            lambda: entry.transform.join([part.array() for part in parts]),
        )

    return {entry.foreign: joined(entry) for entry in entries}


def to_ours(
    entries: Sequence[Entry], tensors: Mapping[Foreign, LazyTensor], shapes: Mapping[str, Shape], where: str
) -> dict[str, LazyTensor]:
    """Foreign tensors as ours; nothing is loaded yet.

    Raises `UserError` naming `where` and the tensor unless every tensor is accounted for with the right shape.
    """
    check_names(tensors, (entry.foreign for entry in entries), where)
    result: dict[str, LazyTensor] = {}
    latest: dict[Foreign, np.ndarray] = {}  # so that the parts of a fused tensor, asked for in turn, read it once

    def whole(entry: Entry, tensor: LazyTensor) -> np.ndarray:
        if len(entry.ours) == 1:
            return tensor.array()
        if entry.foreign not in latest:
            latest.clear()
            latest[entry.foreign] = tensor.array()
        return latest[entry.foreign]

    for entry in entries:
        tensor = tensors[entry.foreign]
        _check_float(entry.foreign, tensor, where)
        parts = [shapes[name] for name in entry.ours]
        _check_shape(entry.foreign, tensor.shape, entry.transform.shape(parts), where)
        for k, name in enumerate(entry.ours):
            result[name] = LazyTensor(
                tensor.dtype,
                shapes[name],
                lambda t=tensor, e=entry, p=parts, k=k: e.transform.split(whole(e, t), p)[k],
            )
    return result
