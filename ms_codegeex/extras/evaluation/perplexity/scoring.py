"""Sum the log-probabilities of a text's tokens, in windows if the text is longer than the model's context."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.description import ModelDescription
from ms_codegeex.data.tokenizer.base import Tokenizer


class Scorer(Protocol):
    """A model that gives the probabilities of a text's tokens, such as `generation.engine.Generator`."""

    tokenizer: Tokenizer
    seq_length: int
    description: ModelDescription

    def log_probabilities(self, ids: Sequence[int]) -> np.ndarray:
        """The natural log-probability of every id but the first, given the ids before it; at most `seq_length` ids."""


@dataclass(frozen=True)
class Score:
    """The summed negative log-probability in nats of a number of tokens."""

    nats: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """exp of the mean; nan without tokens, inf if it exceeds a float."""
        if not self.tokens:
            return math.nan
        mean = self.nats / self.tokens
        return math.exp(mean) if mean < 709 else math.inf

    def __add__(self, other: Score) -> Score:
        return Score(self.nats + other.nats, self.tokens + other.tokens)


def windowed(model: Scorer, ids: Sequence[int], window: int | None = None, stride: int | None = None) -> np.ndarray:
    """Log-probabilities FP32 [len(ids) - 1] of all ids but the first. A text of more than `window` tokens (default: the
    model's context) is read in windows that start every `stride` tokens (default: half a window). Each token is scored
    once, in the first window with it, so its context is at least `window` - `stride` tokens, or all before it."""
    window = model.seq_length if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    if not 2 <= window <= model.seq_length or not 1 <= stride < window:
        wanted = f"a window of 2 to {model.seq_length} tokens (the model's context) and a stride of 1 to one less"
        raise UserError(f"window {window}, stride {stride}: expected {wanted} than it")
    scored, parts = 1, []
    for begin in range(0, max(1, len(ids)), stride):
        piece = ids[begin : begin + window]
        parts.append(model.log_probabilities(piece)[scored - begin - 1 :])
        scored = begin + len(piece)
        if scored >= len(ids):
            break
    return np.concatenate(parts)
