"""Describes model directories and checkpoints: as plain values, and as lines for people."""

from __future__ import annotations

import contextlib
import math
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.tokenizer import TOKENIZER_FILES, load_tokenizer
from ms_codegeex.data.tokenizer.copying import unread_elsewhere
from ms_codegeex.formats.checkpoint import MANIFEST, Checkpoint, list_checkpoints
from ms_codegeex.formats.family import model_types
from ms_codegeex.formats.model_directory import ModelDirectory
from ms_codegeex.formats.provenance import Progress
from ms_codegeex.formats.sources import OPTIMIZER_PREFIX, open_source

TENSORS_SHOWN = 3  # at the start of the list, and at its end


def describe_model(directory: Path) -> dict[str, Any]:
    """Configuration, and name, shape, dtype and file of every tensor, from the headers of the files of weights."""
    model = ModelDirectory(directory)
    if "model_type" not in model.config:
        raise UserError(f"{directory / 'config.json'}: no model_type; write it there")
    tensors = [
        {"name": name, "shape": list(tensor.shape), "dtype": tensor.dtype, "file": model.files[name]}
        for name, tensor in sorted(model.tensors.items())
    ]
    dtypes: dict[str, int] = {}
    for tensor in tensors:
        dtypes[tensor["dtype"]] = dtypes.get(tensor["dtype"], 0) + math.prod(tensor["shape"])
    its_family, its = model_types().get(str(model.config["model_type"]), (None, None))
    tokenizer, refused = [name for name in TOKENIZER_FILES if (directory / name).is_file()], []
    known: dict[str, Any] = {}

    def describe(place: Path) -> None:  # a released model's marks, too, which no file of its directory names as such
        known["description"] = open_source(place, say=list).description.to_json()

    for reader, there in ((describe, its_family), (load_tokenizer, its_family and tokenizer)):
        try:
            _ = reader(directory) if there else None
        except UserError as error:
            refused.append(str(error))
    return {
        "kind": "model",
        "directory": str(directory),
        "family": its_family and its_family.name,
        "layout": its and its.kind,
        "config": model.config,
        "tensors": tensors,
        "parameters": sum(dtypes.values()),
        "dtypes": dtypes,
        "refused": refused,
        "tokenizer": tokenizer,
        "tokenizer_unread_elsewhere": unread_elsewhere(directory, "`ms-codegeex convert --to hf` writes its class"),
        "files": {path.name: size_of(path) for path in sorted(directory.iterdir()) if path.name[0] != "."},
        **known,
    }


def model_lines(model: dict[str, Any], every_tensor: bool = False) -> Iterator[str]:
    """`describe_model` for people: the sizes of the configuration, some or all tensors, the files."""
    config, dtypes = model["config"], model["dtypes"]
    known = model["family"] or f"a family that this program does not read (model_type {config['model_type']})"
    yield f"model: {known}{', as a GPT-J' if model['layout'] == 'gptj' else ''}"
    sizes = [f"{key} {value}" for key, value in config.items() if type(value) is int and not key.endswith("_id")]
    yield f"sizes: {', '.join(sizes) or 'none in config.json'}"
    kinds = ", ".join(dtypes) if len(dtypes) < 2 else ", ".join(f"{count:,} {dtype}" for dtype, count in dtypes.items())
    yield f"parameters: {model['parameters']:,} ({kinds})"
    yield f"tokenizer: {', '.join(model['tokenizer']) or 'none; `generate` and `serve` need one'}"
    if reason := model["tokenizer_unread_elsewhere"]:
        yield f"  transformers and vLLM do not read it as it is: {reason}"
    yield f"tensors: {len(model['tensors'])}"
    yield from _tensor_lines([f"{it['name']}  {it['dtype']}  {it['shape']}" for it in model["tensors"]], every_tensor)
    yield from size_lines(model["files"])
    yield from (f"not read here: {reason}" for reason in model["refused"])


def _tensor_lines(lines: list[str], every: bool) -> Iterator[str]:
    left_out = 0 if every else len(lines) - 2 * TENSORS_SHOWN
    if left_out > 1:
        more = f"… {left_out} more: --tensors lists them"
        lines = [*lines[:TENSORS_SHOWN], more, *lines[-TENSORS_SHOWN:]]
    yield from (f"  {line}" for line in lines)


