"""What a dataset asks of a transform that rearranges texts while they are read; `infilling.transform` has one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class RearrangedText:
    """The ids of a rearranged text, int64 `[n]`, and whether the loss counts each, bool `[n]`."""

    ids: np.ndarray
    counted: np.ndarray


class Rearrangement(Protocol):
    """A pure function of a text, its key and a seed. `level` is what is rearranged: the parts of documents in a sample
    (`context`), or a whole `document`, always alike. `marks`: ids of the sentinels of prefix, suffix and middle."""

    level: str
    marks: Mapping[str, int]

    @property
    def sentinels(self) -> Any:
        """How to prompt a model that was trained with this."""

    def rearrange(
        self, ids: np.ndarray, key: tuple[int, ...], *, ended: bool = True, prompt: int = 0
    ) -> RearrangedText | None:
        """A text with the same number of tokens, or None if it stays unchanged."""

    def check_rows(self, rows: int) -> None:
        """`UserError` if a model's table has no row for a sentinel."""

    def check(self, ids: np.ndarray, where: str) -> None:
        """`UserError` if a sentinel occurs in a dataset's text."""
