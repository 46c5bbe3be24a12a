"""Adapters (LoRA): whether they belong to a model, and the model with them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.tensors import LazyTensor
from ms_codegeex.models.parameters import LORA_A, LORA_B


@dataclass(frozen=True)
class Adapters:
    """Adapters for the model at `base`. `fingerprint` is that model's; None if another program wrote the adapters.
    `tensors` have our names. `rank` and `dropout` are those of their training."""

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


def fingerprint(tensors: Mapping[str, LazyTensor]) -> str:
    """64 hex digits over the names and shapes of a model's tensors and the first row of each."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        first = tensor.window((slice(0, 1), *(slice(None),) * (len(tensor.shape) - 1)))
        digest.update(f"{name} {tensor.shape}\n".encode() + first.float32().tobytes())
    return digest.hexdigest()


def check_base(adapters: Adapters, base: Mapping[str, LazyTensor], where: str, model: Path) -> None:
    """`UserError` unless adapters fit a model's tensors and have its fingerprint, if they record one. `where` names the
    adapters in messages."""
    merged(base, adapters, where)
    if adapters.fingerprint is not None and fingerprint(base) != adapters.fingerprint:
        raise UserError(f"{where}: adapters of another model than {model}; give theirs, which was at {adapters.base}")


def merged(base: Mapping[str, LazyTensor], adapters: Adapters, where: str) -> dict[str, LazyTensor]:
    """The base model with W + alpha / rank B A, FP32, in the place of each adapted W. `UserError` naming `where` and
    the adapter that does not fit."""
    result, scale = dict(base), adapters.alpha / adapters.rank
    for name, a in adapters.tensors.items():
        layer, _, kind = name.rpartition(".")
        if kind != LORA_A:
            continue
        b, weight = adapters.tensors.get(f"{layer}.{LORA_B}"), base.get(f"{layer}.weight")
        if b is None or weight is None or (b.shape[0], a.shape[1]) != weight.shape or b.shape[1] != a.shape[0]:
            raise UserError(f"{where}: the adapter of {layer} does not fit the model; use the model it was trained on")
        result[f"{layer}.weight"] = _sum(weight, a, b, scale)
    return result


def _sum(weight: LazyTensor, a: LazyTensor, b: LazyTensor, scale: float) -> LazyTensor:
    def load() -> np.ndarray:
        return weight.float32() + np.float32(scale) * (b.float32() @ a.float32())

    return replace(weight, dtype="float32", load=load, part=None)
