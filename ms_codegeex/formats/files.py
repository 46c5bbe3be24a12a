"""What users name as a model, a file or a folder of any program, and the way from it to files of weights.

`layouts.yaml` declares all that is recognised: each is read, leads to a place below it, or is refused with a remedy."""

from __future__ import annotations

import functools
import re
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.json_reading import MalformedText, parse_json
from ms_codegeex.base.quarantine import admit, check_file, entries, is_weights
from ms_codegeex.base.reading import json_of, open_regular, place_inside, read_inside
from ms_codegeex.base.shipped import shipped_table
from ms_codegeex.formats.checkpoint import MANIFEST, list_checkpoints, resolve
from ms_codegeex.formats.layout import shown
from ms_codegeex.formats.mindspore_checkpoint import (
    is_training_state,
    is_weight,
    read_mindspore,
    read_origin,
    read_texts,
    state_table,
)
from ms_codegeex.formats.model_directory import BEGINNING, CONFIG, mistaken, read_weights, weight_files
from ms_codegeex.formats.safetensors_file import is_safetensors
from ms_codegeex.formats.strategy import MAX_STRATEGY_BYTES, find_rank_files, merge_slices, rank_of, read_strategy
from ms_codegeex.formats.tensors import LazyTensor, check_coverage, checked_shape, damaged, dtype_name, gather, open_npy
from ms_codegeex.formats.torch_pickle import namespace
from ms_codegeex.formats.torch_zip import read_torch
from ms_codegeex.models.foreign import ForeignName

TORCH_SUFFIXES = (".pt", ".pth", ".bin")
MINDSPORE_SUFFIXES = (".ckpt", ".safetensors")
_SUFFIXES = (*TORCH_SUFFIXES, ".pth.tar", *MINDSPORE_SUFFIXES)
GGUF_SUFFIX, GGUF_MAGIC = ".gguf", b"GGUF"
_ZIP = b"PK"  # how PyTorch's files begin
_MEGATRON_RANK = re.compile(r"mp_rank_(\d+)(?:_(\d{3})(?!\d))?(?:_(\d{3})(?!\d))?")
_BLOCK = re.compile(r"(?<=\blayers\.)\d+|(?<=\bh\.)\d+")
RECORD = "ms_codegeex"  # in our own `.pt` files: a JSON object
_RANK, _RANKS = "tensor_parallel_rank", "tensor_model_parallel_size"
_SCALED_SCORES = "apply_query_key_layer_scaling"  # with it, Megatron's softmax is FP32 whatever its own argument says
_EMA = re.compile(r"(.*_)?ema(_.*)?")  # averages of the weights
# Folders named after a step, and what transformers' Trainer leaves in them
_STEP_FOLDER = r"(?:iter(?:ation)?_|global_step|version_|(?:checkpoint|epoch|step)[-_])(\d{1,18})"
_TRAINER = "trainer_state.json"
_MAX_NESTING = 16  # a checkpoint nests five levels; a malicious one may contain itself
_MAX_STEPS = 8  # from what the user names down to the weights
_MAX_POINTER_BYTES = 256  # bytes of a file that names a folder
# What messages say about files beside the weights: whether they are training state, and the words around their names.
_OVER = (
    (False, "passed over", ""),
    (True, "left out, state of a training run ({})", "; training from here begins with a new optimizer"),
)
# mindformers' description of the files of ranks; its bytes, and the parts of a tensor
_CHUNKS, _MAX_CHUNKS_BYTES, _MAX_CHUNKS = "metadata.json", 1 << 28, 4096


