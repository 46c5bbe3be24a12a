"""Shards: tensors split for tensor-parallel ranks, and the checkpoints of many devices merged into one model.

MindSpore saves along with a partitioned run how each parameter is sharded (`strategy_ckpt_config`): a protocol buffer
`ParallelStrategyMap`, or JSON of the same content when the file's name ends in `.json` (MindSpore,
python/mindspore/train/node_strategy.proto and parallel/_tensor.py)."""

from __future__ import annotations

import io
import itertools
import math
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.quarantine import check_file
from ms_codegeex.base.reading import limited, opened, read_json
from ms_codegeex.formats.chunks import content_hash
from ms_codegeex.formats.mindspore_checkpoint import is_extra, is_weight, read_mindspore
from ms_codegeex.formats.tensors import MAX_AXES, LazyTensor, Tensors, checked_shape, damaged, gather
from ms_codegeex.formats.wire import Value, WireReader, only

# Fields of ParallelStrategyMap, of ParallelStrategyItem and ParallelLayoutItem, and of ParallelStrategys.
STRATEGY_ITEM, LAYOUT_ITEM = 2, 3
ITEM_NAME, ITEM_CONTENT = 1, 2
STAGE = 1
# Those of ParallelLayouts in their order, 1 to 7, as JSON names them: lists of numbers, then numbers.
_LISTS = ("dev_matrix", "tensor_map", "param_split_shape", "indices_offset")
_NUMBERS = ("field", "opt_weight_shard_step", "opt_weight_shard_size")
LIST_DIM = 1  # the numbers of such a list
MAX_STRATEGY_BYTES = 256 << 20  # bytes of a strategy file: thousands of parameters take a megabyte

_STEP = r"-(?P<step>\d+(_\d+)?)"  # epoch and step
_NAMED = re.compile(rf"(?P<rank>\d+)(_\d+)?{_STEP}$")  # code-13B7-50, or code-13B7_1-50 after a restart
_PLAIN = re.compile(r"(^|[^a-z])rank_?(?P<rank>\d+)$")


def shard(tensor: LazyTensor, axis: int | None, rank: int, ranks: int) -> LazyTensor:
    """The slice of `rank`: an equal share along `axis`, or the whole tensor when `axis` is None."""
    if axis is None:
        return tensor
    share = tensor.shape[axis] // ranks
    index = [slice(None)] * len(tensor.shape)
    index[axis] = slice(rank * share, (rank + 1) * share)
    return tensor.window(tuple(index))


class CopySearch:
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
        pieces = ((np.multiply(cell, first.shape).tolist(), piece) for cell, piece in parts.items())
        records = [{"offset": offset, "shape": first.shape, "tensor": piece} for offset, piece in pieces]

        def part(index: Sequence[slice] | None) -> np.ndarray:
            self.check()
            return gather(shape, first.dtype, index, records)

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
                    same[number, content_hash([array])].append(path)
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
    def load() -> np.ndarray:
        first = copies[0].array()
        for copy, path in zip(copies[1:], where[1:], strict=True):
            if copy.array().tobytes() != first.tobytes():
                differs = f"tensor {name} differs from that in {where[0]}, though every rank holds all of it"
                raise UserError(f"{path}: {differs}; give the files of one checkpoint")
        return first

    return LazyTensor(copies[0].dtype, copies[0].shape, load)


def check_alike(name: str, parts: Iterable[LazyTensor], where: Sequence[object], of: str) -> None:
    """`UserError` unless the parts of a tensor have one dtype and shape; `where` names their files, of one `of`."""
    kinds = [f"{part.dtype} {list(part.shape)}" for part in parts]
    for path, kind in zip(where, kinds, strict=True):
        if kind != kinds[0]:
            differ = f"tensor {name} is {kind}, in {where[0]} it is {kinds[0]}"
            raise UserError(f"{path}: {differ}; give the files of one {of}")


def merge(ranks: Sequence[Tensors], axes: Mapping[str, int | None], where: Sequence[str]) -> dict[str, LazyTensor]:
    """The whole tensors of a model from the slices of every rank, in rank order; nothing is loaded yet. `axes`: name ->
    the axis along which it is split; None: every rank holds it whole. `where` names the ranks' files. `UserError` for
    dtypes that differ, and on loading for copies that differ or a file that is a copy of another rank's."""
    result, distinct = {}, CopySearch()
    for name, first in ranks[0].items():
        pieces = [rank[name] for rank in ranks]
        check_alike(name, pieces, where, "checkpoint")
        axis = axes.get(name)
        if axis is None and len(pieces) > 1:
            result[name] = _same(name, pieces, where)
        else:
            axes_of = range(len(first.shape))
            cells = {tuple(rank * (k == axis) for k in axes_of): piece for rank, piece in enumerate(pieces)}
            result[name] = distinct.joined(name, cells, where)
    return result


