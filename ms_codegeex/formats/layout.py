"""Conversion of tensors between two formats. Both directions read the same data, the `Entry`s of a family's
`weights.py`; nothing here or in `convert` knows any family's names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.tensors import LazyTensor, Tensors, pieces
from ms_codegeex.models.foreign import Entry, ForeignName, Packing

Shape = tuple[int, ...]
Shapes, ForeignTensors = Mapping[str, Shape], Mapping[ForeignName, LazyTensor]
WHOLE = "give all the files of one model"
# runs in the result are long enough, and the packed copy of a tile stays in the cache
_TILE_ROWS, _TILE_COLUMNS = 512, 2048
_PADDING = 8  # words after each row of a tile: with a power of two, a column's words would share few cache lines


def packed_shape(packing: Packing, shapes: Sequence[Shape]) -> Shape:
    """Shape of the foreign tensor that tensors of these shapes make."""
    if packing.kind in ("stack", "group"):
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])
    return shapes[0][::-1] if packing.kind == "transpose" else shapes[0]


def transposed(array: np.ndarray) -> np.ndarray:
    """The transpose of a matrix as a new C-contiguous array, bit for bit; elements of up to 8 bytes. NumPy moves one
    element at a time, which for two bytes is slow: here neighbours of a column are first packed together, then moved as
    8 bytes (four to seven times as fast for FP16, three to four for FP32)."""
    if not array.flags.aligned and array.flags.c_contiguous:  # a view of a file: whole bytes move faster
        array = array.reshape(-1).view(np.uint8).copy().view(array.dtype).reshape(array.shape)
    rows, columns = array.shape
    together = 8 // array.dtype.itemsize
    if not array.size or rows % together:
        return np.ascontiguousarray(array.T)
    result = np.empty((columns, rows), array.dtype)
    wide = result.view(np.uint64)
    buffer = np.empty((_TILE_ROWS // together, min(_TILE_COLUMNS, columns) + _PADDING, together), array.dtype)
    words = buffer.view(np.uint64)[:, :, 0]
    for left in range(0, columns, _TILE_COLUMNS):
        right = min(left + _TILE_COLUMNS, columns)
        for start in range(0, rows, _TILE_ROWS):
            tile = array[start : start + _TILE_ROWS, left:right]
            first, count = start // together, len(tile) // together
            for k in range(together):
                buffer[:count, : right - left, k] = tile[k::together]
            wide[left:right, first : first + count] = words[:count, : right - left].T
    return result


def pack(packing: Packing, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The foreign array that our arrays make."""
    if packing.kind == "stack":
        return np.concatenate(arrays)
    if packing.kind == "group":
        runs = [np.split(array, packing.groups) for array in arrays]
        return np.concatenate([run[g] for g in range(packing.groups) for run in runs])
    if packing.kind == "halves":
        return _renumbered(arrays[0], packing.order())
    return transposed(arrays[0]) if packing.kind == "transpose" else arrays[0]


def unpack(packing: Packing, array: np.ndarray, shapes: Sequence[Shape]) -> Sequence[np.ndarray]:
    """Our arrays from the foreign one, the exact inverse of `pack`; views where possible, e.g. of a mapped file."""
    if packing.kind == "stack":
        return np.split(array, np.cumsum([shape[0] for shape in shapes])[:-1])
    if packing.kind == "group":
        view = array.reshape(packing.groups, len(shapes), -1, *array.shape[1:])
        return [view[:, k].reshape(shape) for k, shape in enumerate(shapes)]
    if packing.kind == "halves":
        return (_renumbered(array, np.argsort(packing.order())),)
    return (transposed(array) if packing.kind == "transpose" else array,)


def _renumbered(array: np.ndarray, order: Sequence[int] | np.ndarray) -> np.ndarray:
    return array.reshape(-1, len(order), *array.shape[1:])[:, order].reshape(array.shape)


def expand(patterns: Iterable[Entry], config: Any) -> tuple[Entry, ...]:
    """The entries of a model of `config`'s sizes: a run of patterns with `{i}` is repeated block by block, in order. A
    head that is the word table has none."""
    tied = {layer.name for layer in config.table.last if layer.copy_of}
    its = (replace(e, packing=e.packing.sized(config)) for e in patterns if e.ours[0].rpartition(".")[0] not in tied)
    result: list[Entry] = []
    for repeated, run in groupby(its, key=lambda entry: any("{i}" in name for name in entry.ours)):
        group = list(run)
        result += [e.numbered(i) for i in range(config.num_layers) for e in group] if repeated else group
    return tuple(result)


