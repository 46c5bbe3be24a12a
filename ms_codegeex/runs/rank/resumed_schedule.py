"""The learning rates of a run that continues with another length; its checkpoint records the earlier schedule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from ms_codegeex.config import RunConfig
from ms_codegeex.config.schedule import Transition, learning_rate, misfit
from ms_codegeex.config.sections import ScheduleConfig
from ms_codegeex.formats.checkpoint import Checkpoint


def trained_schedule(checkpoint: Checkpoint) -> tuple[ScheduleConfig, Transition | None]:
    """Return the schedule, with all numbers filled in, and the transition of the run that wrote a checkpoint."""
    state = checkpoint.state
    known = {field.name for field in fields(ScheduleConfig)}
    given = {key: value for key, value in state["config"]["training"]["schedule"].items() if key in known}
    recorded = state.get("schedule") or {}  # missing from old checkpoints, whose numbers were always given
    transition = recorded.get("transition")
    return ScheduleConfig(**given).over(recorded.get("steps", 1)), transition and Transition(**transition)


def transition_from(config: RunConfig, checkpoint: Checkpoint) -> Transition | None:
    """Return how the learning rate moves from the checkpoint's schedule to that of this run's length. With the same
    length, the checkpoint's transition is kept. None if the run states the cosine's steps or other rates, which apply
    at once."""
    (before, earlier), now = trained_schedule(checkpoint), config.schedule
    if before == now:
        return earlier
    rates = [(schedule.learning_rate, schedule.end_learning_rate) for schedule in (before, now)]
    if config.training.schedule.decay_steps or rates[0] != rates[1]:
        return None
    return Transition.between(checkpoint.state["optimizer_step"], before, earlier, now, config.steps)


def schedule_notes(config: RunConfig, checkpoint: Checkpoint | None) -> Iterator[str]:
    """Yield notes on a run's learning rates: that they do not fit its length, or how they move to a new schedule."""
    done = checkpoint.state["optimizer_step"] if checkpoint else 0
    if note := misfit(config.training.schedule, config.steps, done):
        yield note
    line = transition_from(config, checkpoint) if checkpoint else None
    if line and done < (joined := line.step + line.steps):
        goal = learning_rate(joined, config.schedule)
        yield (
            f"the learning rate goes from {line.rate:.3g} at step {line.step:,} to {goal:.3g} at step {joined:,}, and "
            f"then follows the {'line' if config.schedule.decay == 'linear' else 'cosine'} of {config.steps:,} steps"
        )