@dataclass(frozen=True)
class TensorStrategy:
    """How one parameter is sharded over a stage's grid of `devices`, rank = row-major index (MindSpore's dev_matrix).
    `split_axes`: for each axis of the tensor the grid axes that shard it, most significant first. `shards`: how many
    replicas share each slice along axis 0. `shape`: of the whole parameter, if the file records it."""

    stage: int
    devices: tuple[int, ...]
    split_axes: tuple[tuple[int, ...], ...]
    shards: int = 1
    shape: tuple[int, ...] | None = None

    @property
    def pieces(self) -> tuple[int, ...]:
        counts = [math.prod(self.devices[k] for k in axes) for axes in self.split_axes]
        return (counts[0] * self.shards, *counts[1:]) if counts else ()

    def cell(self, rank: int) -> tuple[int, ...]:
        """Index of the shard, along each axis, that the `rank`-th device of the stage holds. Replicas are numbered
        row-major over the grid axes that shard nothing; `shards` neighbours share a slice."""
        coordinates = np.unravel_index(rank, self.devices) if self.devices else ()
        used = {k for axes in self.split_axes for k in axes}
        cell = [_mixed((coordinates[k], self.devices[k]) for k in axes) for axes in self.split_axes]
        replica = _mixed((coordinates[k], size) for k, size in enumerate(self.devices) if k not in used)
        return (cell[0] * self.shards + replica % self.shards, *cell[1:]) if cell else ()


Strategy = Mapping[str, Sequence[TensorStrategy]]  # parameter -> one for each stage that has it
Cell = tuple[int, ...]  # index of a shard along each axis


def _mixed(digits: Iterable[tuple[Any, int]]) -> int:
    value = 0
    for digit, base in digits:
        value = value * base + int(digit)
    return value


def _tensor_strategy(name: str, stage: int, raw: Mapping[str, Any]) -> TensorStrategy:
    """A parameter's entry, checked; raises `ValueError` with what is wrong with it."""
    devices, shards, step = tuple(raw["dev_matrix"]), raw["opt_weight_shard_size"], raw["opt_weight_shard_step"]
    nested = [axes if isinstance(axes, (list, tuple)) else [axes] for axes in raw["tensor_map"]]
    shape = checked_shape(raw["tensor_shape"], name) if "tensor_shape" in raw else None
    if not all(type(n) is int for n in (*devices, shards, step, *itertools.chain(*nested))):
        raise ValueError(f"the layout of {name} holds something other than numbers")
    if len(devices) > MAX_AXES or any(size < 1 for size in devices) or math.prod(devices) > 1 << 20:
        raise ValueError(f"{name} is on a grid {list(devices)} of devices")
    if len(nested) > MAX_AXES:
        raise ValueError(f"{name} has {len(nested)} axes, expected at most {MAX_AXES}")
    if raw.get("param_split_shape") or raw.get("indices_offset") or raw.get("field"):
        raise ValueError(f"{name} is split into unequal parts, which is not supported")
    split_axes = tuple(tuple(len(devices) - 1 - axis for axis in axes if axis != -1) for axes in nested)
    used = [axis for axes in split_axes for axis in axes]
    if len(set(used)) != len(used) or any(not 0 <= axis < len(devices) for axis in used):
        raise ValueError(f"the tensor map {raw['tensor_map']} of {name} does not fit devices {list(devices)}")
    shards = _shards(name, devices, used, shards, step)
    if shards > 1 and not split_axes:
        raise ValueError(f"{name} is a single number and cannot have {shards} optimizer shards")
    return TensorStrategy(stage, devices, split_axes, shards, shape)