@dataclass(frozen=True)
class RawModel:
    """The tensors of every rank under their foreign names. `where`: the file of each rank. `kind`: "megatron",
    "mindspore", or None if only the names can show it. `recorded`: sizes that the file states. `skipped`: names of
    tensors that are not parameters. `files`: all that were opened. `record`: what `convert` has put into them."""

    ranks: Sequence[Mapping[ForeignName, LazyTensor]]
    where: Sequence[str]
    kind: str | None = None
    recorded: Mapping[str, Any] = field(default_factory=dict)
    skipped: Sequence[str] = ()
    files: Sequence[Path] = ()
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """A file, with its `beginning`, or a folder and what it holds, on the way from the user's `root` to the weights."""

    root: Path
    path: Path
    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    beginning: bytes | None = None

    @classmethod
    def at(cls, root: Path, path: Path) -> Place:
        """The place at `path`, without what is hidden. `UserError` for a link out of the root and too many entries."""
        if path != root:
            place_inside(root, str(path.relative_to(root)))
        if path.is_dir():
            files = (name for name in entries(path) if name[0] != "." or name == ".metadata")  # FSDP's
            folders = (name for name in entries(path, folders=True) if name[0] != "." and name != "__MACOSX")
            return cls(root, path, tuple(files), tuple(folders))
        if not path.exists():
            raise UserError(f"{path}: no such file or directory; expected {_EXPECTED}")
        if path != root:
            check_file(root, str(path.relative_to(root)))
        with open_regular(path) as stream:
            return cls(root, path, beginning=stream.read(BEGINNING))

    @property
    def folder(self) -> Path:
        return self.path if self.beginning is None else self.path.parent

    @property
    def candidates(self) -> list[str]:
        names = (name for name in self.files if name.endswith(_SUFFIXES))
        return [name for name in names if not is_training_state("files", name)]

    def begins(self, text: bytes) -> bool:
        return self.beginning is not None and self.beginning.startswith(text)


@dataclass(frozen=True)
class Layout:
    """One thing that a file or folder can be: a row of `layouts.yaml`, which describes the fields. `found(place)`:
    something true if it is this. `read(place, found)`: its tensors."""

    name: str
    source: str
    recognised: str
    found: Callable[[Place], Any]
    read: Callable[[Place, Any], RawModel] | None = None
    key: str = ""
    below: bool = False
    refused: str = ""


@dataclass(frozen=True)
class FoundModel:
    """What the user named: its layout, the place that it led to, what was found there, and the folders on the way."""

    layout: Layout
    place: Place
    what: Any
    way: tuple[Place, ...]

    @property
    def configured(self) -> Path | None:
        folders = (self.place.folder, *(place.path for place in reversed(self.way)))
        return next((folder for folder in folders if (folder / CONFIG).is_file()), None)

    def passed_over(self, used: Collection[Path]) -> list[str]:
        """Where the weights are, if in a folder below, and what there is besides the files that are used: a line on the
        way to that folder, and one on what is in it."""
        if not self.way:
            return []
        root, parents = self.place.root, {parent for file in used for parent in file.parents}
        folders = [place.path for place in self.way]
        folders += sorted(parent for parent in parents if root in parent.parents and parent not in folders)
        over = [folder / name for folder in folders for name in entries(folder) if name.endswith(_SUFFIXES)]
        numbered = (place.path / name for place in self.way for name in place.folders if _NUMBERED.fullmatch(name))
        over = [path for path in (*over, *numbered) if path not in used and path not in parents and path not in folders]
        inner, lines = self.place.folder, []
        below = f"the weights are in {inner.relative_to(root)}" if inner != root else ""
        for folder in dict.fromkeys((root, inner)):
            here = [path for path in over if (inner in path.parents) == (folder == inner)]
            said = [below if folder == root else ""]
            for state, before, after in _OVER:
                its = [path for path in here if is_training_state("files", path.name) == state]
                names = [str(path.relative_to(folder)) for path in its]
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                said += [f"{before.format(len(names))}: {', '.join(names[:3])}{more}{after}"] if names else []
            lines += [f"{folder}: {'; '.join(filter(None, said))}"] if any(said) else []
        return lines


def find_model(path: Path) -> FoundModel:
    """Follows what the user named down to the weights. `UserError` if no row of `layouts` matches or one refuses it."""
    root = Path(path)
    place, way = Place.at(root, root), ()
    for _ in range(_MAX_STEPS):
        layout, what = next(((each, what) for each in layouts() if (what := each.found(place))), (None, None))
        way += (place,) if place.beginning is None else ()
        if layout is None:
            break
        if layout.below:
            place = Place.at(root, place.path / what)
        elif layout.refused:
            file = place.folder / what if isinstance(what, str) else place.path
            quoted = {"path": place.path, "folder": place.folder, "file": file}
            quoted = {name: shlex.quote(str(each)) for name, each in quoted.items()}
            raise UserError(f"{place.path}: {layout.refused.format(found=what, **quoted)}")
        else:
            return FoundModel(layout, place, what, way)
    listed = ", ".join(place.files[:3]) + ", ..." * (len(place.files) > 3)
    raise UserError(f"{place.path}: {f'no weights are there ({listed})' if listed else _NOTHING}; expected {_EXPECTED}")


