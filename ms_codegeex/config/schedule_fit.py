"""Whether the schedule of the learning rate fits the length of its run."""

from __future__ import annotations

from ms_codegeex.config.schedule import learning_rate
from ms_codegeex.config.sections import ScheduleConfig

AT_THE_END, ABOVE_THE_END = 0.2, 0.05  # shares of the steps, and of the way from the highest rate, worth a note


def misfit(schedule: ScheduleConfig, steps: int, done: int = 0) -> str | None:
    """One line on a schedule that does not fit its run of `steps` updates, of which `done` are over, or None: it ends
    in the warm-up or well above its end rate, or spends more than a fifth of the updates at that rate."""
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
