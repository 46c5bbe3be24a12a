"""Adapters (LoRA): whether they belong to a model, and the model with them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.json_reading import Malformed
from ms_codegeex.base.quarantine import entries
from ms_codegeex.base.reading import read_inside
from ms_codegeex.base.yaml_reading import MAX_BYTES, parse_yaml
from ms_codegeex.formats.tensors import LazyTensor
from ms_codegeex.models.foreign import ForeignName
from ms_codegeex.models.parameters import LORA_A, LORA_B, ParameterTable

ALPHA = "lora_alpha"  # in the settings of PEFT and of mindformers
_DELTA = re.compile(r"(.+)\.mindpet_delta_lora_([ab])", re.IGNORECASE)  # mindpet's names of an adapter's factors
_SETTINGS = re.compile(r"(mindformers_)?adapter_config\.json|.+\.ya?ml")  # where mindformers records alpha
_FOLDERS, _FILES = 3, 20  # a checkpoint is OUTPUT/checkpoint/rank_0/NAME.ckpt, and the settings are in one of these


@dataclass(frozen=True)
class Adapters:
    """Adapters for the model at `base`. `fingerprint` is that model's; None if another program wrote the adapters.
    `tensors` have our names; each layer has A and B, also where layers share A. `rank` and `dropout`: of training."""

    base: Path
    tensors: Mapping[str, LazyTensor]
    rank: int
    alpha: float
    dropout: float = 0.0
    fingerprint: str | None = None

    @property
    def layers(self) -> list[str]:
        """Names of the layers that have an adapter."""
        return [name.removesuffix(f".{LORA_A}") for name in self.tensors if name.endswith(f".{LORA_A}")]

    @property
    def targets(self) -> list[str]:
        """The layers, relative to their blocks, as `lora.targets` names them."""
        return sorted({".".join(name.split(".")[-2:]) for name in self.layers})


def by_layer(tensors: Mapping[str, LazyTensor], table: ParameterTable) -> dict[str, LazyTensor]:
    """The tensors of a run, where fused layers have one A, with an A for each layer that has B."""
    layers = [name.removesuffix(f".{LORA_B}") for name in tensors if name.endswith(f".{LORA_B}")]
    complete = dict(tensors)
    for layer in layers:
        shared = tensors.get(f"{table.has_factor(layer, layers)}.{LORA_A}")
        if shared is not None:
            complete.setdefault(f"{layer}.{LORA_A}", shared)
    return complete


def as_trained(adapters: Adapters, table: ParameterTable, where: str) -> dict[str, LazyTensor]:
    """The inverse of `by_layer`. `UserError` naming `where` if fused layers do not have the same A."""
    tensors, layers = dict(adapters.tensors), adapters.layers
    for layer in layers:
        first = table.has_factor(layer, layers)
        if first == layer:
            continue
        theirs, own = tensors[f"{first}.{LORA_A}"], tensors.pop(f"{layer}.{LORA_A}")
        if theirs.shape != own.shape or not np.array_equal(theirs.float32(), own.float32()):
            raise untied(where, layer)
    return tensors


def untied(where: str, layer: str) -> UserError:
    """The error for adapters of earlier versions, with an A for each fused layer, where a run is to be continued."""
    return UserError(
        f"{where}: {layer} has a factor A of its own, from an earlier version; now fused layers share one, as in PEFT, "
        "so merge these adapters into their model with `ms-codegeex adapter merge` and train new ones on that"
    )


def fingerprint(tensors: Mapping[str, LazyTensor]) -> str:
    """64 hex digits over the names and shapes of a model's tensors and the first row of each."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        first = tensor.window((slice(0, 1), *(slice(None),) * (len(tensor.shape) - 1)))
        digest.update(f"{name} {tensor.shape}\n".encode() + first.float32().tobytes())
    return digest.hexdigest()


def checked_scale(scale: float, where: str) -> float:
    """alpha / rank of adapters. `UserError` naming `where` unless FP32 holds it, and not as 0."""
    if not 2.0**-149 <= scale < 2.0**128:
        raise UserError(f"{where}: alpha / rank is {scale:g}, which FP32 does not hold; give adapters with another one")
    return scale


def check_base(adapters: Adapters, base: Mapping[str, LazyTensor], where: str, model: Path) -> None:
    """`UserError` unless adapters fit a model's tensors and the fingerprint that they record; `where` names them."""
    merged(base, adapters, where)
    if adapters.fingerprint is not None and fingerprint(base) != adapters.fingerprint:
        raise UserError(f"{where}: adapters of another model than {model}; give theirs, which was at {adapters.base}")


def merged(base: Mapping[str, LazyTensor], adapters: Adapters, where: str) -> dict[str, LazyTensor]:
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


def unmerged(
    tensors: Mapping[ForeignName, LazyTensor], where: str
) -> tuple[dict[ForeignName, LazyTensor], dict[str, LazyTensor]]:
    """A checkpoint's weights, and mindpet's adapters in it as ours, `layer.lora_a`. `UserError` if it has adapters
    alone, or one of them twice."""
    weights, factors = dict[ForeignName, LazyTensor](), dict[str, LazyTensor]()
    for name, tensor in tensors.items():
        match = _DELTA.fullmatch(name) if isinstance(name, str) else None
        if match is None:
            weights[name] = tensor
        elif factors.setdefault(f"{match[1]}.{LORA_A[:-1]}{match[2].lower()}", tensor) is not tensor:
            raise UserError(f"{where}: {name} is there twice; give one run's checkpoint")
    if factors and not weights:
        remedy = "give the checkpoint of all parameters (mindformers' save_trainable_params writes adapters alone)"
        raise UserError(f"{where}: holds adapters of mindformers without their model; {remedy}")
    return weights, factors


def _recorded(folder: Path) -> Iterator[Mapping[str, Any]]:
    """The settings of adapters that mindformers, or the user of its run, left in a folder."""
    for name in list(filter(_SETTINGS.fullmatch, entries(folder)))[:_FILES]:
        try:
            settings = parse_yaml(read_inside(folder, name, MAX_BYTES))  # JSON is YAML, too
            for key in () if name.endswith("json") else ("model", "model_config", "pet_config"):
                settings = settings[key]
        except (Malformed, UserError, LookupError, TypeError):  # another program's file
            continue
        if isinstance(settings, Mapping) and ALPHA in settings:
            yield settings


def recorded_alpha(path: Path, rank: int) -> Any:
    """The alpha of mindformers' adapters of this rank in the checkpoint at `path`, from the nearest folder that records
    one. None: none does, or two differ. `UserError` if it records another rank."""
    for folder in [path, *path.absolute().parents][path.is_file() :][:_FOLDERS]:
        found = list(_recorded(folder))
        for settings in found:
            if (said := settings.get("r", settings.get("lora_rank", rank))) != rank:
                raise UserError(f"{folder}: records adapters of rank {said}, {path} has rank {rank}; give one run's")
        if found:
            return found[0][ALPHA] if all(each[ALPHA] == found[0][ALPHA] for each in found) else None
    return None