def _shards(name: str, devices: tuple[int, ...], used: list[int], shards: int, step: int) -> int:
    free = [axis for axis, size in enumerate(devices) if axis not in used and size > 1]
    replicas = math.prod(devices[axis] for axis in free)
    shards = 1 if not step or not shards else replicas if shards == -1 else shards
    if shards < 1 or replicas % shards:
        raise ValueError(f"{replicas} replicas of {name} cannot have {shards} optimizer shards")
    if shards > 1 and step != math.prod(devices[free[-1] + 1 :]):  # from one replica to the next
        raise ValueError(f"optimizer shards of {name} are {step} ranks apart on devices {list(devices)}")
    return shards


def _layout(reader: WireReader, value: Value) -> dict[str, Any]:
    fields = reader.message(value, range(1, 1 + len(_LISTS) + len(_NUMBERS)))
    layout: dict[str, Any] = {}
    for number, name in enumerate((*_LISTS, *_NUMBERS), 1):
        if name in _NUMBERS:
            (layout[name],) = reader.integers([only(fields[number], name)])
            continue
        lists = [reader.integers(reader.message(item, (LIST_DIM,))[LIST_DIM]) for item in fields[number]]
        several = name == "tensor_map" and len(lists) > 1
        layout[name] = [list(axes) for axes in lists if axes] if several else tuple(itertools.chain(*lists))
    return layout


def _protobuf(path: Path) -> tuple[WireReader, dict[int, list[Value]]]:
    with opened(path) as stream:
        data = limited(stream, path, MAX_STRATEGY_BYTES)
    reader = WireReader(io.BytesIO(data))
    return reader, reader.message(range(len(data)), (1, STRATEGY_ITEM, LAYOUT_ITEM))


def _read_protobuf(path: Path) -> tuple[set[int], list[tuple[str, dict[str, Any]]]]:
    (reader, fields), stages, layouts = _protobuf(path), set(), []
    for item in fields[STRATEGY_ITEM]:
        content = only(reader.message(item, (ITEM_NAME, ITEM_CONTENT))[ITEM_CONTENT], "an operator's strategy")
        stages.add(reader.integers([only(reader.message(content, (STAGE, 2))[STAGE], "a stage")])[0])
    for item in fields[LAYOUT_ITEM]:
        parts = reader.message(item, (ITEM_NAME, ITEM_CONTENT))
        name = reader.text(only(parts[ITEM_NAME], "a parameter's name"))
        layouts.append((name, _layout(reader, only(parts[ITEM_CONTENT], f"the layout of {name}"))))
    return stages, layouts


def check_strategy(path: Path) -> None:
    """`UserError` for a file that is cut short or is no strategy file by its fields; `read_strategy` demands more."""
    try:
        reader, fields = _protobuf(path)
        for item in (*fields[STRATEGY_ITEM], *fields[LAYOUT_ITEM]):
            parts = reader.message(item, (ITEM_NAME, ITEM_CONTENT))
            reader.text(only(parts[ITEM_NAME], "a name"))
    except (ValueError, TypeError) as error:  # WireError is a ValueError
        raise damaged(path, f"not a strategy file MindSpore saved, or damaged ({error})") from None


def _read_json(path: Path) -> tuple[set[int], list[tuple[str, dict[str, Any]]]]:
    content = read_json(path)
    stages = {item["stage"] for item in content.get("parallel_strategy_item", {}).values()}
    return stages, list(content.get("parallel_layout_item", {}).items())


def read_strategy(paths: Path | Sequence[Path]) -> dict[str, list[TensorStrategy]]:
    """The layouts in one or several strategy files: of a rank, of each stage, or merged by MindSpore. Equal files are
    one. `UserError` naming the file that is not a strategy, has unequal parts, or differs from another one."""
    strategies: dict[tuple[str, int], TensorStrategy] = {}
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        path = Path(path)
        try:
            stages, layouts = (_read_json if path.suffix == ".json" else _read_protobuf)(path)
            if not all(type(stage) is int and stage >= 0 for stage in stages):
                raise ValueError("an operator's stage is not a number from 0 up")
            for name, raw in layouts:
                # MindSpore's merged files have "<stage>-" before each name
                prefix = re.match(r"(\d+)-", name)
                stage = int(prefix[1]) if prefix else min(stages, default=0)
                if not prefix and len(stages) > 1:
                    raise ValueError(f"{name} does not say which of the stages {sorted(stages)} it is on")
                name = name[prefix.end() :] if prefix else name
                strategy = _tensor_strategy(name, stage, raw)
                if strategies.setdefault((name, stage), strategy) != strategy:
                    differs = f"parameter {name} of stage {stage} is sharded in another way than in an earlier file"
                    raise UserError(f"{path}: {differs}; give the strategy files of one run")
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # WireError is a ValueError
            raise damaged(path, f"not a strategy file MindSpore saved, or damaged ({error})") from None
    if not strategies:
        raise UserError(f"{paths}: no parameter's layout is in it; expected a strategy file of a partitioned run")
    result = defaultdict(list)
    for (name, _), strategy in sorted(strategies.items()):
        result[name].append(strategy)
    return dict(result)


