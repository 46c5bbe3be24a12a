"""A model directory in Hugging Face layout: `config.json`, the tokenizer's files, and the weights.

The weights are `*.safetensors`, with an index when there are several; older directories hold PyTorch pickles named
`pytorch_model*.bin` instead, which are read and never written. Shards without an index, and variants such as
`model.fp16.safetensors`, are read too."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_directory, write_json
from ms_codegeex.base.quarantine import admit, entries, is_weights, read_json_inside
from ms_codegeex.base.reading import open_regular, read_json
from ms_codegeex.base.shipped import BEGINNINGS, shipped_table
from ms_codegeex.data.description import ModelDescription, save_description
from ms_codegeex.data.tokenizer.copying import GENERATION
from ms_codegeex.formats.layout import check_names
from ms_codegeex.formats.safetensors_file import SafetensorsFile, write_safetensors
from ms_codegeex.formats.tensors import LazyTensor, damaged
from ms_codegeex.formats.torch_zip import read_torch

# what `mindspore.unified_safetensors` writes: an index and its parts
PARTS_INDEX, _PARTS = "param_name_map.json", re.compile(r"param_name_map\.json|part\d{1,6}\.safetensors")
CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_NAME = re.compile(
    r"(model|pytorch_model)(?:\.(?P<variant>[\w+]+))?(?:-(?P<number>\d{1,6})-of-(?P<count>\d{1,6}))?"
    r"(?:\.(?P<later>[\w+]+))?\.(?P<suffix>safetensors|bin)(?P<index>\.index(?:\.(?P<last>[\w+]+))?\.json)?"
)
BEGINNING = 32  # bytes that tell what a file is
SHARD_BYTES = 5_000_000_000

SaveTokenizer = Callable[[Path], object]
NOTHING: Mapping[str, bytes] = MappingProxyType({})


def _shards(tensors: Mapping[str, LazyTensor], max_bytes: int) -> list[dict[str, LazyTensor]]:
    shards: list[dict[str, LazyTensor]] = [{}]
    room = max_bytes
    for name, tensor in tensors.items():
        if shards[-1] and tensor.nbytes > room:
            shards.append({})
            room = max_bytes
        shards[-1][name] = tensor
        room -= tensor.nbytes
    return shards


def write_model_directory(
    path: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, LazyTensor],
    *,
    tokenizer: SaveTokenizer | None = None,
    further: Mapping[str, bytes] = NOTHING,
    description: ModelDescription | None = None,
    max_shard_bytes: int = SHARD_BYTES,
    check: Callable[[Path], object] | None = None,
    written: Callable[[Path], object] = lambda file: None,
) -> None:
    """Write a model directory, one tensor in memory at a time. It appears only when it is complete and
    `check(temporary)` raises nothing. `tensors` have PyTorch-side names. `tokenizer` saves one into a directory.
    `further` files are written unless the tokenizer has a file of the same name. `description`: what else is known of
    the model. A model of at most `max_shard_bytes` is one `model.safetensors` without an index. `written(file)` is
    called for each file of weights that is complete."""
    shards = _shards(tensors, max_shard_bytes)
    with atomic_directory(path, check) as directory:
        write_json(directory / CONFIG, dict(config))
        if tokenizer is not None:
            tokenizer(directory)
        _same_end(directory / GENERATION, config)
        for name, content in further.items():
            if not (directory / name).exists():
                (directory / name).write_bytes(content)
        if description is not None:
            save_description(directory, description, tokenizer=tokenizer is not None)
        count = len(shards)
        names = [f"model-{k:05d}-of-{count:05d}.safetensors" for k in range(1, count + 1)] if count > 1 else [SINGLE]
        for name, shard in zip(names, shards, strict=True):
            write_safetensors(directory / name, shard, {"format": "pt"}, checksums=True)  # transformers wants the tag
            written(directory / name)
        if count > 1:
            weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
            total = sum(tensor.nbytes for tensor in tensors.values())
            write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _same_end(file: Path, config: Mapping[str, Any]) -> None:
    settings, end = read_json(file) if file.is_file() else {}, config.get("eos_token_id")
    ends = settings.get("eos_token_id")
    if ends is not None and end not in (ends if isinstance(ends, list) else [ends]):
        write_json(file, {**settings, "eos_token_id": end})


def weight_files(path: Path, chosen: str | None = None) -> tuple[str, ...]:
    """The files in a folder that make one model, or their index alone, in the order of transformers: safetensors before
    pickles, a single file before an index, an index before shards without one, no variant before any. Empty if there
    are none. `chosen`: the file that the user names. `UserError` for incomplete shards, and several variants alone."""
    found: dict[tuple[str, bool, int], list[str]] = {}  # variant, pickles?, shards (0: their index, -1: a single file)
    for match in filter(None, map(_NAME.fullmatch, entries(path))):
        variant = match["variant"] or match["later"] or match["last"] or ""
        shards = 0 if match["index"] else int(match["count"] or -1)
        found.setdefault((variant, match["suffix"] == "bin", shards), []).append(match[0])
    order = sorted(found)
    if chosen is not None:
        its = [key for key in order if chosen in found[key]]
        order = [key for key in order if key in its or (its and key == (*its[0][:2], 0) and its[0][2] > 0)]
    if not order:
        parts = PARTS_INDEX in entries(path) and (chosen is None or _PARTS.fullmatch(chosen))
        return (PARTS_INDEX,) if parts else ()
    files, (variant, pickles, shards) = found[order[0]], order[0]
    variants = {key[0] for key in order if key[1] == pickles}
    if variant and len(variants) > 1:
        raise UserError(f"{path}: holds the variants {', '.join(sorted(variants))}; name a file, as {path / files[0]}")
    if 0 < shards != len(files):
        raise UserError(f"{path}: {len(files)} of {shards} shards are there, and no index; copy all, with the index")
    return tuple(files)


def mistaken(file: Path, beginning: bytes) -> str | None:
    """For a file that is not a weights file although it is named as one: what it is, and a remedy."""
    if not beginning:
        return "is empty; copy it again"
    for row in shipped_table(BEGINNINGS):
        if re.match(row["begins"].encode(), beginning):
            return row["said"].replace("{path}", shlex.quote(str(file)))
    return None


def read_tensors(file: Path) -> dict[str, LazyTensor]:
    """The tensors of one file of weights, of either kind."""
    with open_regular(file) as stream:
        if told := mistaken(file, stream.read(BEGINNING)):
            raise UserError(f"{file}: {told}")
    if file.suffix == ".safetensors":
        return SafetensorsFile(file).tensors
    tree = read_torch(file)
    if not isinstance(tree, dict) or not all(isinstance(tensor, LazyTensor) for tensor in tree.values()):
        raise UserError(f"{file}: expected a plain dictionary of tensors; save the state dict alone")
    return {str(name): tensor for name, tensor in tree.items()}


def read_weights(path: Path, names: Sequence[str]) -> tuple[dict[str, LazyTensor], dict[str, str], list[str]]:
    """The tensors of the files that `weight_files` names, the file of each, and the names of those that the index does
    not list. `UserError` naming the file or tensor that is missing, or that two files have."""
    if names[0].endswith(".json"):
        return _indexed(path, names[0])
    tensors: dict[str, LazyTensor] = {}
    files: dict[str, str] = {}
    for name in names:
        for tensor, value in read_tensors(path / name).items():
            if files.setdefault(tensor, name) != name:
                raise UserError(f"{path / name}: tensor {tensor} is in {files[tensor]} too; restore the index")
            tensors[tensor] = value
    return tensors, files, []


def _indexed(path: Path, index: str) -> tuple[dict[str, LazyTensor], dict[str, str], list[str]]:
    content = read_json_inside(path, index)
    flat = content if index == PARTS_INDEX else None  # as older versions of MindSpore write it
    weight_map = content.get("weight_map", flat) if isinstance(content, dict) else None
    named = weight_map.values() if isinstance(weight_map, dict) else [None]
    if not all(isinstance(name, str) and is_weights(name) for name in named):
        expected = "expected a weight_map from tensor names to files of weights in the same directory"
        raise UserError(f"{path / index}: {expected}; restore the index")
    shards: dict[str, dict[str, LazyTensor]] = {}
    for name in dict.fromkeys(weight_map.values()):
        if not (path / name).is_file():
            raise damaged(path / name, f"missing, but {index} lists it")
        shards[name] = read_tensors(path / name)
    for tensor, name in weight_map.items():
        if tensor not in shards[name]:
            check_names(shards[name], [each for each, file in weight_map.items() if file == name], str(path / name))
    unlisted = [tensor for name in shards for tensor in shards[name] if weight_map.get(tensor) != name]
    return {tensor: shards[name][tensor] for tensor, name in weight_map.items()}, dict(weight_map), unlisted


def read_config(path: Path) -> dict[str, Any]:
    """The configuration in a folder, all of whose files are checked first."""
    admit(path)
    config = read_json_inside(path, CONFIG)
    if not isinstance(config, dict):
        raise damaged(path / CONFIG, "not a JSON object")
    return config


class ModelDirectory:
    """A model directory opened for reading: its `config`, its `tensors` in the files' order, read when they are loaded,
    and the name of the file that each is in; `unlisted` tensors are not in the index. `UserError` naming the file or
    tensor when a file is missing, truncated or malformed, or when index and shards disagree."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        names = weight_files(self.path)
        if not names or not (self.path / CONFIG).is_file():
            raise UserError(f"{path}: not a model directory; expected {CONFIG} and {SINGLE} (or {INDEX}) in it")
        self.config = read_config(self.path)
        self.tensors, self.files, self.unlisted = read_weights(self.path, names)