def summarise_checkpoint(path: Path, hashes: bool, progress: Progress = lambda size: None) -> dict[str, Any]:
    """Step and sizes of a checkpoint, or why it is not sound. `hashes`: hash all tensors; `progress` gets the bytes."""
    try:
        checkpoint = Checkpoint(path)
        if hashes:
            checkpoint.verify(progress)
    except (UserError, OSError) as error:
        return {"path": str(path), "sound": False, "error": str(error)}
    files = checkpoint.files
    return {
        "path": str(path),
        "sound": True,
        "step": checkpoint.step,
        "tensors": len(checkpoint.names),
        "files": len(files),
        "bytes": sum(files.values()),
        "hashed": hashes,
    }


def checkpoints_in(directory: Path) -> list[Path]:
    """A checkpoint itself, or those of a run or a folder; `UserError` if there are none."""
    root = directory / "checkpoints" if (directory / "checkpoints").is_dir() else directory
    paths = [directory] if (directory / MANIFEST).is_file() else list_checkpoints(root)
    if not paths:
        raise UserError(f"{directory}: no checkpoints; give a checkpoint directory or a run directory")
    return paths


def summarise_checkpoints(directory: Path, paths: Iterable[Path], hashes: bool, progress: Progress) -> list[Any]:
    """`summarise_checkpoint` for those in a directory, apart from any that its run deletes meanwhile."""
    summaries = [(path, summarise_checkpoint(path, hashes, progress)) for path in paths]
    reports = [report for path, report in summaries if report["sound"] or path.is_dir()]
    if not reports:
        raise UserError(f"{directory}: its checkpoints were deleted meanwhile; try again")
    return reports


def bytes_of_tensors(path: Path) -> int:
    """Of the files in a checkpoint; 0 if it is deleted meanwhile."""
    with contextlib.suppress(OSError):
        return sum(file.stat().st_size for file in path.glob("*.safetensors"))
    return 0


def checkpoint_line(summary: dict[str, Any]) -> str:
    """`summarise_checkpoint` for people."""
    if not summary["sound"]:
        return f"{summary['path']}: DAMAGED: {summary['error']}"
    content = f"{summary['tensors']} tensors in {summary['files']} files, {summary['bytes']:,} bytes"
    return f"{summary['path']}: sound, step {summary['step']}, {content}"


def describe_checkpoint(directory: Path) -> dict[str, Any]:
    """A checkpoint and all its tensors with their hashes, every one of which is checked; damage is a `UserError`."""
    checkpoint = Checkpoint(directory)
    size = checkpoint.verify()
    tensors = [
        {
            "name": name,
            "shape": list(checkpoint.shape(name)),
            "dtype": checkpoint.dtype(name),
            "hashes": [each for part in checkpoint.slices(name) for each in part["chunks"]],
        }
        for name in sorted(checkpoint.names)
    ]
    weights = [tensor for tensor in tensors if not tensor["name"].startswith(OPTIMIZER_PREFIX)]
    return {
        "kind": "checkpoint",
        "directory": str(directory),
        "verified": True,
        "step": checkpoint.step,
        "files": checkpoint.files,
        "bytes": size,
        "state": checkpoint.state,
        "tensors": tensors,
        "parameters": sum(math.prod(tensor["shape"]) for tensor in weights),
    }


def checkpoint_lines(checkpoint: dict[str, Any], every_tensor: bool = False) -> Iterator[str]:
    """`describe_checkpoint` for people, with some or all tensors."""
    model = checkpoint["state"].get("config", {}).get("model", {})
    if model:
        yield f"model: {model.get('family')} {model.get('preset') or ''}".rstrip()
    yield f"parameters: {checkpoint['parameters']:,}"
    lines = []
    for tensor in checkpoint["tensors"]:
        first, *others = tensor["hashes"] or [""]
        more = f" and {len(others)} more" if others else ""
        lines.append(f"{tensor['name']}  {tensor['dtype']}  {tensor['shape']}  hash {first[:16]}{more}")
    yield f"tensors: {len(lines)}"
    yield from _tensor_lines(lines, every_tensor)
    yield f"step {checkpoint['step']}"
    yield f"verified: {checkpoint['bytes']:,} bytes of tensors, all hashes are right"


def size_lines(sizes: Mapping[str, int | None]) -> Iterator[str]:
    for name, size in sizes.items():
        yield f"{name}: a link" if size is None else f"{name}: {size:,} bytes"


def size_of(path: Path) -> int | None:
    """Bytes of a file, or of all files in a directory; a running job may remove some meanwhile. None for a link to
    anything but a file: it may lead to all files of the machine."""
    if path.is_symlink():
        return path.stat().st_size if path.is_file() else None
    total = 0
    for file in (path, *(Path(folder) / name for folder, _, names in os.walk(path) for name in names)):
        with contextlib.suppress(OSError):
            status = file.lstat()
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total
