"""Choosing the next token from logits, in NumPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ms_codegeex.errors import UserError


@dataclass(frozen=True)
class SamplingSettings:
    """How to choose tokens. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 are off; the same `seed` gives the same
    text."""

    max_new_tokens: int = 128
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        for name, wrong, expected in (
            ("max_new_tokens", self.max_new_tokens < 1, "1 or more"),
            ("temperature", not 0 <= self.temperature < 100, "0 (greedy) or more"),
            ("top_k", self.top_k < 0, "0 (off) or more"),
            ("top_p", not 0 < self.top_p <= 1, "above 0 and at most 1 (off)"),
        ):
            if wrong:
                raise UserError(f"{name}: {getattr(self, name)} is out of range; give {expected}")


def token_probabilities(logits: np.ndarray, settings: SamplingSettings, allowed: int) -> np.ndarray:
    """Probabilities float64 [V] after temperature, top-k and top-p, in that order; ids from `allowed` on have none.

    Top-p keeps the smallest set of likeliest tokens whose probability reaches p, including the token that crosses p
    (CodeGeeX release). All tokens that tie with the k-th stay.
    """
    scores = np.asarray(logits, np.float64).copy()
    scores[allowed:] = -np.inf  # rows without a token
    if settings.temperature == 0:
        chosen = np.zeros_like(scores)
        chosen[int(np.argmax(scores))] = 1.0
        return chosen
    scores /= settings.temperature
    if 0 < settings.top_k < allowed:
        scores[scores < np.partition(scores, -settings.top_k)[-settings.top_k]] = -np.inf
    probabilities = np.exp(scores - scores.max())
    probabilities /= probabilities.sum()
    if settings.top_p < 1:
        order = np.argsort(-probabilities, kind="stable")
        before = np.cumsum(probabilities[order]) - probabilities[order]
        probabilities[order[before >= settings.top_p]] = 0.0
        probabilities /= probabilities.sum()
    return probabilities


def sample(logits: np.ndarray, settings: SamplingSettings, allowed: int, generator: np.random.Generator) -> int:
    """One token id chosen from logits [V]."""
    probabilities = token_probabilities(logits, settings, allowed)
    if settings.temperature == 0:
        return int(np.argmax(probabilities))
    return int(generator.choice(len(probabilities), p=probabilities))
