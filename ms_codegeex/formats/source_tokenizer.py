"""The tokenizer of a model in any known layout."""

from __future__ import annotations

from ms_codegeex.data.tokenizer import Tokenizer, load_tokenizer
from ms_codegeex.data.tokenizer.recorded import checkpoint_tokenizer, family_tokenizer
from ms_codegeex.formats.checkpoint import Checkpoint
from ms_codegeex.formats.sources import Source


def source_tokenizer(source: Source) -> Tokenizer:
    """The tokenizer that the model was trained with; `UserError` if nothing records which one."""
    if source.kind == "huggingface":
        return load_tokenizer(source.path)
    if source.kind == "checkpoint":
        return checkpoint_tokenizer(source.path, Checkpoint(source.path).state, source.family.name)
    remedy = "convert it to a model directory and put its tokenizer there"
    return family_tokenizer(source.path, source.family.name, remedy)
