"""Describes the contents of model directories, checkpoints and runs: as plain values, and as lines for people."""

from __future__ import annotations

import contextlib
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import read_json
from ms_codegeex.config.loading import load_config
from ms_codegeex.data.tokenizer import TOKENIZER_FILES
from ms_codegeex.formats.checkpoint import Checkpoint, list_checkpoints
from ms_codegeex.formats.family import model_types
from ms_codegeex.formats.model_directory import ModelDirectory
from ms_codegeex.formats.safetensors_file import SafetensorsFile
from ms_codegeex.formats.sources import OPTIMIZER_PREFIX
from ms_codegeex.generation.quantised import TENSORS, QuantisedModel
from ms_codegeex.runs.records import read_log
from ms_codegeex.runs.run_directory import RunDirectory
from ms_codegeex.runs.stages import StageReport

TENSORS_SHOWN = 3  # at the start of the list, and at its end


def describe_model(directory: Path) -> dict[str, Any]:
    """Configuration, and name, shape, dtype and file of every tensor, from the headers of the files of weights."""
    model = ModelDirectory(directory)
    if "model_type" not in model.config:
        raise UserError(f"{directory / 'config.json'}: no model_type; this is not a model's configuration")
    tensors = [
        {"name": name, "shape": list(tensor.shape), "dtype": tensor.dtype, "file": model.files[name]}
        for name, tensor in sorted(model.tensors.items())
    ]
    dtypes: dict[str, int] = {}
    for tensor in tensors:
        dtypes[tensor["dtype"]] = dtypes.get(tensor["dtype"], 0) + math.prod(tensor["shape"])
    its_family, its = model_types().get(str(model.config["model_type"]), (None, None))
    return {
        "kind": "model",
        "directory": str(directory),
        "family": its_family and its_family.name,
        "layout": its and its.kind,
        "config": model.config,
        "tensors": tensors,
        "parameters": sum(dtypes.values()),
        "dtypes": dtypes,
        "tokenizer": [name for name in TOKENIZER_FILES if (directory / name).is_file()],
        "files": {path.name: _size(path) for path in sorted(directory.iterdir()) if path.name[0] != "."},
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
    yield f"tensors: {len(model['tensors'])}"
    yield from _tensor_lines([f"{it['name']}  {it['dtype']}  {it['shape']}" for it in model["tensors"]], every_tensor)
    yield from _size_lines(model["files"])


def _tensor_lines(lines: list[str], every: bool) -> Iterator[str]:
    """All lines, or the first and the last ones."""
    left_out = 0 if every else len(lines) - 2 * TENSORS_SHOWN
    if left_out > 1:
        more = f"… {left_out} more: --tensors lists them"
        lines = [*lines[:TENSORS_SHOWN], more, *lines[-TENSORS_SHOWN:]]
    yield from (f"  {line}" for line in lines)


def summarise_checkpoint(
    path: Path, hashes: bool, progress: Callable[[int], object] = lambda size: None
) -> dict[str, Any]:
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
        first, *more = tensor["hashes"] or [""]
        line = f"{tensor['name']}  {tensor['dtype']}  {tensor['shape']}  hash {first[:16]}"
        lines.append(f"{line} and {len(more)} more" if more else line)
    yield f"tensors: {len(lines)}"
    yield from _tensor_lines(lines, every_tensor)
    yield f"step {checkpoint['step']}"
    yield f"verified: {checkpoint['bytes']:,} bytes of tensors, all hashes are right"


def describe_quantised(directory: Path) -> dict[str, Any]:
    """Family, bits, and number and size of the tensors, whose checksums are compared."""
    model, file = QuantisedModel(directory), SafetensorsFile(directory / TENSORS)
    for tensor in file.tensors.values():
        tensor.array()
    return {
        "kind": "quantised model",
        "directory": str(directory),
        "family": model.family.name,
        "parameters": model.config.parameter_count(),
        "bits": model.bits,
        "group": model.group,
        "tensors": len(file.tensors),
        "bytes": (directory / TENSORS).stat().st_size,
    }


def quantised_lines(model: dict[str, Any]) -> Iterator[str]:
    """`describe_quantised` for people."""
    shared = f"a scale for {model['group']} numbers" if model["group"] else "a scale for each row"
    yield f"quantised model: {model['family']}, {model['parameters']:,} parameters"
    yield f"matrices of {model['bits']} bits, {shared}"
    yield f"verified: {model['tensors']} tensors, {model['bytes']:,} bytes, all checksums are right"


def describe_run(directory: Path) -> dict[str, Any]:
    """A run's model and data, its progress, its checkpoints (files and sizes checked, not hashed) and its artefacts."""
    run = RunDirectory(directory)
    try:
        config = load_config(run.config)
    except UserError as error:
        raise UserError(f"{run.config}: not the configuration of a run ({error})") from None
    log = read_log(run.log)
    losses = [line for line in log if line["loss"] is not None]
    validated = [line for line in log if line["validation_loss"] is not None]
    return {
        "kind": "run",
        "directory": str(directory),
        "config": config.to_dict(),
        "parameters": config.model.sizes.parameter_count(),
        "step": log[-1]["step"] if log else 0,
        "steps": config.steps,
        "loss": losses[-1]["loss"] if losses else None,
        "validation_loss": validated[-1]["validation_loss"] if validated else None,
        "checkpoints": [summarise_checkpoint(path, hashes=False) for path in list_checkpoints(run.checkpoints)],
        "artefacts": {path.name: _size(path) for path in sorted(directory.iterdir()) if path.name[0] != "."},
    }


def run_lines(run: dict[str, Any]) -> Iterator[str]:
    """`describe_run` for people."""
    config = run["config"]
    model, data, training = config["model"], config["data"], config["training"]
    yield f"model: {model['family']} {model['preset'] or ''}, {run['parameters']:,} parameters"
    yield f"devices: {config['devices']} ({config['device']}), {training['precision']}"
    yield f"data: {data['train'] or data['blend'] or 'the source code of the machine'}"
    length = data["seq_length"] or model["max_position_embeddings"]
    yield f"batch: {training['global_batch']} sequences of {length} tokens"
    losses = (("loss", run["loss"]), ("validation loss", run["validation_loss"]))
    known = [f"{name} {value:.4f}" for name, value in losses if value is not None]
    minimum = "" if training["steps"] else "at least "
    yield f"step {run['step']} of {minimum}{run['steps']}" + (f": {', '.join(known)}" if known else "")
    yield from map(checkpoint_line, run["checkpoints"])
    if not run["checkpoints"]:
        yield "no checkpoints yet"
    yield from _size_lines(run["artefacts"])


def describe_stages(directory: Path) -> dict[str, Any]:
    """The progress of each stage, and its losses, as they were when the last one ended or was interrupted."""
    content = read_json(directory / "stages.json")
    try:
        list(stages_lines(content))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        path = directory / "stages.json"
        raise UserError(f"{path}: no report on stages; train makes it again with --resume auto") from None
    return {"kind": "stages", **content}


def stages_lines(stages: dict[str, Any]) -> Iterator[str]:
    """`describe_stages` for people."""
    yield from StageReport(stages).text().splitlines()


def _size_lines(sizes: Mapping[str, int | None]) -> Iterator[str]:
    for name, size in sizes.items():
        yield f"{name}: a link" if size is None else f"{name}: {size:,} bytes"


def _size(path: Path) -> int | None:
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
