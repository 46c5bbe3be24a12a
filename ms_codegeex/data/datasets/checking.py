"""What the datasets of a run are checked for before its workers open them, and what a user should know of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.config.blend import LONGEST_PERIOD, parse_stages
from ms_codegeex.data.datasets.batches import PackedSequences, Sequences, read_info
from ms_codegeex.data.datasets.blend import Blend
from ms_codegeex.data.datasets.opening import reaches
from ms_codegeex.data.tokenizer.recorded import TOKENIZER_DIRECTORY, other_token, recorded_tokenizer

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig
    from ms_codegeex.config.sections import DataConfig


def check_meanings(evaluated: Mapping[str, Sequences], trained: Path) -> None:
    """`UserError` for a dataset, by its configuration key, whose ids have other meanings than those of the dataset
    `trained`. One tokenizer may have more tokens than the other; datasets that record no tokenizer are not compared."""
    record = read_info(trained).get("tokenizer")
    for key, data in evaluated.items():
        theirs = data.info.get("tokenizer")
        if not record or not theirs or record.get("fingerprint") == theirs.get("fingerprint"):
            continue
        theirs = recorded_tokenizer(data.info["tokenizer"], data.directory / TOKENIZER_DIRECTORY, data.directory)
        odd = other_token(recorded_tokenizer(record, trained / TOKENIZER_DIRECTORY, trained), theirs)
        if odd is not None:
            raise UserError(
                f"{key}: token {odd} of {data.directory} is another one in {trained}; prepare both with "
                "the same tokenizer"
            )


def rounded_weights(data: DataConfig) -> str | None:
    """A note for the user if weights of a blend had to be rounded."""
    rounded = [stage for stage in parse_stages(data.blend) if stage.rounded] if data.blend is not None else []
    if not rounded:
        return None
    steps = ", ".join(str(stage.from_step) for stage in rounded)
    return f"data.blend: the weights from step {steps} on are rounded to multiples of one in {LONGEST_PERIOD:,}"


def note_on_functions(config: RunConfig, training: Sequences | Blend) -> str | None:
    """For the user: what `data.functions_from` means for the corpus; None if the run does not reach that step."""
    first = config.data.functions_from
    if first is None or not reaches(config, first):
        return None
    if not isinstance(training, PackedSequences):
        result = "has examples of fine-tuning, which begin where they do"
    elif training.starts is None:
        result = "is read continuously: half of it has no functions, or it does not say which tokenizer made it"
    else:
        length = training.seq_length
        tokens = np.minimum(np.diff(training.starts), length).sum() + length  # those of several sequences once
        share = f"{tokens / len(training.tokens):.0%}"
        result = f"is read in sequences that begin at functions after {first:,} steps; these hold {share} of its tokens"
    return f"data.functions_from: {training.directory} {result}"
