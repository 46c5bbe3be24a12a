"""A token that was chosen."""

from __future__ import annotations

from typing import NamedTuple


class Chosen(NamedTuple):
    """A token and its log-probability; the likeliest tokens with theirs, as many as were requested."""

    token: int
    score: float
    best: tuple[tuple[int, float], ...] = ()
