"""Layers by cost: the slowest stage is as fast as any other split makes it."""

from itertools import product

from conftest import ROOT

from ms_codegeex.config.loading import load_config
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.extras.cluster.plans.planner import change, improvements, make_plan
from ms_codegeex.extras.cluster.plans.roofline import balanced_layers

SMALL = "devices=24 parallel.tensor=8 parallel.pipeline=3 model.num_layers=8 parallel.optimizer_shard=1"


def slowest(config, layers):
    plan = make_plan(change(config, parallel__stage_layers=list(layers)))
    return max(stage.micro_batch for stage in plan.time.stages)


def test_layers_are_moved_from_the_stage_with_the_head():
    words = f"{SMALL} training.global_batch=64 model.vocab_size=400000".split()
    config = load_config(ROOT / "configs" / "codegeex_13b_pipeline.yaml", words)
    found = balanced_layers(config)
    assert sum(found) == 9 and found[2] < 3  # the head costs as much as several layers
    splits = [split for split in product(range(1, 8), repeat=3) if sum(split) == 9]
    assert slowest(config, found) <= 1.000001 * min(slowest(config, split) for split in splits)


def test_the_plan_names_the_layers_that_balance_it():
    keys = ["parallel.tensor=2", "parallel.pipeline=6", "parallel.optimizer_shard=64", "training.micro_batch=2"]
    config = load_config(ROOT / "configs" / "codegeex_13b.yaml", keys)
    plan = make_plan(config)
    item = next(item for item in improvements(plan) if item.name.startswith("layers by cost"))
    assert "parallel.stage_layers=[6,7,7,7,7,6]" in item.name and item.fits
    assert item.step_seconds < plan.step_seconds
    balanced = change(config, parallel__stage_layers=balanced_layers(config))
    assert not any(item.name.startswith("layers by cost") for item in improvements(make_plan(balanced)))


def test_a_layer_for_each_stage_is_not_moved():
    model = {"family": "codegen", "preset": "tiny", "num_layers": 2}
    training = {"steps": 1, "global_batch": 8, "micro_batch": 2}
    values = {"device": "ascend", "devices": 2, "model": model, "training": training, "parallel": {"pipeline": 2}}
    assert balanced_layers(build_run_config(values)) == [1, 1]
