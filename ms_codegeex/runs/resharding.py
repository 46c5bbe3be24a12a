"""Rewrite a checkpoint of any mesh as the ranks of another mesh would write it, tensor by tensor.

Every command reads checkpoints of any mesh. This module is for ranks that need their part in one file, for a single
file with complete tensors, and for files of MindSpore's own distributed runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.mesh import Mesh
from ms_codegeex.config.model import ModelConfig, model_config
from ms_codegeex.config.sections import LoraConfig
from ms_codegeex.config.validation import validated
from ms_codegeex.config.values import flattened
from ms_codegeex.data.description import recorded_description
from ms_codegeex.formats.checkpoint import NAME, Checkpoint, resolve, step_name, untied
from ms_codegeex.formats.checkpoint_writing import Slice
from ms_codegeex.formats.family import UnknownSize
from ms_codegeex.formats.files import find_model
from ms_codegeex.formats.mindspore_checkpoint import read_mindspore
from ms_codegeex.formats.safetensors_file import is_safetensors
from ms_codegeex.formats.sources import checkpoint_description, open_source
from ms_codegeex.formats.tensors import LazyTensor
from ms_codegeex.models.parameters import LORA_A
from ms_codegeex.parallel.sharding import ParameterLayout, layouts_on, split_moment


@dataclass(frozen=True)
class Contents:
    """The content of `path`: tensors by our names, their model, and the state of the run. Values are read lazily.
    Without a model, the names are those in the files."""

    path: Path
    tensors: Mapping[str, LazyTensor]
    model: ModelConfig | None
    lora: LoraConfig
    step: int
    state: Mapping[str, Any]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


def open_contents(path: Path, known: Mapping[str, Any] | None = None) -> Contents:
    """Open a checkpoint, or the newest sound one of a run, with its optimizer state; or the weights of any other model
    that `open_source` reads, such as MindSpore's rank files with their strategy. `known`: sizes that the latter do not
    record. `UserError` if `path` is none of these."""
    path = Path(path)
    if (found := find_model(path)).layout.key == "run":
        return _of_checkpoint(resolve(found.place.path))
    source = open_source(path, known)
    model = model_config({"family": source.family.name, **source.fields})
    state = {"config": {"model": model.to_dict()}, "description": source.description.to_json()}
    return Contents(source.path, source.tensors, model, LoraConfig(), 0, state)


def open_pair(*paths: Path) -> list[Contents]:
    """Open two models to compare: with `open_contents`, or if files of safetensors or MindSpore lack sizes, by the
    names in those files."""
    try:
        return [open_contents(path) for path in paths]
    except UnknownSize:
        places = [find_model(path).place for path in paths]
        files = [place.path for place in places]
        if not all(place.begins(b"\n") or (place.path.is_file() and is_safetensors(place.path)) for place in places):
            raise
        tensors = [read_mindspore(file) for file in files]
        if not set.intersection(*map(set, tensors)):
            raise
        return [Contents(*each, None, LoraConfig(), 0, {}) for each in zip(files, tensors, strict=True)]


def state_differences(left: Contents, right: Contents) -> dict[str, list[Any]]:
    """Return the entries of the state that differ, including the step, by dotted key."""
    states = ({"step": each.step, **each.state} for each in (left, right))
    one, other = (dict(flattened(json.loads(json.dumps(state)))) for state in states)  # as JSON, tuples equal lists
    return {key: [one.get(key), other.get(key)] for key in sorted({*one, *other}) if one.get(key) != other.get(key)}


def check_output(output: Path, step: int) -> None:
    """Raise `UserError` if a checkpoint of `step` cannot be written to `output`; call this before reading much."""
    if output.exists():
        raise UserError(f"{output}: exists already; choose another --output")
    if (named := NAME.fullmatch(output.name)) and int(named[1]) != step:
        right = step_name(step)
        raise UserError(f"{output}: is the name of another step's checkpoint; call it {right}, or something else")


def _of_checkpoint(checkpoint: Checkpoint) -> Contents:
    config = checkpoint.state.get("config")
    parts = [config.get(part) or {} for part in ("model", "lora", "parallel")] if isinstance(config, dict) else []
    if not parts or not parts[0] or not all(isinstance(part, dict) for part in parts):
        raise UserError(f"{checkpoint.path}: does not say of which model it is; give a checkpoint of a run")
    model = model_config({**config["model"], "weights": None, "grow": [], "fresh": []})
    lora = validated(LoraConfig, config.get("lora") or {}, "lora.")
    tensors = {name: checkpoint.lazy(name) for name in checkpoint.names}
    known, state = replace(checkpoint_description(checkpoint), step=None), checkpoint.state
    if known != recorded_description(state, checkpoint.path):  # a user has edited it
        state = {**state, "description": known.to_json()}
    return Contents(checkpoint.path, tensors, model, lora, checkpoint.step, state)


def rank_slices(
    contents: Contents, mesh: Mesh, progress: Callable[[int], object] = lambda size: None
) -> Iterator[dict[str, Slice]]:
    """Yield the slices that each rank of `mesh` saves, from rank 0 on. `progress` receives the bytes of each part when
    it is read. `UserError` if the mesh cannot hold the model in equal parts, or a tensor is not one of the model's."""
    layouts = _layouts(contents, mesh)
    for rank in range(mesh.world):
        slices = {}
        for name, tensor in contents.tensors.items():
            layout = layouts[name]
            if layout.saved_by(mesh, rank):
                window = layout.window(mesh, rank)
                part = _followed(tensor.window(window), progress)
                slices[name] = Slice(tensor.shape, tuple(axis.start for axis in window), part)
        yield slices