def _rank_and_step(path: Path, directory: Path) -> tuple[int, tuple[int, ...]] | None:
    named, folder = _NAMED.search(path.stem), _PLAIN.search(path.parent.name) if path.parent != directory else None
    rank = folder or named or _PLAIN.search(path.stem)
    step = re.search(_STEP + "$", path.stem)
    return (int(rank["rank"]), tuple(map(int, step["step"].split("_"))) if step else ()) if rank else None


def rank_of(path: Path) -> int | None:
    return (_rank_and_step(path, path.parent) or (None,))[0]


def find_rank_files(directory: Path) -> dict[int, Path]:
    """The checkpoint of each rank in a directory: `rank_R/*.ckpt`, or `<prefix>R-<step>.ckpt` and `rank_R.ckpt` in it,
    or the same in MindSpore's other format, `.safetensors`, without strategy files (`*strategy*`); of several steps the
    highest. `UserError` if there is none, not every rank has that step, or a rank has several files."""
    directory = Path(directory)
    by_step: dict[tuple[int, ...], dict[int, list[Path]]] = defaultdict(lambda: defaultdict(list))
    patterns = (f"{folder}[!.]*{suffix}" for folder in ("", "*rank*/") for suffix in (".ckpt", ".safetensors"))
    for path in sorted(path for pattern in patterns for path in directory.glob(pattern)):
        rank_and_step = _rank_and_step(path, directory)
        if rank_and_step is not None and "strategy" not in path.stem.lower():
            by_step[rank_and_step[1]][rank_and_step[0]].append(path)
    if not by_step:
        names = "rank_0/*.ckpt, rank_1/*.ckpt ... or model0-50.ckpt, model1-50.ckpt ..."
        raise UserError(f"{directory}: no checkpoint of a rank is there; give a folder with {names}")
    newest = max(by_step)
    if (newest and () in by_step) or any(ranks.keys() - by_step[newest].keys() for ranks in by_step.values()):
        steps = ", ".join("_".join(map(str, step)) or "none" for step in sorted(by_step))
        raise UserError(f"{directory}: holds checkpoints of several steps ({steps}); leave only one there")
    ranks = dict(sorted(by_step[newest].items()))
    for rank, (path, *others) in ranks.items():
        if others:
            both = f"{path.name} and {others[0].name} are both of rank {rank}"
            raise UserError(f"{directory}: {both}; leave only one there")
        check_file(directory, str(path.relative_to(directory)))
    return {rank: path for rank, (path,) in ranks.items()}


@lru_cache(maxsize=256)  # a few kinds of layouts, thousands of parameters
def _places(layout: TensorStrategy) -> dict[Cell, list[int]]:
    places, devices = defaultdict(list), math.prod(layout.devices)
    for k in range(devices):
        places[layout.cell(k)].append(layout.stage * devices + k)
    return dict(places)


