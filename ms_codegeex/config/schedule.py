"""Compute the learning rate of each update without an engine, including the transition when a run's length changes, and
check whether a schedule fits the length of its run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ms_codegeex.config.sections import ScheduleConfig, warm_up_of

AT_THE_END, ABOVE_THE_END = 0.2, 0.05  # worth a note: share of steps at the end rate, of peak - end left


@dataclass(frozen=True)
class Transition:
    """A line from `rate` at update `step` to the schedule of another run length, reached after `steps` updates."""

    step: int
    rate: float
    steps: int

    @classmethod
    def between(
        cls, step: int, before: ScheduleConfig, earlier: Transition | None, now: ScheduleConfig, end: int
    ) -> Transition | None:
        steps = warm_up_of(max(0, end - step))
        return cls(step, learning_rate(step, before, earlier), steps) if steps and before != now else None


def learning_rate(step: int, schedule: ScheduleConfig, transition: Transition | None = None) -> float:
    """Return the learning rate of update number `step` (0-based) in float64. All numbers of the schedule must be filled
    in. During the warm-up: peak·step/warmup. Then a cosine: end + ½(peak - end)(1 + cos(π·min(t, decay)/decay)), where
    t is the step, or with `cosine_after_warmup` the steps since the warm-up; or a line: end + (peak - end)(1 - min(t,
    decay)/decay). During a transition, the rate is on its line."""
    if transition and step < (joined := transition.step + transition.steps):
        goal = learning_rate(joined, schedule)
        return transition.rate + (goal - transition.rate) * (step - transition.step) / transition.steps
    peak, end, decay = schedule.learning_rate, schedule.end_learning_rate, schedule.decay_steps
    if step < schedule.warmup_steps:
        return peak * step / schedule.warmup_steps
    begin = schedule.warmup_steps if schedule.cosine_after_warmup else 0
    passed = min(step - begin, decay) / decay
    return end + (peak - end) * (1 - passed if schedule.decay == "linear" else 0.5 * (1 + math.cos(math.pi * passed)))


def misfit(schedule: ScheduleConfig, steps: int, done: int = 0) -> str | None:
    """Return a line on a schedule that does not fit its run of `steps` updates, of which `done` are over, else None. It
    does not fit if the run ends in the warm-up or well above the end rate, or if more than a fifth of the remaining
    updates are at the end rate."""
    fitted, key = schedule.over(steps), "training.schedule"
    allow = f" (--allow-change {key})" if done else ""
    peak, end, left = fitted.learning_rate, fitted.end_learning_rate, steps - done
    if peak <= end or left <= 0:
        return None
    last = learning_rate(steps - 1, fitted)
    ending = f"the last of {steps:,} steps has {_percent(last / peak)} of the highest rate"
    if fitted.warmup_steps >= steps:
        both = f"{key}.warmup_steps=null {key}.decay_steps=null fit the run{allow}"
        return f"{key}.warmup_steps: {fitted.warmup_steps:,}, so {ending}; {both}"
    if schedule.decay_steps is None:
        return None
    begin = fitted.warmup_steps if fitted.cosine_after_warmup else 0
    flat = min(left, max(0, steps - begin - fitted.decay_steps))
    if flat / left > AT_THE_END:
        which = f"{steps:,} steps" if not done else f"{left:,} steps to come"
        ending = f"{_percent(flat / left)} of the {which} have the end rate"
    elif (last - end) / (peak - end) <= ABOVE_THE_END:
        return None
    return f"{key}.decay_steps: {fitted.decay_steps:,}, so {ending}; {key}.decay_steps=null fits the run{allow}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else f"{100 * share:.1g} %"
