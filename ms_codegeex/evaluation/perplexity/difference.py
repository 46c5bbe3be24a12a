"""Measures how much two models with one tokenizer differ on a corpus, such as a quantised model and its original. One
model is in memory at a time: the first one's logits are kept in a file. Embedding rows without a token are left out."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.evaluation.perplexity.corpus import CorpusPerplexity, measure
from ms_codegeex.evaluation.perplexity.scoring import Scorer

MAX_TOKENS = 4096  # of a corpus: with 50,000 tokens in the table, their logits take 0.8 GB
STEPS, STEP = 50, 0.02  # of the distribution of differences, in nats


class LogitsModel(Scorer, Protocol):
    """A model that also gives the scores of all tokens, such as `generation.engine.Generator`."""

    def all_logits(self, ids: Sequence[int]) -> np.ndarray:
        """FP32 [len(ids), V]: the scores of the token that follows each of `ids`."""


class Observed:
    """A model as a `Scorer` that shows `seen` the logits of every token that it scores."""

    def __init__(self, model: LogitsModel, seen: Callable[[np.ndarray], None]):
        self.model, self.seen = model, seen
        self.tokenizer, self.seq_length = model.tokenizer, model.seq_length
        self.scored: list[np.ndarray] = []

    def log_probabilities(self, ids: Sequence[int]) -> np.ndarray:
        """As a `Scorer`."""
        logprobs = np.zeros(0, np.float32)
        if len(ids) > 1:
            logits = self.model.all_logits(ids[:-1])
            chosen = logits[np.arange(len(logits)), ids[1:]]
            logprobs = np.array([score - _log_sum(row) for row, score in zip(logits, chosen, strict=True)], np.float32)
            self.seen(logits[:, : self.tokenizer.vocab_size])
        self.scored.append(logprobs)
        return logprobs


@dataclass
class LogitDifference:
    """Sums over all positions. Errors are those of logits minus their mean, because the mean has no effect."""

    positions: int = 0
    numbers: int = 0
    squares: float = 0.0
    largest: float = 0.0
    equal: int = 0
    divergence: float = 0.0

    def add(self, first: np.ndarray, second: np.ndarray) -> None:
        """Logits FP32 [n, V] of both models."""
        for one, other in zip(first, second, strict=True):
            a, b = (row.astype(np.float64) - row.mean(dtype=np.float64) for row in (one, other))
            error = b - a
            self.positions += 1
            self.numbers += error.size
            self.squares += float(error @ error)
            self.largest = max(self.largest, float(np.abs(error).max()))
            self.equal += int(one.argmax()) == int(other.argmax())
            a, b = a - _log_sum(a), b - _log_sum(b)
            self.divergence += float(np.exp(a) @ (a - b))

    def row(self) -> dict[str, float]:
        """Figures for a report."""
        return {
            "logit error, root mean square": (self.squares / self.numbers) ** 0.5,
            "logit error, largest": self.largest,
            "same likeliest token": self.equal / self.positions,
            "Kullback-Leibler divergence (nats)": self.divergence / self.positions,
        }


def distribution(first: np.ndarray, second: np.ndarray) -> list[float]:
    """The share of tokens whose log-probabilities differ by at most 1, 2, ... `STEPS` times `STEP`."""
    differences = np.abs(first.astype(np.float64) - second)
    return [float((differences <= STEP * (number + 1)).mean()) for number in range(STEPS)]


def _log_sum(row: np.ndarray) -> float:
    wide = row.astype(np.float64)
    maximum = wide.max()
    return float(maximum + np.log(np.exp(wide - maximum).sum()))


@dataclass(frozen=True)
class ModelComparison:
    """Two models on one corpus; `within`: see `distribution`."""

    first: CorpusPerplexity
    second: CorpusPerplexity
    difference: LogitDifference
    within: list[float]

    def row(self) -> dict[str, float]:
        """Figures for a report."""
        one, two = self.first.score.perplexity, self.second.score.perplexity
        return {"perplexity of the other model": one, "perplexity over the other's": two / one, **self.difference.row()}


def compare(
    open_first: Callable[[], LogitsModel],
    open_second: Callable[[], LogitsModel],
    data: Path,
    directory: Path,
    window: int | None = None,
    max_tokens: int | None = None,
) -> ModelComparison:
    """Measure both on `data` in windows that do not overlap, up to `max_tokens` (default `MAX_TOKENS`). `directory`
    keeps the first one's logits in the meantime. Raises `UserError` for models with different tokenizers."""
    model = open_first()
    window, fingerprint = model.seq_length if window is None else window, model.tokenizer.fingerprint
    how = ([data], window, window - 1, MAX_TOKENS if max_tokens is None else max_tokens, True, True)
    with tempfile.TemporaryFile(dir=directory) as file:

        def keep(logits: np.ndarray) -> None:
            try:
                file.write(np.ascontiguousarray(logits).data)
            except OSError as error:
                raise UserError(f"{directory}: {error.strerror}; give a smaller --max-tokens") from None

        observed = Observed(model, keep)
        one, scored = measure(observed, *how), np.concatenate(observed.scored)
        del model, observed
        gc.collect()  # the first model is released before the second one is loaded
        model, difference = open_second(), LogitDifference()
        if model.tokenizer.fingerprint != fingerprint:
            raise UserError("--against: its tokenizer is not that of --model; give a model with the same one")

        def compared(logits: np.ndarray) -> None:
            kept = np.frombuffer(file.read(4 * logits.size), np.float32)
            difference.add(kept.reshape(logits.shape), logits)

        file.seek(0)
        observed = Observed(model, compared)
        two = measure(observed, *how)
    return ModelComparison(one, two, difference, distribution(scored, np.concatenate(observed.scored)))
