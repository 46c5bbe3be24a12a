"""Faulty steps: the loss or gradient norm is not finite, or it is a spike by a robust z-score. A policy answers them.

A value counts as a spike if it lies more than `faults.sigma` robust standard deviations above the median of the last
`faults.window` steps. The median absolute deviation replaces the standard deviation, because a spike itself would widen
that. The limits are known before a step, so the step can check them in the graph and leave the weights as they are.

Where `faults.policy` is applied: `build.py` makes a guarded step; `trainer.py` sets its limits, and has `Faults` judge,
report and answer each step; `runs/servers/attempts.py` starts the run again after a `Rewind` and ends it after
`Divergence`.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ms_codegeex.base.errors import Divergence, Rewind
from ms_codegeex.config.sections import FaultsConfig
from ms_codegeex.training.observers import ObservedRun, StepRecord

NORMAL = 1.4826  # a normal distribution's standard deviation over its median absolute deviation
# the remedy for a run whose numbers are not finite
LOWER_RATE = "lower training.schedule.learning_rate and resume with --resume auto --allow-change training.schedule"
MIN_DEVIATION_OF_MEDIAN = 0.01  # otherwise, in short runs whose steps hardly differ, most steps would be spikes


class Faults:
    """Judges the steps of a run. All ranks see the same figures, so they come to the same judgement. `last`: the
    judgement of the last step, None without a policy; `losses`, `norms`: figures of the last steps without a fault;
    `in_a_row`: consecutive faults since then; `left_out`: the first sample of each batch that a rewind skipped."""

    def __init__(self, config: FaultsConfig, left_out: Collection[int] = ()):
        self.config = config
        self.last: str | None = None
        self.losses: deque[float] = deque(maxlen=config.window)
        self.norms: deque[float] = deque(maxlen=config.window)
        self.in_a_row = 0
        self.left_out = sorted(left_out)

    @property
    def guarded(self) -> bool:
        return self.config.policy != "none"

    def positions(self, samples: int, batch: int) -> Iterator[int]:
        return (first for first in itertools.count(samples, batch) if first not in self.left_out)

    @property
    def limits(self) -> tuple[float, float]:
        """Return the largest loss and gradient norm allowed in the next step; infinite until the window is full."""
        if len(self.losses) < self.config.window:
            return math.inf, math.inf
        return _limit(self.losses, self.config.sigma), _limit(self.norms, self.config.sigma)

    def judge(self, loss: float, norm: float, lowers_scale: bool) -> str | None:
        """Return what is wrong with a step, "not finite" or "spike", or None, and store it in `last`. The figures of a
        sound step enter the window. `lowers_scale`: FP16 gradients overflowed and the loss scale will be lowered, which
        is not a fault."""
        self.last = None
        if lowers_scale:
            return None
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.last = "not finite"
        elif loss > self.limits[0] or norm > self.limits[1]:
            self.last = "spike"
        if self.last:
            self.in_a_row += 1
        else:
            self.in_a_row = 0
            self.losses.append(loss)
            self.norms.append(norm)
        return self.last

    def report(self, run: ObservedRun, record: StepRecord, samples: tuple[int, int]) -> None:
        """Report a step that did not change the weights to the run's observers. `samples`: the number of its first
        sample, and of the one after its last."""
        if self.last is None:  # FP16
            run.event("skip", samples=list(samples))
            return
        figures = {"loss": record.loss, "gradient_norm": record.gradient_norm}
        limits = dict(zip(("loss_limit", "norm_limit"), self.limits, strict=True))
        content = {"kind": self.last, "samples": list(samples), "policy": self.config.policy}
        run.event("fault", **content, **figures, **limits)
        if self.config.policy == "rewind":  # first of all, because another rank may end this one at any time
            run.event("rewind", left_out=samples[0])
        where = f"step {record.step}: loss {record.loss:.4g}"
        run.warn(f"{where}, a fault ({self.last}); samples {samples[0]} and after")

    def answer(self, record: StepRecord, first: int) -> None:
        """After a fault, end the run or this attempt of it, if the policy says so. `first`: the step's first sample."""
        if not self.last:
            return
        where = f"step {record.step}: loss {record.loss}, gradient norm {record.gradient_norm}, samples from {first} on"
        if self.config.policy == "rewind":
            raise Rewind(f"{where}: {self.last}; this batch is left out from now on, resume with --resume auto")
        if self.config.policy == "stop":
            raise Divergence(f"{where}: {self.last}, and faults.policy is stop; look at these samples", record.step)
        if self.in_a_row > self.config.most:
            wrong = f"{self.last}, as were the {self.config.most} steps before it (faults.most)"
            raise Divergence(f"{where}: {wrong}; {LOWER_RATE}", record.step)

    def state(self) -> dict[str, Any]:
        values = {"losses": list(self.losses), "norms": list(self.norms)}
        return {**values, "in_a_row": self.in_a_row, "left_out": self.left_out}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint. Batches that have already been left out stay left out."""
        for values, saved in ((self.losses, state["losses"]), (self.norms, state["norms"])):
            values.clear()
            values.extend(saved)
        self.in_a_row = state["in_a_row"]
        self.left_out = sorted({*self.left_out, *state["left_out"]})


def _limit(values: Sequence[float], sigma: float) -> float:
    median = float(np.median(values))
    deviation = NORMAL * float(np.median(np.abs(np.array(values) - median)))
    return float(np.float32(median + sigma * max(deviation, MIN_DEVIATION_OF_MEDIAN * abs(median))))