def _followed(tensor: LazyTensor, progress: Callable[[int], object]) -> LazyTensor:
    def load() -> np.ndarray:
        array = tensor.array()
        progress(array.nbytes)
        return array

    return LazyTensor(tensor.dtype, tensor.shape, load)


def _layouts(contents: Contents, mesh: Mesh) -> dict[str, ParameterLayout]:
    model = contents.model.sizes
    if mesh.pipeline > model.attention_layers:
        raise UserError(f"--pipeline {mesh.pipeline}: more than {model.attention_layers} layers; give as many or fewer")
    if mesh.data % mesh.optimizer_shard:
        raise UserError(f"--optimizer-shard {mesh.optimizer_shard}: does not divide --data {mesh.data}; give a divisor")
    vocabulary = (contents.state["config"].get("parallel") or {}).get("vocabulary", True)
    known = {layout.name: layout for layout in layouts_on(mesh, model, contents.lora, vocabulary)}
    layouts = {}
    for name, tensor in contents.tensors.items():
        layout = known.get(split_moment(name)[1])
        if layout is None or layout.shape != tensor.shape:
            if layout is None and name.endswith(f".{LORA_A}"):
                raise untied(str(contents.path), name.removesuffix(f".{LORA_A}"))
            expected = "no such tensor" if layout is None else f"{list(layout.shape)}"
            raise UserError(f"{contents.path}: {name} is {list(tensor.shape)}, the model has {expected}; restore it")
        _check_parts(layout, mesh)
        layouts[name] = layout
    return layouts


def _check_parts(layout: ParameterLayout, mesh: Mesh) -> None:
    """Raise `UserError` unless the ranks hold equal parts."""
    rows, axis = layout.shape[0], layout.tensor_axis
    if axis is not None and layout.shape[axis] % mesh.tensor:
        raise UserError(f"--tensor {mesh.tensor}: does not divide {layout.name}, {list(layout.shape)}; give a divisor")
    rows //= mesh.tensor if axis == 0 else 1
    if layout.optimizer_sharded and rows % mesh.optimizer_shard:
        whole = f"the {rows} rows of {layout.name} on a device"
        raise UserError(f"--optimizer-shard {mesh.optimizer_shard}: does not divide {whole}; give a divisor")
