"""Adapters (LoRA): check that they belong to a model, and merge them into it."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.json_reading import MalformedText
from ms_codegeex.base.quarantine import entries
from ms_codegeex.base.reading import read_inside
from ms_codegeex.base.yaml_reading import MAX_BYTES, parse_yaml
from ms_codegeex.formats.checkpoint import fingerprint, untied
from ms_codegeex.formats.layout import ForeignTensors
from ms_codegeex.formats.tensors import LazyTensor, Tensors
from ms_codegeex.models.parameters import LORA_A, LORA_B, ParameterTable

ALPHA = "lora_alpha"  # in the settings of PEFT and of mindformers
_DELTA = re.compile(r"(.+)\.mindpet_delta_lora_([ab])", re.IGNORECASE)  # mindpet's names of an adapter's factors
_SETTINGS = re.compile(r"(mindformers_)?adapter_config\.json|.+\.ya?ml")  # where mindformers records alpha
_FOLDERS, _FILES = 3, 20  # a checkpoint is OUTPUT/checkpoint/rank_0/NAME.ckpt; one of these folders has its settings


@dataclass(frozen=True)
class Adapters:
    """Adapters for the model at `base`, which has this `fingerprint`; it is None if another program wrote the adapters.
    `tensors` have our names, with A and B for each layer, even where layers share A. `rank` and `dropout` are those of
    training."""

    base: Path
    tensors: Tensors
    rank: int
    alpha: float
    dropout: float = 0.0
    fingerprint: str | None = None

    @property
    def layers(self) -> list[str]:
        return [name.removesuffix(f".{LORA_A}") for name in self.tensors if name.endswith(f".{LORA_A}")]

    @property
    def targets(self) -> list[str]:
        return sorted({".".join(name.split(".")[-2:]) for name in self.layers})


def by_layer(tensors: Tensors, table: ParameterTable) -> dict[str, LazyTensor]:
    """Return a run's tensors, in which fused layers share one A, with an A for each layer that has B."""
    layers = [name.removesuffix(f".{LORA_B}") for name in tensors if name.endswith(f".{LORA_B}")]
    complete = dict(tensors)
    for layer in layers:
        shared = tensors.get(f"{table.has_factor(layer, layers)}.{LORA_A}")
        if shared is not None:
            complete.setdefault(f"{layer}.{LORA_A}", shared)
    return complete


def as_trained(adapters: Adapters, table: ParameterTable, where: str) -> dict[str, LazyTensor]:
    """Invert `by_layer`. Raises `UserError`, naming `where`, if fused layers do not have the same A."""
    tensors, layers = dict(adapters.tensors), adapters.layers
    for layer in layers:
        first = table.has_factor(layer, layers)
        if first == layer:
            continue
        theirs, own = tensors[f"{first}.{LORA_A}"], tensors.pop(f"{layer}.{LORA_A}")
        if theirs.shape != own.shape or not np.array_equal(theirs.float32(), own.float32()):
            raise untied(where, layer)
    return tensors


def checked_scale(scale: float, where: str) -> float:
    """Return `scale`, alpha / rank of adapters. Raises `UserError`, naming `where`, if FP32 cannot hold it, or as 0."""
    if not 2.0**-149 <= scale < 2.0**128:
        raise UserError(f"{where}: alpha / rank is {scale:g}, which FP32 does not hold; give adapters with another one")
    return scale


def check_base(adapters: Adapters, base: Tensors, where: str, model: Path) -> None:
    """Raise `UserError`, naming `where`, unless adapters fit a model's tensors and the fingerprint that they record."""
    merged(base, adapters, where)
    if adapters.fingerprint is not None and fingerprint(base) != adapters.fingerprint:
        raise UserError(f"{where}: adapters of another model than {model}; give theirs, which was at {adapters.base}")


def merged(base: Tensors, adapters: Adapters, where: str) -> dict[str, LazyTensor]:
    """The base model with W + alpha / rank B A, FP32, for each adapted W. `UserError` if an adapter does not fit."""
    result, scale, tensors = dict(base), adapters.alpha / adapters.rank, adapters.tensors
    for layer in dict.fromkeys(name.rpartition(".")[0] for name in tensors):
        a, b, weight = tensors.get(f"{layer}.{LORA_A}"), tensors.get(f"{layer}.{LORA_B}"), base.get(f"{layer}.weight")
        there = a is not None and b is not None and weight is not None
        if not there or b.shape[:1] + a.shape[1:] != weight.shape or b.shape[1:] != a.shape[:1]:
            raise UserError(f"{where}: the adapter of {layer} does not fit the model; use the model it was trained on")

        def load(weight: LazyTensor = weight, a: LazyTensor = a, b: LazyTensor = b) -> np.ndarray:
            return weight.float32() + np.float32(scale) * (b.float32() @ a.float32())

        result[f"{layer}.weight"] = LazyTensor("float32", weight.shape, load)
    return result


def unmerged(tensors: ForeignTensors, where: str) -> tuple[dict[Any, LazyTensor], dict[str, LazyTensor]]:
    """Split a checkpoint into weights and mindpet's adapters, with our names. Raises `UserError` without weights."""
    found = {name: match for name in tensors if isinstance(name, str) and (match := _DELTA.fullmatch(name))}
    factors = {f"{match[1]}.lora_{match[2].lower()}": tensors[name] for name, match in found.items()}
    if found and (len(factors) < len(found) or len(found) == len(tensors)):
        remedy = "give a checkpoint of all parameters (mindformers' save_trainable_params writes adapters alone)"
        raise UserError(f"{where}: holds adapters of mindformers twice, or without their model; {remedy}")
    return {name: tensor for name, tensor in tensors.items() if name not in found}, factors


def recorded_alpha(path: Path, rank: int) -> Any:
    """Return the alpha of mindformers' adapters in the checkpoint at `path`, from the nearest folder with a file that
    records it; None if there is none or two differ. Raises `UserError` if it belongs to adapters of another rank."""
    for folder in [path, *path.absolute().parents][path.is_file() :][:_FOLDERS]:
        found = set()
        for name in list(filter(_SETTINGS.fullmatch, entries(folder)))[:_FILES]:
            with suppress(MalformedText, UserError, AttributeError, LookupError, TypeError):  # another kind of file
                settings = parse_yaml(read_inside(folder, name, MAX_BYTES))  # JSON is YAML, too
                pet = settings if name.endswith("json") else settings["model"]["model_config"]["pet_config"]
                found.add((pet[ALPHA], pet.get("r", pet.get("lora_rank", rank))))
        if found:
            alphas, (said, *_) = {alpha for alpha, _ in found}, sorted({str(its_rank) for _, its_rank in found})
            if said != str(rank):
                raise UserError(f"{folder}: records adapters of rank {said}, {path} has rank {rank}; give one run's")
            return alphas.pop() if len(alphas) == 1 else None
    return None