def chosen_place(path: Path, which: str | None) -> Path:
    """The place in the folder of a run that `--checkpoint` names: `last`, `best` or a step; `path` itself for None.
    `UserError` if there is none."""
    if which is None:
        return path
    if which not in ("last", "best") and not re.fullmatch(r"\d{1,18}", which):
        raise UserError(f"--checkpoint: found {which}, expected last, best or the number of a step")
    place = Place.at(path, path)
    if MANIFEST not in place.files and _is_run(place):
        return resolve(path, which).path
    numbered = {int(match[1]): name for name in place.folders if (match := re.fullmatch(_STEP_FOLDER, name))}
    if which == "best":
        known = [name for name in place.folders if re.search(r"(?<![a-z])best(?![a-z])", name)]
        name = _best_of_trainer(place) or (known[0] if len(known) == 1 else None)
    else:
        name = numbered.get(max(numbered, default=-1) if which == "last" else int(which))
    if name is None:
        there = f"has the folders {', '.join(place.folders)}" if place.folders else "is not the folder of a run"
        raise UserError(f"--checkpoint {which}: {path} {there}; leave it out, or name one of a run with --model")
    return place.path / name


def nested_tensors(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[ForeignName, LazyTensor]]:
    """The tensors of nested dictionaries and lists with the path to each; a path of one name is that name."""
    if len(path) > _MAX_NESTING:
        raise UserError(f"{' -> '.join(path)}: nested too deep for a state dict; save the state dict alone")
    if isinstance(tree, LazyTensor):
        yield (path[0] if len(path) == 1 else path), tree
    elif isinstance(tree, Mapping | list | tuple):  # no list has parameters; the caller reports one that has
        for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from nested_tensors(value, (*path, str(key)))


def rank_record(rank: int, ranks: int) -> dict[str, int]:
    return {_RANK: rank, _RANKS: ranks}


def _check_rank(recorded: Mapping[str, Any], rank: int, ranks: int, where: str) -> None:
    """`UserError` for a file that was written for another rank, or for another number of ranks."""
    said = (recorded.get(_RANK, rank), recorded.get(_RANKS, ranks))
    if said != (rank, ranks):
        actual = f"rank {rank} of {ranks}" if ranks > 1 else "the only file"
        remedy = "copy all the files of one model again, each under its own name, and give their folder"
        raise UserError(f"{where}: was written as rank {said[0]} of {said[1]}, and here it is {actual}; {remedy}")


def _megatron_sizes(tree: Mapping[Any, Any]) -> dict[str, Any]:
    config, arguments = tree.get("config"), tree.get("args")
    arguments = arguments if isinstance(arguments, dict) else namespace(arguments) or {}
    named = state_table()["arguments"].items()
    sizes = {ours: arguments[name] for ours, name in named if arguments.get(name) is not None}
    if arguments.get(_SCALED_SCORES) is True:
        sizes["softmax_fp32"] = True
    sizes |= config if isinstance(config, dict) else {}
    return {name: value for name, value in sizes.items() if type(value) in (int, float, bool, str)}


def _model_tensors(tree: Mapping[Any, Any], file: Path) -> tuple[dict[ForeignName, LazyTensor], list[str]]:
    if "model0" in tree:
        raise UserError(f"{file}: holds the chunks of an interleaved pipeline; save it again with a single stage")
    found = dict(nested_tensors(tree))
    roots = {name: _root(tree, name) for name in found}
    numbers = {name for name, tensor in found.items() if not tensor.shape and name == roots[name]}  # a loss, a step
    state = numbers | {name for name, root in roots.items() if is_training_state("keys", root)}
    if len(state) == len(found):  # averages of the weights, if there is nothing else
        state -= {name for name in state - numbers if _EMA.fullmatch(roots[name])}
    return {name: found[name] for name in found if name not in state}, [shown(name) for name in found if name in state]


def _root(tree: Any, name: ForeignName) -> str:
    path = _path(name)
    for key in path[:-1] or path:
        if key == "state" and "param_groups" in tree:
            return "optimizer"
        if is_training_state("keys", part := key.partition(".")[0]):
            return part
        tree = (tree[int(key)] if isinstance(tree, list | tuple) else tree.get(key)) or {}
    return path[0].partition(".")[0]


