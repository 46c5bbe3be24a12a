"""Opening a model in any layout we know, recognised by what is in it: its family, sizes and tensors in our names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ms_codegeex.errors import UserError
from ms_codegeex.formats import layout
from ms_codegeex.formats.checkpoint import MANIFEST, list_checkpoints, resolve
from ms_codegeex.formats.model_directory import ModelDirectory, copy_tokenizer, is_model_directory
from ms_codegeex.formats.tensors import LazyTensor
from ms_codegeex.formats.torch_zip import read_torch
from ms_codegeex.models.registry import FAMILIES, Family, family

OPTIMIZER_PREFIX = "optimizer."
_DEEPEST = 16  # a checkpoint nests five levels; a malicious one may nest itself
_TORCH_SUFFIXES = (".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Source:
    """A model found at `path`.

    `kind` is "checkpoint", "huggingface" or "megatron"; `fields` are the sizes in our names, `tensors` all parameters
    in our names; `save_tokenizer(directory)` writes the tokenizer's files.
    """

    path: Path
    kind: str
    family: Family
    fields: dict[str, Any]
    tensors: dict[str, LazyTensor]
    save_tokenizer: Callable[[Path], object]

    @property
    def config(self) -> SimpleNamespace:
        """The sizes as attributes."""
        return SimpleNamespace(**self.fields)


def _save_family_tokenizer(name: str) -> Callable[[Path], object]:
    def save(directory: Path) -> None:
        from ms_codegeex.data.tokenizer import load_tokenizer  # its vocabulary takes a moment to load

        load_tokenizer(name).save(directory)

    return save


def _open_checkpoint(path: Path, known: Mapping[str, Any]) -> Source:
    checkpoint = resolve(path)
    model = checkpoint.state.get("config", {}).get("model")
    if not isinstance(model, dict) or not isinstance(model.get("family"), str):
        raise UserError(f"{checkpoint.path / MANIFEST}: config.model.family is missing, so the model cannot be rebuilt")
    found = family(model["family"])
    fields = found.weights.model_fields({**model, **known})
    tensors = {name: checkpoint.lazy(name) for name in checkpoint.names if not name.startswith(OPTIMIZER_PREFIX)}
    shapes = found.weights.expected_shapes(SimpleNamespace(**fields))
    layout.check_tensors(tensors, shapes, str(checkpoint.path))
    return Source(
        checkpoint.path,
        "checkpoint",
        found,
        fields,
        {name: tensors[name] for name in shapes},
        _save_family_tokenizer(found.name),
    )


def _open_foreign(
    path: Path,
    kind: str,
    found: Family,
    fields: dict[str, Any],
    tensors: Mapping[layout.Foreign, LazyTensor],
    save_tokenizer: Callable[[Path], object],
) -> Source:
    config = SimpleNamespace(**fields)
    entries, shapes = found.weights.entries(kind, config), found.weights.expected_shapes(config)
    ours = layout.to_ours(entries, tensors, shapes, str(path))
    return Source(path, kind, found, fields, ours, save_tokenizer)


def _open_model_directory(path: Path, known: Mapping[str, Any]) -> Source:
    directory = ModelDirectory(path)
    if not isinstance(directory.config.get("model_type"), str):
        raise UserError(f"{path / 'config.json'}: model_type is missing; expected one of {', '.join(FAMILIES)}")
    found = family(directory.config["model_type"])
    fields = found.weights.model_fields({**found.weights.config_fields(directory.config), **known})
    return _open_foreign(
        path,
        "huggingface",
        found,
        fields,
        {name: directory.lazy(name) for name in directory.names},
        lambda target: copy_tokenizer(path, target),
    )


def _tensors(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], LazyTensor]]:
    """The tensors of nested dictionaries with the path to each."""
    if len(path) > _DEEPEST:
        raise UserError(f"{' -> '.join(path)}: nested too deep for a state dict")
    if isinstance(tree, LazyTensor):
        yield path, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _tensors(value, (*path, str(key)))


def _open_torch(path: Path, known: Mapping[str, Any]) -> Source:
    tree = read_torch(path)
    tensors = dict(_tensors(tree))
    for name in FAMILIES:
        found = family(name)
        if found.weights.recognises("megatron", tensors):
            break
    else:
        first = next((layout.shown(key) for key in tensors), "no tensors")
        raise UserError(f"{path}: not a nested checkpoint of a known family ({', '.join(FAMILIES)}); it holds {first}")
    recorded = tree.get("config") if isinstance(tree.get("config"), dict) else {}
    fields = found.weights.infer_fields(
        "megatron", {key: tensor.shape for key, tensor in tensors.items()}, {**recorded, **known}
    )
    return _open_foreign(path, "megatron", found, fields, tensors, _save_family_tokenizer(found.name))


def open_source(path: Path, known: Mapping[str, Any] | None = None) -> Source:
    """Open a run or checkpoint directory of ours, a model directory, or a nested Megatron `.pt` file.

    `known` overrides single sizes (our field names), for files that do not record them. Numbers are read later.
    Raises `UserError` naming the file and tensor when anything is missing, unexpected, of another shape or dtype.
    """
    path, known = Path(path), known or {}
    if path.is_file():
        return _open_torch(path, known)
    if is_model_directory(path):
        return _open_model_directory(path, known)
    if (path / MANIFEST).is_file() or (path / "checkpoints").is_dir() or (path.is_dir() and list_checkpoints(path)):
        return _open_checkpoint(path, known)
    archives = [file for file in path.glob("*") if file.suffix in _TORCH_SUFFIXES] if path.is_dir() else []
    if len(archives) == 1:
        return _open_torch(archives[0], known)
    found = "nothing of these is there" if path.is_dir() else "no such file or directory"
    raise UserError(
        f"{path}: {found}; expected a run directory, a checkpoint directory, a model directory "
        "(config.json and *.safetensors) or a Megatron .pt file"
    )