class _Files:
    """The checkpoints of ranks, each opened when the first tensor of it is wanted."""

    def __init__(self, paths: Mapping[int, Path], keep: Callable[[str], bool]) -> None:
        self.paths = {rank: Path(path) for rank, path in paths.items()}
        self.keep = keep
        self.opened: dict[int, dict[str, LazyTensor]] = {}

    def tensors(self, rank: int) -> dict[str, LazyTensor]:
        """The kept tensors of a rank's file."""
        if rank not in self.opened:
            self.opened[rank] = read_mindspore(self.paths[rank], self.keep)
        return self.opened[rank]

    def slice(self, name: str, rank: int) -> LazyTensor:
        """A rank's part of a parameter."""
        if name not in self.tensors(rank):
            lacks = f"tensor {name} is missing, of which rank {rank} holds a part by the strategy"
            raise UserError(f"{self.paths[rank]}: {lacks}; give all the files of one run")
        return self.tensors(rank)[name]

    def _holder(self, name: str, ranks: Sequence[int]) -> int:
        having = [ranks[0]] if name in self.tensors(ranks[0]) else [r for r in ranks if name in self.tensors(r)]
        return having[0] if len(having) == 1 else ranks[0]

    def holders(self, name: str, layouts: Sequence[TensorStrategy]) -> tuple[TensorStrategy, dict[Cell, int]]:
        """A stage whose files hold every part of a parameter, and the first rank with each part."""
        first_gap = None
        for layout in layouts:
            places = _places(replace(layout, shape=None))
            if len(places) != math.prod(layout.pieces):
                hold = f"devices {list(layout.devices)} hold {len(places)} of {math.prod(layout.pieces)} parts"
                raise UserError(f"the strategy of {name} is inconsistent: {hold}; copy the strategy file again")
            there = {cell: [rank for rank in ranks if rank in self.paths] for cell, ranks in places.items()}
            if all(there.values()):
                return layout, {cell: self._holder(name, there[cell]) for cell in sorted(there)}
            first_gap = first_gap or next(places[cell] for cell in sorted(there) if not there[cell])
        files = f"{next(iter(self.paths.values()))} and {len(self.paths) - 1} more files"
        of = " or ".join(map(str, first_gap[:4]))
        raise UserError(f"{files}: no file holds a part of {name}; give the checkpoint of rank {of} too")


def merge_slices(
    files: Mapping[int, Path], strategy: Strategy, keep: Callable[[str], bool] = is_weight, shards_merged: bool = False
) -> dict[str, LazyTensor]:
    """The whole tensors of a partitioned run in MindSpore's names: tensor-parallel and optimizer shards merged.
    `files`: rank -> its `.ckpt`; one of several replicas is enough. `keep(name)` drops moments and counters. With
    `shards_merged`, files of exactly the tensor-parallel ranks are taken for files whose optimizer shards were merged
    before, as in the release's step from 128 files to 8. A load reads only the parts it needs, and the first one enough
    to show that no file is a copy of another. `UserError` for a missing file or tensor, a copy, parts that differ in
    dtype or shape, or an unknown tensor. Compare shapes with the model: the strategy does not always state them."""
    if not files:
        raise UserError("no checkpoint of a rank is given; expected one for each part of the model")
    every = [(layout.devices, layout.pieces, layout.shards) for layouts in strategy.values() for layout in layouts]
    tensor_ranks = max((math.prod(pieces) // shards for _, pieces, shards in every), default=0)
    if shards_merged and len(files) == tensor_ranks < max(math.prod(devices) for devices, _, _ in every):
        strategy = {name: [replace(layout, shards=1) for layout in layouts] for name, layouts in strategy.items()}
    opened, result, distinct = _Files(files, keep), {}, CopySearch()
    for name in filter(keep, strategy):
        result[name] = _merged(name, strategy[name], opened, distinct)
    for rank, tensors in opened.opened.items():
        if unknown := [name for name in tensors if name not in strategy and not is_extra(tensors[name], name)]:
            remedy = "give the strategy file of this run, saved with all parameters"
            raise UserError(f"{opened.paths[rank]}: the strategy does not mention tensor {unknown[0]}; {remedy}")
    if not result:
        raise UserError("the strategy lists no weights; give the strategy file of this run")
    order = dict.fromkeys(name for rank in sorted(opened.opened) for name in opened.opened[rank] if name in result)
    return {name: result[name] for name in order}


def _merged(name: str, layouts: Sequence[TensorStrategy], files: _Files, distinct: CopySearch) -> LazyTensor:
    layout, holders = files.holders(name, layouts)
    parts = {cell: files.slice(name, rank) for cell, rank in holders.items()}
    where, first = [files.paths[rank] for rank in holders.values()], next(iter(parts.values()))
    check_alike(name, parts.values(), where, "run")
    if len(first.shape) != (axes := len(layout.split_axes)):
        described = f"the strategy describes one of {axes} axes; give the strategy file of this run"
        raise UserError(f"{where[0]}: tensor {name} has shape {list(first.shape)}, {described}")
    whole = distinct.joined(name, parts, list(map(str, where)))
    if layout.shape is not None and layout.shape != whole.shape:
        part = f"tensor {name} of shape {list(first.shape)} is one of {list(layout.pieces)} parts"
        recorded = f"the strategy records {list(layout.shape)}"
        raise UserError(f"{where[0]}: {part} of {list(whole.shape)}, but {recorded}; give the files of one run")
    return whole
