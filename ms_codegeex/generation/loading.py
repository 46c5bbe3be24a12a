"""Opening a model for generation, whatever it is stored as."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.data.tokenizer import Tokenizer, load_tokenizer
from ms_codegeex.data.tokenizer.recorded import checkpoint_tokenizer, family_tokenizer
from ms_codegeex.formats.checkpoint import Checkpoint
from ms_codegeex.formats.sources import Source, open_source
from ms_codegeex.generation.quantised import QuantisedModel, is_quantised
from ms_codegeex.generation.rows import TensorWeights, Weights
from ms_codegeex.models.registry import Family


@dataclass(frozen=True)
class LoadedModel:
    """A model at `path`: its family, sizes and tokenizer, and its weights, which are read when they are asked for."""

    path: Path
    family: Family
    config: Any
    weights: Weights
    tokenizer: Tokenizer


def load_model(path: Path) -> LoadedModel:
    """Open a quantised model directory or anything that `open_source` opens; `UserError` if it cannot be."""
    if is_quantised(path):
        model = QuantisedModel(path)
        return LoadedModel(model.path, model.family, model.config, model, load_tokenizer(model.path))
    source = open_source(Path(path))
    return LoadedModel(source.path, source.family, source.config, TensorWeights(source.tensors), _tokenizer(source))


def _tokenizer(source: Source) -> Tokenizer:
    """The tokenizer that the model was trained with; a `UserError` if nothing says which."""
    if source.kind == "huggingface":
        return load_tokenizer(source.path)
    if source.kind == "checkpoint":
        return checkpoint_tokenizer(source.path, Checkpoint(source.path).state, source.family.name)
    remedy = "convert it to a model directory, put its tokenizer there and generate from that"
    return family_tokenizer(source.path, source.family.name, remedy)
