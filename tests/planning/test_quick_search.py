"""The line of `plan` on how far a configuration is from the search's best."""

import pytest
from conftest import ROOT

from ms_codegeex.config.loading import load_config
from ms_codegeex.planning.planner import make_plan
from ms_codegeex.planning.quick_search import quick_search
from ms_codegeex.planning.search import search

SERVER = load_config(ROOT / "configs" / "finetune_13b_8.yaml")
ELSEWHERE = [
    ["parallel.tensor=8", "parallel.optimizer_shard=1", "parallel.sequence=false"],  # as it was shipped first: 8.73 s
    ["parallel.tensor=1", "parallel.pipeline=8", "parallel.optimizer_shard=1", "training.micro_batch=1"],
]


def plan_of(name, *words):
    return make_plan(load_config(ROOT / "configs" / f"{name}.yaml", words))


def planned_again(plan, overrides):
    """The plan of overrides, as on the command line."""
    return plan_of("finetune_13b_8", *overrides.split())


@pytest.fixture(scope="module")
def best():
    """The fastest of all plans on eight devices."""
    return search(SERVER).ranked[0]


def test_the_shipped_fine_tuning_of_the_13b_is_the_fastest_plan(best):
    plan = make_plan(SERVER)
    assert plan.fits and plan.step_seconds == best.step_seconds
    found = quick_search(plan)
    assert found.longer == 0 and found.best is plan
    assert found.text() == f"No plan of a quick search ({found.tried} plans; --search tries all) is faster"


@pytest.mark.parametrize("words", ELSEWHERE, ids=("tensor", "pipeline"))
def test_nearly_the_best_of_all_plans_is_found_from_elsewhere(best, words):
    words = ["parallel.sequence=false", "training.recompute_blocks=null", *words]
    plan = plan_of("finetune_13b_8", *words)
    found = quick_search(plan)
    assert found.best.roomy and best.step_seconds <= found.best.step_seconds <= 1.015 * best.step_seconds
    assert found.longer == pytest.approx(plan.step_seconds / found.best.step_seconds - 1) and found.longer > 0.3
    shown = found.to_dict()
    again = planned_again(plan, " ".join(words + shown["overrides"].split()))
    assert again.fits and again.step_seconds == shown["step_seconds"] == found.best.step_seconds
    assert f"{found.longer:.0%} longer" in found.text() and shown["overrides"] in found.text()


def test_a_plan_that_does_not_fit_is_told_one_that_does():
    plan = plan_of("finetune_13b_8", "training.recompute=none", "training.recompute_blocks=null")
    found = quick_search(plan)
    assert not plan.fits and found.longer is None and found.best.fits
    assert f"that fits: {found.best.estimate.step} s with" in found.text()


def test_nothing_fits():
    found = quick_search(plan_of("finetune_full"))  # all of the 13B on two devices of 30 GiB
    assert found.best is None and found.longer is None
    assert found.to_dict() == {"tried": found.tried, "longer": None, "step_seconds": None, "overrides": None}
    assert found.text() == f"No plan of a quick search ({found.tried} plans; --search tries all) fits"


def test_its_cost_is_bounded_on_the_largest_mesh():
    found = quick_search(plan_of("codegeex_13b"))
    assert found.tried < 400  # of 5,644
    assert found.best.fits and found.longer > 0.5


@pytest.mark.parametrize("name", ["codegen_tiny", "codegeex_tiny_release", "codegeex2_tiny"])
def test_nothing_is_advised_on_a_cpu_that_training_refuses(name):
    found = quick_search(plan_of(name, "devices=2"))
    assert not found.best.config.partitioned and " 0 s with" not in found.text()