def _joined(stages: Sequence[Mapping[ForeignName, LazyTensor]], files: Sequence[Path]) -> dict[ForeignName, LazyTensor]:
    tensors, first = dict(stages[0]), 0
    for number, (stage, file) in enumerate(zip(stages, files, strict=True)):
        blocks = [int(block[0]) for name in stage if (block := _BLOCK.search(".".join(_path(name))))]
        shift = first if blocks and min(blocks) < first else 0
        for name, tensor in stage.items() if number else ():
            path = tuple(_BLOCK.sub(lambda block, by=shift: str(int(block[0]) + by), part) for part in _path(name))
            if "word_embeddings_for_head" in path:  # the copy of the first stage's table
                continue
            if tensors.setdefault(path if isinstance(name, tuple) else path[0], tensor) is not tensor:
                raise UserError(f"{file}: {shown(name)} is in an earlier stage too; give the stages of one model")
        first = shift + max(blocks, default=first - shift - 1) + 1
    return tensors


def _path(name: ForeignName) -> tuple[str, ...]:
    return (name,) if isinstance(name, str) else name


def _read_torch(_place: Place, ranks: Sequence[Sequence[Path]]) -> RawModel:
    parts, skipped, recorded, record = [], [], {}, {}
    for rank, files in enumerate(ranks):
        trees = [read_torch(file) for file in files]
        for tree, file in zip(trees, files, strict=True):
            if not isinstance(tree, Mapping):
                raise UserError(f"{file}: holds no dictionary of tensors; save the model's state dict")
            _check_rank(_megatron_sizes(tree), rank, len(ranks), str(file))
        stages, states = zip(*map(_model_tensors, trees, files), strict=True)
        parts.append(_joined(stages, files))
        if not rank:
            skipped, recorded = [name for state in states for name in state], _megatron_sizes(trees[0])
            record = _record(trees[0].get(RECORD), str(files[0]))
    opened = [file for files in ranks for file in files]
    return RawModel(parts, [str(files[0]) for files in ranks], None, recorded, skipped, opened, record)


def _record(text: Any, where: str) -> dict[str, Any]:
    try:
        record = parse_json(text) if isinstance(text, str) else {}
    except MalformedText as error:
        raise UserError(f"{where}: {RECORD}: {error}; convert the model again") from None
    return record if isinstance(record, dict) else {}


def _weights(tensors: Mapping[str, LazyTensor], path: Path, kind: str | None, files: Sequence[Path] = ()) -> RawModel:
    weights = {name: tensor for name, tensor in tensors.items() if is_weight(name)}
    skipped = [name for name in tensors if name not in weights] + (read_texts(path) if path.is_file() else [])
    return RawModel([weights], [str(path)], kind, skipped=skipped, files=files or [path])


def _in_order(numbered: Mapping[int, Any], where: Path, what: str = "rank") -> list[Any]:
    """The values of ranks 0, 1, ... in order; `UserError` naming the first missing rank."""
    ranks = sorted(numbered)
    for expected, rank in enumerate(ranks):  # a file's name may hold any number, such as a date: make no list of it
        if rank != expected:
            lacks = f"no file of {what} {expected}, though there is one of {ranks[-1]}"
            raise UserError(f"{where}: {lacks}; copy all files of the ranks")
    return [numbered[rank] for rank in ranks]


def _megatron_ranks(place: Place) -> list[list[Path]]:
    numbered: dict[int, dict[int, Path]] = {}
    own = {*place.candidates}
    for name in sorted({*place.files, *place.folders}):
        if (match := _MEGATRON_RANK.match(name)) is None:
            continue
        rank, stage, inner = int(match[1]), int(match[2] or 0), [name] if name in own else []
        if name in place.folders:
            inner = [f"{name}/{file}" for file in Place.at(place.root, place.path / name).candidates]
        if not inner:
            continue
        stages = numbered.setdefault(rank, {})
        if (count := len(inner) + (stage in stages)) != 1:
            raise UserError(f"{place.path / name}: rank {rank} has {count} files; leave only one there")
        check_file(place.path, inner[0])
        stages[stage] = place.path / inner[0]
    return [_in_order(stages, place.path, "pipeline stage") for stages in _in_order(numbered, place.path)]


