"""A model directory in Hugging Face layout: `config.json`, the tokenizer's files, and the weights.

The weights are `*.safetensors`, with an index when there are several; older directories hold PyTorch pickles named
`pytorch_model*.bin` instead, which are read and never written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_directory, write_json
from ms_codegeex.base.quarantine import admit, is_weights, read_json_inside
from ms_codegeex.base.reading import read_json
from ms_codegeex.data.tokenizer.copying import GENERATION, copy_data
from ms_codegeex.formats.layout import check_names
from ms_codegeex.formats.safetensors_file import SafetensorsFile, write_safetensors
from ms_codegeex.formats.tensors import LazyTensor, damaged
from ms_codegeex.formats.torch_zip import read_torch

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
SHARD_BYTES = 5_000_000_000

SaveTokenizer = Callable[[Path], object]
NOTHING: Mapping[str, bytes] = MappingProxyType({})


def _shards(tensors: Mapping[str, LazyTensor], max_bytes: int) -> list[dict[str, LazyTensor]]:
    """Consecutive tensors in shards of at most `max_bytes`; a larger tensor is alone in its shard."""
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
    tokenizer: SaveTokenizer | Path | None = None,
    further: Mapping[str, bytes] = NOTHING,
    max_shard_bytes: int = SHARD_BYTES,
    check: Callable[[Path], object] | None = None,
    written: Callable[[Path], object] = lambda file: None,
) -> None:
    """Write a model directory, one tensor in memory at a time. It appears only when it is complete and
    `check(temporary)` raises nothing.

    `tensors` have PyTorch-side names. `tokenizer` is a function that saves one into a directory, or a directory of
    which the data files are copied. `further` files are written unless the tokenizer has a file of the same name. A
    model of at most `max_shard_bytes` is one `model.safetensors` without an index. `written(file)` is called for each
    file of weights that is complete.
    """
    shards = _shards(tensors, max_shard_bytes)
    with atomic_directory(path, check) as directory:
        write_json(directory / CONFIG, dict(config))
        if callable(tokenizer):
            tokenizer(directory)
        elif tokenizer is not None:
            copy_data(tokenizer, directory)
        _same_end(directory / GENERATION, config)
        for name, content in further.items():
            if not (directory / name).exists():
                (directory / name).write_bytes(content)
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
    """Let a copied generation_config.json name the configuration's end token: an older one may name another."""
    settings, end = read_json(file) if file.is_file() else {}, config.get("eos_token_id")
    ends = settings.get("eos_token_id")
    if ends is not None and end not in (ends if isinstance(ends, list) else [ends]):
        write_json(file, {**settings, "eos_token_id": end})


def is_model_directory(path: Path) -> bool:
    """Whether `path` holds a configuration and weights in this layout."""
    path = Path(path)
    return (path / CONFIG).is_file() and any((path / name).is_file() for name in (SINGLE, INDEX, BIN, BIN_INDEX))


def _tensors(file: Path) -> dict[str, LazyTensor]:
    """The tensors of one file of weights, of either kind."""
    if file.suffix == ".safetensors":
        return SafetensorsFile(file).tensors
    tree = read_torch(file)
    if not isinstance(tree, dict) or not all(isinstance(tensor, LazyTensor) for tensor in tree.values()):
        raise UserError(f"{file}: expected a plain dictionary of tensors; save the state dict alone")
    return {str(name): tensor for name, tensor in tree.items()}


class ModelDirectory:
    """A model directory opened for reading: its `config`, its `tensors` in the files' order, read when they are loaded,
    and the name of the file that each is in.

    Raises `UserError` naming the file or tensor when a file is missing, truncated or malformed, or when index and
    shards disagree.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not is_model_directory(self.path):
            raise UserError(f"{path}: not a model directory; expected {CONFIG} and {SINGLE} (or {INDEX}) in it")
        admit(self.path)
        self.config: dict[str, Any] = read_json_inside(self.path, CONFIG)
        if not isinstance(self.config, dict):
            raise UserError(f"{self.path / CONFIG}: expected a JSON object")
        self.files: dict[str, str] = {}  # tensor -> the file it is in
        for index, single in ((INDEX, SINGLE), (BIN_INDEX, BIN)):  # if both kinds are there, safetensors wins
            if (self.path / index).is_file() or (self.path / single).is_file():
                sharded = (self.path / index).is_file()
                self.tensors = self._sharded(self.path / index) if sharded else _tensors(self.path / single)
                self.files = self.files or dict.fromkeys(self.tensors, single)
                break

    def _sharded(self, index: Path) -> dict[str, LazyTensor]:
        content = read_json_inside(self.path, index.name)
        weight_map = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(weight_map, dict) or not all(
            isinstance(name, str) and is_weights(name) for name in weight_map.values()
        ):
            raise UserError(
                f"{index}: expected a weight_map from tensor names to files of weights in the same directory"
            )
        listed: dict[str, list[str]] = {}
        for tensor, name in weight_map.items():
            listed.setdefault(name, []).append(tensor)
        shards = {}
        for name, names in listed.items():
            if not (self.path / name).is_file():
                raise damaged(self.path / name, f"missing, but {index.name} lists it")
            shards[name] = _tensors(self.path / name)
            check_names(shards[name], names, str(self.path / name))
        self.files = dict(weight_map)
        return {tensor: shards[name][tensor] for tensor, name in weight_map.items()}
