"""The learning rate of each update, without an engine, and the way from the rate of one length to that of another."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ms_codegeex.config.sections import ScheduleConfig, warm_up_of


@dataclass(frozen=True)
class Transition:
    """A line from `rate` at update `step` to the schedule of another length, `steps` updates later."""

    step: int
    rate: float
    steps: int

    @classmethod
    def between(
        cls, step: int, before: ScheduleConfig, earlier: Transition | None, now: ScheduleConfig, end: int
    ) -> Transition | None:
        """From `before`, with the transition that it may have had, to `now`, whose run ends with update `end`. It takes
        what a run of the remaining length takes to warm up."""
        steps = warm_up_of(max(0, end - step))
        return cls(step, learning_rate(step, before, earlier), steps) if steps and before != now else None


def learning_rate(step: int, schedule: ScheduleConfig, transition: Transition | None = None) -> float:
    """Learning rate of update number `step` (0-based) in float64, by a schedule whose steps are numbers. step < warmup:
    peak·step/warmup; else end + ½(peak - end)(1 + cos(π·min(t, decay)/decay)), where t is the step, or with
    `cosine_after_warmup` the steps since the warm-up; a line: end + (peak - end)(1 - min(t, decay)/decay). During a
    transition: on its line."""
    if transition and step < (joined := transition.step + transition.steps):
        goal = learning_rate(joined, schedule)
        return transition.rate + (goal - transition.rate) * (step - transition.step) / transition.steps
    peak, end, decay = schedule.learning_rate, schedule.end_learning_rate, schedule.decay_steps
    if step < schedule.warmup_steps:
        return peak * step / schedule.warmup_steps
    begin = schedule.warmup_steps if schedule.cosine_after_warmup else 0
    passed = min(step - begin, decay) / decay
    return end + (peak - end) * (1 - passed if schedule.decay == "linear" else 0.5 * (1 + math.cos(math.pi * passed)))
