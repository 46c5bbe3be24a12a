"""Opens a model for generation, in any of the formats in which it may be stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.infilling.sentinels import DESCRIPTION, Sentinels, declared_infill, sentinels
from ms_codegeex.data.tokenizer import Tokenizer, load_tokenizer
from ms_codegeex.formats.checkpoint_folder import resolve
from ms_codegeex.formats.peft import CONFIG, adapters_path
from ms_codegeex.formats.sources import Source, open_source
from ms_codegeex.formats.tensors import LazyTensor
from ms_codegeex.generation.quantised import QuantisedModel, is_quantised
from ms_codegeex.generation.weights import TensorWeights, Weights
from ms_codegeex.models.registry import Family

QUANTISED = "quantised"  # kind of the source of such a model


@dataclass(frozen=True)
class LoadedModel:
    """A model at `path`: its family, its sizes, and its weights, which are read on demand. `source` is the model that
    adapters belong to; for a quantised model it has only the shapes of the weights."""

    path: Path
    family: Family
    config: Any
    weights: Weights
    source: Source
    find_tokenizer: Callable[[], Tokenizer]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that it was trained with; `UserError` if it is not recorded."""
        return self.find_tokenizer()

    @cached_property
    def sentinels(self) -> Sentinels | None:
        """How to prompt it to fill in the middle; None if it was not trained for that. `UserError` if its declaration
        is malformed or does not fit its tokenizer."""
        return self.sentinels_in(self.source.infill, self.path)

    def sentinels_in(self, infill: Mapping[str, Any] | None, place: Path) -> Sentinels | None:
        """The same for the declaration of an adapter or the model at `place`."""
        if infill is None:
            return None
        where = str(place / DESCRIPTION if (place / DESCRIPTION).is_file() else place)
        found = sentinels(infill, where)
        found.check(self.tokenizer, self.config.vocab_size, f"{where}: infill")
        return found


def adapter_infill(path: Path) -> Mapping[str, Any] | None:
    """An adapter's declaration about infilling, from its directory or the checkpoint that holds it."""
    if (path / DESCRIPTION).is_file() or (path / CONFIG).is_file():
        return declared_infill(path)
    return resolve(path).state.get("infill")


def stored_at(model: Path, adapter: Path | None = None) -> tuple[Path, Path | None]:
    """The paths of the files of a model and of a LoRA adapter: for a run, its newest checkpoint."""
    return (
        model if is_quantised(model) else open_source(model).path,
        None if adapter is None else adapters_path(adapter),
    )


def load_model(path: Path, bits: int | None = None) -> LoadedModel:
    """Open a quantised model directory or anything that `open_source` opens; `UserError` if it cannot be.

    With `bits` 8 or 4, each matrix is rounded when it is read; a quantised model must have these bits already.
    """
    if is_quantised(path):
        model = QuantisedModel(path)
        if bits not in (None, model.bits):
            raise UserError(f"--bits: {path} has {model.bits} bits; leave out --bits, or give the model it was made of")
        declared, shapes = declared_infill(model.path), model.config.parameter_shapes()
        tensors = {name: LazyTensor("float32", shape, lambda: np.zeros(0)) for name, shape in shapes.items()}
        source = Source(model.path, QUANTISED, model.family, model.fields, tensors, None, infill=declared)
        return LoadedModel(model.path, model.family, model.config, model, source, lambda: load_tokenizer(model.path))
    source = open_source(Path(path))
    weights = TensorWeights(source.tensors, bits, products=source.config.product_names())
    return LoadedModel(source.path, source.family, source.config, weights, source, source.tokenizer)
