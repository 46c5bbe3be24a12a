"""Which schedules fit the length of their run, and the notes about those that do not."""

from pathlib import Path

import pytest
from conftest import ROOT

from ms_codegeex.base.errors import UserError
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.schedule import learning_rate, misfit
from ms_codegeex.config.sections import ScheduleConfig

TINY = ScheduleConfig(4e-3, 2e-4, warmup_steps=20, decay_steps=240)
FITS, ALLOWED = "training.schedule.decay_steps=null fits the run", "--allow-change training.schedule"
BOTH_FIT = "training.schedule.warmup_steps=null training.schedule.decay_steps=null fit the run"


@pytest.mark.parametrize(
    ("steps", "done", "note"),
    [
        (240, 0, None),
        (290, 0, None),  # 17 % at the end rate: published recipes have up to 13 %
        (500, 0, f"decay_steps: 240, so 52 % of the 500 steps have the end rate; {FITS}"),
        (60, 0, f"decay_steps: 240, so the last of 60 steps has 87 % of the highest rate; {FITS}"),
        (480, 240, f"decay_steps: 240, so 100 % of the 240 steps to come have the end rate; {FITS} ({ALLOWED})"),
        (240, 240, None),
        (15, 0, f"warmup_steps: 20, so the last of 15 steps has 70 % of the highest rate; {BOTH_FIT}"),
    ],
)
def test_a_schedule_that_does_not_fit_is_named_with_figures(steps, done, note):
    assert misfit(TINY, steps, done) == (note and f"training.schedule.{note}")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 9, 60, 240, 10_000])
def test_one_without_numbers_always_fits(steps, after):
    assert misfit(ScheduleConfig(cosine_after_warmup=after), steps) is None


def test_a_constant_rate_has_nothing_to_fit():
    assert misfit(ScheduleConfig(1e-3, 1e-3, 0, 5), 1000) is None


SHIPPED = sorted(path for folder in ("", "recipes") for path in (ROOT / "configs" / folder).glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_shipped_runs_have_nothing_to_say(path):
    config = load_config(path)
    assert misfit(config.training.schedule, config.steps) is None


@pytest.mark.parametrize("length", [["training.steps=60"], ["training.steps=null", "training.tokens=245760"]])
def test_a_shorter_tiny_run_has_a_whole_schedule(length):
    config = load_config(Path("codegeex_tiny_release"), [*length, "training.global_batch=16", "data.seq_length=256"])
    assert config.steps == 60 == config.schedule.decay_steps
    rates = [learning_rate(step, config.schedule) for step in range(60)]
    highest, end = config.schedule.learning_rate, config.schedule.end_learning_rate
    assert max(rates) > 0.97 * highest and rates[-1] < end + 1e-3 * highest


def test_published_numbers_stay():
    """Those that the recipes state do not follow from the length of an override."""
    config = load_config(Path("codegeex_13b"), ["training.steps=1000"])
    assert (config.schedule.warmup_steps, config.schedule.decay_steps) == (2000, 126_850)


def test_a_cosine_that_is_shorter_than_the_derived_warm_up_is_a_mistake():
    with pytest.raises(UserError, match=r"training\.schedule\.warmup_steps: 24 is not below decay_steps 20"):
        load_config(Path("codegeex_tiny_release"), ["training.steps=240", "training.schedule={decay_steps: 20}"])