def _read_mindspore_ranks(place: Place, _found: Any) -> RawModel:
    directory, files = place.path, find_rank_files(place.path)
    found = (path for path in directory.rglob("*strategy*") if path.suffix in (*MINDSPORE_SUFFIXES, ".json"))
    strategies = sorted(path for path in found if path.is_file() and path.name[0] != ".")
    for path in strategies:
        check_file(directory, str(path.relative_to(directory)), MAX_STRATEGY_BYTES)
    if strategies:
        merged = merge_slices(files, read_strategy(strategies), shards_merged=True)  # shapes are checked by the caller
        skipped = [name for name in read_mindspore(next(iter(files.values()))) if name not in merged]
        return RawModel([merged], [str(directory)], "mindspore", {}, skipped, [*files.values(), *strategies])
    parts = []
    for rank, file in enumerate(_in_order(files, directory)):
        origin = read_origin(file) or {}
        _check_rank(origin, rank, len(files), str(file))
        parts.append(_marked(_weights(read_mindspore(file), file, "mindspore"), origin))
    items = [item for part in parts for item in part.ranks[0].items()]
    held = Counter(name for name, tensor in items if tensor.size > 1)
    if len(parts) > 1 and max(held.values(), default=0) == 1:  # each has other tensors: saved without redundancy
        return replace(parts[0], ranks=[dict(items)], where=[str(directory)], files=[*files.values()])
    ranks, where = [part.ranks[0] for part in parts], [part.where[0] for part in parts]
    return replace(parts[0], ranks=ranks, where=where, files=[*files.values()])


def _marked(raw: RawModel, origin: Mapping[str, Any]) -> RawModel:
    config = origin.get("config")
    return replace(raw, recorded=config if isinstance(config, dict) else {}, record=origin)


def _read_mindformers(place: Place, first: str) -> RawModel:
    names = [name for name in place.files if name.endswith(".safetensors")]
    for name in names:
        check_file(place.path, name)
    if _CHUNKS not in place.files:
        if not first.endswith("-0000001.safetensors"):
            lacks = "no such file, which says how to join the files of ranks"
            remedy = f"copy it too, or give {place.path / first} if each rank has the whole model"
            raise UserError(f"{place.path / _CHUNKS}: {lacks}; {remedy}")
        return _weights(read_mindspore(place.path / first), place.path, "mindspore", [place.path / first])
    files = {name: read_mindspore(place.path / name) for name in names}
    tensors, taken = dict[str, LazyTensor](), dict[tuple[str, str], str]()
    described = json_of(read_inside(place.path, _CHUNKS, _MAX_CHUNKS_BYTES), place.path / _CHUNKS)
    try:
        stored = described["storage_data"]
        for name, tensor in described["state_dict_metadata"].items():
            chunks = []
            for chunk in tensor["chunk"] if is_weight(name) else ():
                key, shape = str((name, (*chunk["global_offset"],))), (*chunk["local_shape"],)
                file = stored[key][0]["file_name"].removesuffix(".safetensors") + ".safetensors"
                if file not in files or name not in files[file] or taken.setdefault((file, name), key) != key:
                    raise UserError(f"{place.path / file}: has no part of {name} at {key}; copy all files of the ranks")
                part = files[file][name]
                if part.shape != shape:
                    wrong = f"its part of {name} is {list(part.shape)}, {_CHUNKS} says {list(shape)}"
                    raise UserError(f"{place.path / file}: {wrong}; give the files of one checkpoint")
                chunks.append({"offset": [*chunk["global_offset"]], "shape": [*shape], "tensor": part})
            if chunks:
                tensors[name] = _of_chunks(name, tensor["global_shape"], chunks, place.path / _CHUNKS)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise damaged(place.path / _CHUNKS, f"not mindformers' description of a checkpoint ({error!r})") from None
    known = {name for _, name in taken}
    for file, held in files.items():
        if extra := next((name for name in held if is_weight(name) and name not in known), None):
            wrong = f"holds {extra}, which {_CHUNKS} does not name"
            raise UserError(f"{place.path / file}: {wrong}; give one checkpoint's files")
    skipped = [name for name in described["state_dict_metadata"] if not is_weight(name)]
    used = [place.path / name for name in sorted({file for file, _ in taken} | {_CHUNKS})]
    return RawModel([tensors], [str(place.path)], "mindspore", skipped=skipped, files=used)


