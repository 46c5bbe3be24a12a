"""The choice of the next token, and the inputs of the choice operator. First, the logits of a few ids per row are
edited: x -> (x / factor if x > 0 else x * factor) + term. Then the filters of `Drawing` apply, in the order of its
fields. Reported log-probabilities are those of the unedited logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.generation.sampling import ChosenToken, Drawing, SamplingSettings

PADDING = (-1.0, 1.0, 0.0)
WIDTHS = (1, 64, 512, 4096, 32768)  # numbers of edits per row (or one per id); MindSpore compiles a graph for each
DRAWING = tuple(each.name for each in fields(Drawing))
COLUMNS = (*DRAWING, "uniform", "given", "allowed")  # the operator's settings; same order as `Choice` in choice.h
COLDEST = 1e-6  # lower temperatures are raised to this, because the reciprocal must fit in a float32


@dataclass(frozen=True, eq=False)
class TokenChoice(Drawing):
    """Settings for the choice of the token after one row. The number `uniform` in [0, 1) selects the token, unless the
    choice is greedy (temperature 0) or the id is `given` (-1: none). `edits` float64 [a, 3] holds ids, factors and
    terms, each id at most once. The `best` likeliest tokens are reported too."""

    uniform: float = 0.0
    given: int = -1
    edits: np.ndarray | tuple[()] = ()
    best: int = 0

    def row(self, allowed: int) -> list[float]:
        """Return the operator's settings, in the order of `COLUMNS`. Only ids below `allowed` are chosen."""
        return [*(getattr(self, name) for name in DRAWING), self.uniform, self.given, allowed]


def check_finite(values: float | np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise RunFailure("generation: the model's logits are not finite; its weights are damaged or it diverged")


def uniform(seed: int, position: int) -> float:
    """Return a random number in [0, 1): Philox with `seed` as key and `position` in the answer as counter."""
    return float(np.random.Generator(np.random.Philox(key=seed, counter=position)).random())


def logit_edits(settings: SamplingSettings, prompt: Sequence[int], output: Sequence[int]) -> np.ndarray:
    """Return the penalties and biases for the token after `output` as `TokenChoice.edits`, float64 [a, 3]."""
    if not settings.edited:
        return np.zeros((0, 3))
    bias = np.array(sorted(settings.logit_bias.items()), np.float64).reshape(-1, 2)
    new, counts = np.unique(np.asarray(output, np.int64), return_counts=True)
    seen = np.union1d(np.asarray(prompt, np.int64), new) if settings.repetition_penalty != 1 else new[:0]
    ids = np.unique(np.concatenate([seen, new, bias[:, 0].astype(np.int64)]))
    edits = np.stack([ids, np.ones(len(ids)), np.zeros(len(ids))], 1)
    edits[np.searchsorted(ids, seen), 1] = settings.repetition_penalty
    edits[np.searchsorted(ids, new), 2] -= settings.frequency_penalty * counts + settings.presence_penalty
    edits[np.searchsorted(ids, bias[:, 0]), 2] += bias[:, 1]
    return edits


def token_choice(settings: SamplingSettings, prompt: Sequence[int], output: Sequence[int]) -> TokenChoice:
    """Return the choice of the next token, given the `prompt` and the answer so far, `output`."""
    drawing = {name: getattr(settings, name) for name in DRAWING}
    drawing["temperature"] = max(settings.temperature, COLDEST) if settings.temperature else 0.0  # greedy
    return TokenChoice(
        uniform=uniform(settings.seed, len(output)),
        **drawing,
        edits=logit_edits(settings, prompt, output),
        best=settings.log_probabilities,
    )


def pack(choices: Sequence[TokenChoice], rows: int, allowed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the operator's inputs for `choices`, padded to `rows` rows: settings float64 [rows, columns], edits
    float64 [rows, a, 3], and zeros int32 [1 + k], whose size tells the operator to report k likeliest ids. a is one of
    `WIDTHS` or `allowed`; k is 0, a power of two or `allowed`."""
    settings = np.tile(np.array(TokenChoice().row(allowed), np.float64), (rows, 1))
    maximum = max((len(choice.edits) for choice in choices), default=0)
    edits = np.tile(np.array(PADDING), (rows, next(width for width in (*WIDTHS, allowed) if maximum <= width), 1))
    for i, choice in enumerate(choices):
        settings[i] = choice.row(allowed)
        if len(choice.edits):
            edits[i, : len(choice.edits)] = choice.edits
    best = max((choice.best for choice in choices), default=0)
    k = min(1 << (best - 1).bit_length(), allowed) if best else 0
    return settings, edits, np.zeros(1 + k, np.int32)


def unpack(out: np.ndarray, choices: Sequence[TokenChoice]) -> list[ChosenToken]:
    """Convert the operator's output [n, 1 + k, 2] to one `ChosenToken` for each of `choices`."""
    return [
        ChosenToken(int(row[0, 0]), float(row[0, 1]), tuple((int(i), float(p)) for i, p in row[1 : 1 + choice.best]))
        for row, choice in zip(out, choices, strict=False)
    ]
