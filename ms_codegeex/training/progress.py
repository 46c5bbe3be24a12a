"""How far a run has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ms_codegeex.base.errors import UserError

EMPTY_STEPS = 100


@dataclass
class TrainingProgress:
    """Counts steps, samples and tokens."""

    step: int = 0
    samples: int = 0  # global number of the sample that the next step starts with
    tokens: int = 0  # trained on: those that the loss counts in steps that were not skipped
    empty_steps: int = 0  # in a row, without a token that counts

    def advance(self, samples: int, counted: float, updated: bool) -> None:
        """A step has ended, and the next one starts with sample `samples`. `UserError` if data without tokens that the
        loss counts goes on and on."""
        self.step, self.samples = self.step + 1, samples
        self.tokens += round(counted) if updated else 0
        self.empty_steps = 0 if counted else self.empty_steps + 1
        if self.empty_steps == EMPTY_STEPS:
            raise UserError(
                f"data: the last {EMPTY_STEPS} steps held no token that the loss counts; look at the dataset with "
                "`ms-codegeex inspect --sample`"
            )

    def state(self) -> dict[str, Any]:
        """The state as JSON values; the step is that of the checkpoint."""
        return {"samples": self.samples, "tokens": self.tokens}

    def restore(self, step: int, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.step, self.samples, self.tokens, self.empty_steps = step, state["samples"], state["tokens"], 0
