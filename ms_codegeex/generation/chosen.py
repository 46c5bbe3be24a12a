"""The tokens that were chosen for an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Chosen(NamedTuple):
    """A token and its log-probability; the likeliest tokens with theirs, as many as were requested."""

    token: int
    score: float
    best: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Answer:
    """`text` ends before a stop text; `tokens` are all chosen ones except eos. `finish`: "eos", "stop" or "length".
    `score`: of a beam, else None."""

    text: str
    tokens: Sequence[Chosen]
    finish: str
    score: float | None = None