def _of_chunks(name: str, shape: Sequence[int], chunks: Sequence[Mapping[str, Any]], where: Path) -> LazyTensor:
    """A tensor of its parts, each with `offset`, `shape` and `tensor`. `UserError` unless they cover it exactly."""
    if len(chunks) > _MAX_CHUNKS:
        many = f"has {len(chunks)} parts, and at most {_MAX_CHUNKS} are joined"
        raise UserError(f"{where}: tensor {name} {many}; save it with fewer ranks")
    check_coverage(name, {"shape": [*checked_shape(shape, name)], "slices": chunks}, str(where))
    dtype, *others = sorted({chunk["tensor"].dtype for chunk in chunks})
    if others:
        raise UserError(f"{where}: the parts of {name} are {dtype} and {others[0]}; give the files of one checkpoint")

    return LazyTensor(dtype, (*shape,), lambda: gather(shape, dtype, None, chunks))


def _read_npy_folder(place: Place, _found: Any) -> RawModel:
    tensors, files = {}, [place.path / name for name in place.files if name.endswith(".npy")]
    for file in files:
        check_file(place.path, file.name)
        array = open_npy(file)
        try:
            dtype = dtype_name(array)
        except ValueError as error:
            raise UserError(f"{file}: {error}; save it as float32") from None
        tensors[file.stem] = LazyTensor(dtype, array.shape, lambda file=file: open_npy(file))
    return _weights(tensors, place.path, "mindspore", files)


def gguf_file(path: Path) -> Path | None:
    """`path` if it is a GGUF file, or the one in a folder that has no other weights; else None."""
    if not path.is_dir():
        return path if is_gguf(path) else None
    found = [name for name in entries(path) if is_weights(name)]
    return path / found[0] if len(found) == 1 and is_gguf(path / found[0]) else None


def is_gguf(path: Path) -> bool:
    """Whether `path` is a regular file that begins as GGUF does, or has its suffix."""
    if not path.is_file() or path.suffix == GGUF_SUFFIX:
        return path.is_file()
    with suppress(OSError), open_regular(path) as stream:
        return stream.read(len(GGUF_MAGIC)) == GGUF_MAGIC
    return False


def _read_file(place: Place, _found: Any) -> RawModel:
    path, kind = place.path, None if is_safetensors(place.path) else "mindspore"
    if place.begins(_ZIP) or (kind and path.suffix in TORCH_SUFFIXES):
        return _read_torch(place, [[path]])
    origin = read_origin(path) or {}
    _check_rank(origin, 0, 1, str(path))
    return _marked(_weights(read_mindspore(path), path, kind), origin)


def _shards(place: Place) -> tuple[str, ...]:
    return weight_files(place.folder, None if place.beginning is None else place.path.name)


def _many_shards(place: Place) -> tuple[str, ...]:
    names = _shards(place)
    return names if len(names) > 1 or "".join(names).endswith(".json") else ()


def _read_shards(place: Place, names: tuple[str, ...]) -> RawModel:
    admit(place.folder)
    tensors, files, unlisted = read_weights(place.folder, names)
    used = [place.folder / name for name in dict.fromkeys((*files.values(), *names))]
    return RawModel([tensors], [str(place.folder)], skipped=unlisted, files=used)


def _only(place: Place) -> str | None:
    names = (_shards(place) or place.candidates) if place.beginning is None else ()
    return names[0] if len(names) == 1 and not _is_ranks(place) else None


def _named_by(place: Place, file: str, numbered: Sequence[str] = ()) -> str | None:
    """The folder that a small file names, perhaps by a number. `UserError` if it names anything else."""
    if file not in place.files:
        return None
    name = read_inside(place.path, file, _MAX_POINTER_BYTES).decode("ascii", "replace").strip()
    names = [each.format(int(name)) for each in numbered if re.fullmatch(r"\d{1,18}", name)] or [name]
    if (found := next(filter(place.folders.__contains__, names), None)) is None:
        there = f"one that is, such as {place.path / place.folders[-1]}" if place.folders else "another folder"
        either = " or ".join(repr(each[:60]) for each in names)
        raise UserError(f"{place.path / file}: names {either}, which is not beside it; give {there}")
    return found


def _newest(place: Place, pattern: str = _STEP_FOLDER) -> str | None:
    matches = [match for name in (*place.folders, *place.files) if (match := re.fullmatch(pattern, name))]
    return max(matches, key=lambda match: int(match[1]))[0] if matches else None


def _results(place: Place, words: str = "") -> str | None:
    if _newest(place) is None:
        return None
    others = [each for each in place.folders if not re.fullmatch(_STEP_FOLDER, each) and _has_weights(place, each)]
    if not words:
        return ", ".join(others) or None
    return others[0] if len(others) == 1 and re.search(rf"(?<![a-z])({words})(?![a-z])", others[0]) else None


