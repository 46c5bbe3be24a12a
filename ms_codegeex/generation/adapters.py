"""Adapters (LoRA) on one model, applied row by row: the rows of a pass may have different ones, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.peft import open_adapters
from ms_codegeex.generation.loading import QUANTISED, LoadedModel
from ms_codegeex.generation.matrices import MAX_RANK, LowRank
from ms_codegeex.generation.shares import SharedWeights
from ms_codegeex.models.parameters import LORA_A, LORA_B

MAX_ROWS = 1 << 16  # of a pass


@dataclass(frozen=True)
class Adapter:
    """An adapter by the name that requests give; `matrices` by the names of the weights that it changes."""

    name: str
    path: Path
    matrices: Mapping[str, LowRank]

    def part(self, weights: SharedWeights) -> Adapter:
        """A device's part of it: a part of a matrix has the same columns of A and the same rows of B."""
        found = {
            name: LowRank(each.a[:, weights.part(name, 1)], each.b[weights.part(name, 0)])
            for name, each in self.matrices.items()
        }
        return Adapter(self.name, self.path, found)


def load_adapters(paths: Mapping[str, Path], model: LoadedModel) -> list[Adapter]:
    """The adapters in these places by their names. `UserError` for one that does not belong to the model."""
    return [_loaded(name, Path(path), model) for name, path in paths.items()]


def _loaded(name: str, path: Path, model: LoadedModel) -> Adapter:
    exact = model.source.kind != QUANTISED  # rounded numbers do not show which model it was
    opened = open_adapters(path, model.source, check_fingerprint=exact)
    matrices, scale = {}, np.float32(opened.alpha / opened.rank)
    for layer in opened.layers:
        a, b = (opened.tensors[f"{layer}.{kind}"].float32() for kind in (LORA_A, LORA_B))
        used = b.any(0)
        if np.count_nonzero(used) > MAX_RANK:
            raise UserError(f"--adapter: {path}: rank {len(a)} of {layer} is too large; {MAX_RANK} is the most")
        if used.any():
            matrices[f"{layer}.weight"] = LowRank(a[used], scale * b[:, used])
    return Adapter(name, path, matrices)


def of_matrix(adapters: Sequence[Adapter], name: str) -> list[LowRank | None] | None:
    """Each adapter's addition to the product with this matrix; None if none adds anything."""
    found = [adapter.matrices.get(name) for adapter in adapters]
    return found if any(each is not None for each in found) else None
