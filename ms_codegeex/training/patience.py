"""The best evaluation of a run, and whether the run no longer improves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class Patience:
    """Counts evaluations that are no better than all earlier ones: after the first steps a run is often worse than the
    model it starts from, and still learns.

    Attributes:
        best: step and loss of the best evaluation; step 0 is the model that the run starts from.
        worse: evaluations since the last that was lower than those of all steps before.
        lowest: loss of that one.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.best: tuple[int, float] | None = None
        self.worse = 0
        self.lowest: float | None = None

    @property
    def exhausted(self) -> bool:
        """Whether the run should end; never without a limit."""
        return bool(self.limit) and self.worse >= self.limit

    def start(self, loss: float) -> None:
        """The model that the run starts from is a candidate for the best one. It is not what later ones are compared
        with."""
        self.best = (0, loss)

    def compare(self, step: int, loss: float) -> None:
        """Take an evaluation into account."""
        if not math.isfinite(loss) or (self.lowest is not None and loss >= self.lowest):
            self.worse += 1
            return
        self.lowest, self.worse = loss, 0
        if self.best is None or loss < self.best[1]:
            self.best = (step, loss)

    def state(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {"best": self.best, "worse": self.worse, "lowest": self.lowest}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint. Older ones lack these keys."""
        best = state.get("best")
        self.best = tuple(best) if best else None
        self.worse = state.get("worse", 0)
        self.lowest = state.get("lowest", best[1] if best else None)