def _has_weights(place: Place, name: str) -> bool:
    inner = Place.at(place.root, place.path / name)
    return bool(inner.candidates or MANIFEST in inner.files)


def _best_of_trainer(place: Place) -> str | None:
    if (newest := _newest(place)) is None or _TRAINER not in entries(place.path / newest):
        return None
    state: Any = None
    with suppress(UserError):  # a damaged file is no record
        state = json_of(read_inside(place.path / newest, _TRAINER, _MAX_CHUNKS_BYTES), place.path / newest / _TRAINER)
    name = Path(str(state.get("best_model_checkpoint"))).name if isinstance(state, dict) else ""
    return name if name in place.folders and _has_weights(place, name) else None


def _first(place: Place, pattern: str, alone: bool = False) -> str | None:
    names = (place.path.name,) if alone and place.beginning is not None else place.files
    return next(filter(re.compile(pattern).fullmatch, names), None)


def _is_file_of_tensors(place: Place) -> bool:
    known = place.path.suffix in _SUFFIXES or place.begins(_ZIP) or place.begins(b"\n")
    return place.beginning is not None and (known or is_safetensors(place.path))


def _is_run(place: Place) -> bool:
    inner = place.path / "checkpoints"
    inside = "checkpoints" in place.folders and ("config.yaml" in place.files or list_checkpoints(inner))
    return bool(MANIFEST in place.files or inside or list_checkpoints(place.path))


def _is_ranks(place: Place) -> bool:
    inside = (file for name in place.folders if "rank" in name for file in entries(place.path / name))
    names = place.candidates if len(place.candidates) > 1 else ()
    of_ranks = all(name.endswith(".ckpt") or ("rank" in name and name.endswith(".safetensors")) for name in names)
    ranks = {rank_of(place.path / name) for name in names if of_ranks}
    beside = None not in ranks and (len(ranks) > 1 or 0 in ranks)
    return beside or any(file.endswith(MINDSPORE_SUFFIXES) for file in inside)


def _around(place: Place, pattern: str) -> str | None:
    known = [name for name in place.folders if re.fullmatch(pattern, name)]
    return known[0] if len(known) == 1 else place.folders[0] if len(place.folders) == 1 else None


_NOTHING = "nothing of these is there"
_EXPECTED = (
    "a run directory, a checkpoint directory, a model directory (config.json and *.safetensors or pytorch_model*.bin), "
    "a Megatron .pt file or mp_rank_XX files, a MindSpore .ckpt file or rank files, or a folder of .npy"
)
_STEPS = "iter|iteration|global_step|checkpoint|version|epoch|step"
_NUMBERED = re.compile(rf"(({_STEPS})[-_]?(\d+|best|last|final))|release|original|checkpoint")
_FINDERS = (_around, _first, _is_file_of_tensors, _is_ranks, _is_run, _many_shards, _megatron_ranks, _named_by)
FINDERS = {finder.__name__[1:]: finder for finder in (*_FINDERS, _newest, _only, _results, _best_of_trainer)} | {
    "beside": lambda place, file, folder: folder if file in place.files and folder in place.folders else None,
    "gguf": lambda place: is_gguf(place.path),
    "listed": lambda place, what: ", ".join(getattr(place, what)[:3]),
    "mistaken": lambda place: None if place.beginning is None else mistaken(place.path, place.beginning),
    "training_file": lambda place: place.beginning is not None and is_training_state("files", place.path.name),
    "with_config": lambda place: _shards(place) if (place.folder / CONFIG).is_file() else (),
}
_ALL_READERS = (_read_file, _read_mindformers, _read_mindspore_ranks, _read_npy_folder, _read_shards, _read_torch)
READERS = {reader.__name__.removeprefix("_read_"): reader for reader in _ALL_READERS}


@functools.cache
def layouts() -> tuple[Layout, ...]:
    """All that is recognised, in the order in which it is tried."""
    made, own = [], {each.name for each in fields(Layout)}
    for row in map(dict, shipped_table(Path(__file__).with_name("layouts.yaml"))):
        found, read = FINDERS[row.pop("by")], READERS.get(row.pop("read", ""))
        said = {key: row.pop(key) for key in own & row.keys()}
        made.append(Layout(**said, found=functools.partial(found, **row), read=read))
    return tuple(made)
