"""Faulty steps: a loss or gradient norm that is not finite or a spike, found by a robust z-score, answered by a policy.

A value counts as a spike if it lies more than `faults.sigma` robust standard deviations above the median of the last
`faults.window` steps. The median absolute deviation replaces the standard deviation, because a spike itself would widen
that. The limits are known before a step, so the step can check them in the graph and leave the weights as they are.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from ms_codegeex.config import FaultsConfig

NORMAL = 1.4826  # a normal distribution's standard deviation over its median absolute deviation
LEAST_DEVIATION = 0.01  # of the median: steps that hardly differ, as in a short test, do not make everything a spike


class Faults:
    """Judges the steps of a run. All ranks see the same figures and come to the same judgement.

    Attributes:
        losses, norms: of the last steps without a fault.
        in_a_row: faults since then.
        left_out: global numbers of the first samples of batches that a rewind has left out.
    """

    def __init__(self, config: FaultsConfig, left_out: Collection[int] = ()):
        self.config = config
        self.losses: deque[float] = deque(maxlen=config.window)
        self.norms: deque[float] = deque(maxlen=config.window)
        self.in_a_row = 0
        self.left_out = sorted(left_out)

    @property
    def limits(self) -> tuple[float, float]:
        """The largest loss and gradient norm of the next step; infinite until the window is full."""
        if len(self.losses) < self.config.window:
            return math.inf, math.inf
        return _limit(self.losses, self.config.sigma), _limit(self.norms, self.config.sigma)

    def judge(self, loss: float, norm: float, lowers_scale: bool) -> str | None:
        """Whether a step is a fault, `not finite` or `spike`, and if not, take its figures into account.

        `lowers_scale`: an overflow of FP16 gradients that a lower loss scale prevents; it is not a fault.
        """
        if lowers_scale:
            return None
        limits = self.limits
        fault = None
        if not (math.isfinite(loss) and math.isfinite(norm)):
            fault = "not finite"
        elif loss > limits[0] or norm > limits[1]:
            fault = "spike"
        if fault:
            self.in_a_row += 1
        else:
            self.in_a_row = 0
            self.losses.append(loss)
            self.norms.append(norm)
        return fault

    def state(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {
            "losses": list(self.losses),
            "norms": list(self.norms),
            "in_a_row": self.in_a_row,
            "left_out": self.left_out,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint. Batches that have already been left out stay left out."""
        for values, saved in ((self.losses, state["losses"]), (self.norms, state["norms"])):
            values.clear()
            values.extend(saved)
        self.in_a_row = state["in_a_row"]
        self.left_out = sorted({*self.left_out, *state["left_out"]})


def _limit(values: Sequence[float], sigma: float) -> float:
    """`sigma` robust standard deviations above the median, rounded as the step compares it."""
    median = float(np.median(values))
    deviation = NORMAL * float(np.median(np.abs(np.array(values) - median)))
    return float(np.float32(median + sigma * max(deviation, LEAST_DEVIATION * abs(median))))
