"""Converting a model from any layout we read to the layouts we write, one tensor in memory at a time."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ms_codegeex.errors import UserError
from ms_codegeex.formats import layout
from ms_codegeex.formats.model_directory import ModelDirectory, is_model_directory, write_model_directory
from ms_codegeex.formats.sources import Source, open_source
from ms_codegeex.formats.tensors import SHORT_NAMES, LazyTensor, cast
from ms_codegeex.formats.torch_zip import read_torch, write_torch

LAYOUTS = {"hf": "huggingface", "megatron": "megatron"}
_TORCH_SUFFIXES = (".pt", ".pth", ".bin")


def _nested(tensors: Mapping[tuple[str, ...], LazyTensor]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, tensor in tensors.items():
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = tensor
    return tree


def _target(output: Path, to: str, family: str) -> Path:
    """Where the model goes: `output` itself, or for megatron `<family>.pt` in it when it does not name a file."""
    if to == "megatron" and (output.is_dir() or output.suffix not in _TORCH_SUFFIXES):
        return output / f"{family}.pt"
    return output


def _check_target(target: Path, source: Path, replace_old: bool) -> None:
    """Refuse to touch what is there, unless asked to and it is a model (never any other directory or file)."""
    here, there = target.resolve(), source.resolve()
    if here == there or here in there.parents:
        raise UserError(f"{target}: is or lies around the model that is being converted; choose another --output")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    ours = is_model_directory(target) if target.is_dir() else zipfile.is_zipfile(target)
    if not replace_old:
        raise UserError(f"{target}: exists already; choose another --output" + (" or add --replace" if ours else ""))
    if not ours:
        raise UserError(
            f"{target}: exists and is not a converted model, so --replace leaves it alone; choose another --output"
        )


@contextmanager
def _measured(
    tensors: Mapping[layout.Foreign, LazyTensor], label: str, progress: bool
) -> Iterator[dict[layout.Foreign, LazyTensor]]:
    """The tensors, moving a progress bar on standard error (only on a terminal) as they are loaded."""
    total = sum(tensor.nbytes for tensor in tensors.values())
    with tqdm(total=total, desc=label, unit="B", unit_scale=True, disable=None if progress else True) as bar:

        def counted(tensor: LazyTensor) -> LazyTensor:
            def load() -> np.ndarray:
                array = tensor.array()
                bar.update(tensor.nbytes)
                return array

            return replace(tensor, load=load)

        yield {name: counted(tensor) for name, tensor in tensors.items()}


def _write_huggingface(target: Path, source: Source, tensors: Mapping[str, LazyTensor], dtype: str) -> None:
    config = source.family.weights.huggingface_config(source.config) | {"torch_dtype": dtype}
    write_model_directory(target, config, tensors, tokenizer=source.save_tokenizer)


def _write_megatron(target: Path, source: Source, tensors: Mapping[tuple[str, ...], LazyTensor], _dtype: str) -> None:
    # "config" lies beside "module", where other loaders do not look: the head count leaves no trace in the tensors
    write_torch(target, _nested(tensors) | {"config": {"family": source.family.name, **source.fields}})


def _read_huggingface(target: Path, names: list[str]) -> dict[layout.Foreign, LazyTensor]:
    directory = ModelDirectory(target)
    layout.check_names(directory.names, names, str(target))
    return {name: directory.lazy(name) for name in names}


def _read_megatron(target: Path, names: list[tuple[str, ...]]) -> dict[layout.Foreign, LazyTensor]:
    tree, found = read_torch(target), {}
    for path in names:
        node = tree
        for part in path:
            node = node.get(part, {}) if isinstance(node, dict) else {}
        if isinstance(node, LazyTensor):
            found[path] = node
    layout.check_names(found, names, str(target))
    return found


_WRITERS = {"hf": _write_huggingface, "megatron": _write_megatron}
_READERS = {"hf": _read_huggingface, "megatron": _read_megatron}


def _verify(target: Path, to: str, tensors: Mapping[layout.Foreign, LazyTensor], progress: bool) -> None:
    """Read the written model back and compare every byte with the source, converted once more."""
    written = _READERS[to](target, list(tensors))
    with _measured(tensors, "verify", progress) as expected:
        for name, tensor in expected.items():
            if (written[name].dtype, written[name].shape) != (tensor.dtype, tensor.shape) or not np.array_equal(
                written[name].array().reshape(-1).view(np.uint8), tensor.array().reshape(-1).view(np.uint8)
            ):
                raise UserError(
                    f"{target}: tensor {layout.shown(name)} differs from the source after writing; "
                    "the disk may be failing, convert again to another place"
                )


def convert(
    source: Path,
    to: str,
    output: Path,
    *,
    dtype: str | None = None,
    verify: bool = False,
    progress: bool = True,
    replace: bool = False,
    known: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Convert the model at `source` to `to` ("hf": a model directory, "megatron": a nested `.pt` file) at `output`.

    `source` is a run, checkpoint or model directory or a Megatron `.pt` file, recognised by content; optimizer moments
    are left out. `dtype` ("fp32", "fp16") casts every tensor, None keeps them. `verify` reads the result back and
    compares all bytes. `known` gives sizes a `.pt` file does not record (`{"num_heads": 4}`).
    Returns what was done: paths, tensors, parameters, bytes, seconds. Raises `UserError` for anything missing,
    unexpected, in the way or too large for the dtype; the output appears whole or not at all.
    """
    begin = time.monotonic()
    if to not in LAYOUTS:
        raise UserError(f"--to: '{to}' is unknown; choose one of {', '.join(LAYOUTS)}")
    if dtype is not None and dtype not in SHORT_NAMES:
        raise UserError(f"--dtype: '{dtype}' is unknown; choose one of {', '.join(SHORT_NAMES)}")
    model = open_source(Path(source), known)
    target = _target(Path(output), to, model.family.name)
    _check_target(target, model.path, replace)
    entries = model.family.weights.entries(LAYOUTS[to], model.config)
    ours = (
        model.tensors
        if dtype is None
        else {name: cast(name, tensor, SHORT_NAMES[dtype]) for name, tensor in model.tensors.items()}
    )
    tensors = layout.to_foreign(entries, ours)
    dtypes = sorted({tensor.dtype for tensor in tensors.values()})
    with _measured(tensors, f"convert to {to}", progress) as measured:
        _WRITERS[to](target, model, measured, dtypes[0])
    if verify:
        _verify(target, to, tensors, progress)
    return {
        "source": str(model.path),
        "kind": model.kind,
        "family": model.family.name,
        "to": to,
        "output": str(target),
        "dtypes": dtypes,
        "tensors": len(tensors),
        "parameters": sum(t.size for t in tensors.values()),
        "bytes": sum(t.nbytes for t in tensors.values()),
        "verified": verify,
        "seconds": round(time.monotonic() - begin, 3),
    }
