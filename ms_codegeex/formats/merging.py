"""A model with adapters in its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.adapters import Adapters, fingerprint
from ms_codegeex.formats.tensors import LazyTensor
from ms_codegeex.models.parameters import LORA_A, LORA_B


def checked_scale(scale: float, where: str) -> float:
    """alpha / rank of adapters. `UserError` naming `where` unless FP32 holds it, and not as 0."""
    if not 2.0**-149 <= scale < 2.0**128:
        raise UserError(f"{where}: alpha / rank is {scale:g}, which FP32 does not hold; give adapters with another one")
    return scale


def check_base(adapters: Adapters, base: Mapping[str, LazyTensor], where: str, model: Path) -> None:
    """`UserError` unless adapters fit a model's tensors and have its fingerprint, if they record one. `where` names the
    adapters in messages."""
    merged(base, adapters, where)
    if adapters.fingerprint is not None and fingerprint(base) != adapters.fingerprint:
        raise UserError(f"{where}: adapters of another model than {model}; give theirs, which was at {adapters.base}")


def merged(base: Mapping[str, LazyTensor], adapters: Adapters, where: str) -> dict[str, LazyTensor]:
    """The base model with W + alpha / rank B A, FP32, in the place of each adapted W. `UserError` naming `where` and
    the adapter that does not fit."""
    result, scale, tensors = dict(base), adapters.alpha / adapters.rank, adapters.tensors
    for layer in dict.fromkeys(name.rpartition(".")[0] for name in tensors):
        a, b, weight = tensors.get(f"{layer}.{LORA_A}"), tensors.get(f"{layer}.{LORA_B}"), base.get(f"{layer}.weight")
        there = a is not None and b is not None and weight is not None
        if not there or b.shape[:1] + a.shape[1:] != weight.shape or b.shape[1:] != a.shape[:1]:
            raise UserError(f"{where}: the adapter of {layer} does not fit the model; use the model it was trained on")
        result[f"{layer}.weight"] = _sum(weight, a, b, scale)
    return result


def _sum(weight: LazyTensor, a: LazyTensor, b: LazyTensor, scale: float) -> LazyTensor:
    def load() -> np.ndarray:
        return weight.float32() + np.float32(scale) * (b.float32() @ a.float32())

    return LazyTensor("float32", weight.shape, load)