def shown(name: ForeignName) -> str:
    return name if isinstance(name, str) else " -> ".join(name)


def check_names(present: Iterable[ForeignName], expected: Iterable[ForeignName], where: str) -> None:
    """Raise `UserError` naming the first missing or unexpected tensor of `where`."""
    present, expected = dict.fromkeys(present), dict.fromkeys(expected)
    missing, unexpected = [n for n in expected if n not in present], [n for n in present if n not in expected]
    if names := missing or unexpected:
        more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        what = f"{'missing' if missing else 'unexpected'} tensor {shown(names[0])}{more}"
        counts = f"the model's configuration asks for {len(expected)} tensors, {len(present)} are there"
        raise UserError(f"{where}: {what} ({counts}); {WHOLE}")


def check_tensors(tensors: Tensors, shapes: Shapes, where: str) -> None:
    """Raise `UserError` unless `tensors` are exactly those of `shapes`, all of a floating-point dtype."""
    check_names(tensors, shapes, where)
    for name, shape in shapes.items():
        _check(name, tensors[name], shape, where)


def _check(name: ForeignName, tensor: LazyTensor, shape: Shape, where: str) -> None:
    if "float" not in tensor.dtype:
        kind = f"has dtype {tensor.dtype}, not a floating-point type"
        raise UserError(f"{where}: tensor {shown(name)} {kind}; give the model before it was quantised")
    if tensor.shape != shape:
        has = f"tensor {shown(name)} has shape {list(tensor.shape)}"
        raise UserError(f"{where}: {has}, the model's configuration asks for {list(shape)}; {WHOLE}")


def to_foreign(entries: Iterable[Entry], tensors: Tensors) -> dict[ForeignName, LazyTensor]:
    """Our tensors as the foreign ones, in the entries' order; nothing is loaded yet."""

    def joined(entry: Entry) -> LazyTensor:
        parts = [tensors[name] for name in entry.ours]
        if entry.packing.kind == "copy":
            return parts[0]
        dtypes, shape = {part.dtype for part in parts}, packed_shape(entry.packing, [part.shape for part in parts])
        if len(dtypes) > 1:
            differ = f"make one tensor and must share a dtype, found {', '.join(sorted(dtypes))}"
            raise UserError(f"tensors {', '.join(entry.ours)} {differ}; choose one with --dtype")

        def whole() -> np.ndarray:
            return pack(entry.packing, [part.array() for part in parts])

        def rows(count: int) -> Iterator[np.ndarray]:
            for part in parts:
                yield from pieces(part, count * (part.nbytes // part.shape[0]))

        return LazyTensor(dtypes.pop(), shape, whole, rows=rows if entry.packing.kind == "stack" else None)

    return {entry.foreign: joined(entry) for entry in entries}


def to_ours(entries: Sequence[Entry], tensors: ForeignTensors, shapes: Shapes, where: str) -> dict[str, LazyTensor]:
    """Foreign tensors as ours; nothing is loaded yet. Raises `UserError` naming `where` and the tensor unless every
    tensor is accounted for with the right shape."""
    check_names(tensors, (entry.foreign for entry in entries), where)
    result: dict[str, LazyTensor] = {}
    # So that the parts of a fused tensor, loaded in turn, read it once. Several threads load: the pair is set at once.
    latest: tuple[ForeignName, np.ndarray] | None = None

    def whole(entry: Entry, tensor: LazyTensor) -> np.ndarray:
        nonlocal latest
        if len(entry.ours) == 1:
            return tensor.array()
        known = latest
        if known is None or known[0] != entry.foreign:
            latest = known = entry.foreign, tensor.array()
        return known[1]

    for entry in entries:
        tensor = tensors[entry.foreign]
        parts = [shapes[name] for name in entry.ours]
        _check(entry.foreign, tensor, packed_shape(entry.packing, parts), where)
        if entry.packing.kind == "copy":
            result[entry.ours[0]] = tensor
            continue
        for k, name in enumerate(entry.ours):
            result[name] = LazyTensor(
                tensor.dtype, shapes[name], lambda t=tensor, e=entry, p=parts, k=k: unpack(e.packing, whole(e, t), p)[k]
            )
    return result
