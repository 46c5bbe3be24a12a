"""Every configuration of a run in `configs/`: parsed, planned, shrunk and, shrunk, compiled."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache

import pytest

from ms_codegeex.base.mesh import Mesh
from ms_codegeex.base.shipped import shipped_names
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.extras.cluster.plans.planner import make_plan
from ms_codegeex.extras.cluster.plans.report import heading
from ms_codegeex.extras.cluster.rehearsal.compile import compile_ranks
from ms_codegeex.extras.cluster.rehearsal.shrink import shrunk, small_mesh

TWO = Mesh(data=2)  # for runs on one device: the engine partitions nothing there


def small(config):
    """The shrunk run; with AdamW in place of Muon, which is refused where the engine partitions."""
    optimizer = replace(config.training.optimizer, name="adamw")
    config, mesh = replace(config, training=replace(config.training, optimizer=optimizer)), small_mesh(config.mesh)
    return shrunk(config, mesh if mesh.world > 1 else TWO)


@pytest.mark.parametrize("name", shipped_names())
def test_it_is_parsed_and_planned(name):
    config = load_config(name)
    assert config.steps > 0
    assert build_run_config(config.to_dict()) == config
    plan = make_plan(config)
    assert all(stage.total > 0 for stage in plan.memory)
    assert 0 < plan.step_seconds < math.inf and 0 < plan.mfu < 1
    assert config.training.precision in heading(plan)


@pytest.mark.parametrize("name", shipped_names())
def test_it_keeps_its_plan_when_it_is_shrunk(name):
    config = load_config(name)
    tiny, mesh = small(config), config.mesh
    assert tiny.family == config.family and tiny.training.recompute == config.training.recompute
    assert tiny.model.sizes.parameter_count() < 500_000 and tiny.mesh.world <= 16
    for axis in ("tensor", "pipeline", "optimizer_shard"):
        assert (getattr(tiny.mesh, axis) > 1) == (getattr(mesh, axis) > 1), axis
    assert (tiny.lora.rank > 0) == (config.lora.rank > 0)


@cache
def problems_of(values):
    config = build_run_config(json.loads(values))
    return compile_ranks(config, [0, config.devices - 1]).problems  # the first and the last stage and shard


def essence(config):
    """What a compiled graph depends on, as JSON: files that differ in data, schedule, initial values or constants alone
    are compiled once."""
    values = small(config).to_dict()
    for section in ("data", "cluster", "checkpoint", "logging"):
        values.pop(section, None)
    values["data"] = {"seq_length": 16, "reset_at_eos": config.data.reset_at_eos}
    values["output"], values["seed"] = "none", 1
    values["model"].update(preset=None, weights=None, grow=[], fresh=[], init_std=0.02)  # all sizes are there
    values["parallel"]["hardware"] = None
    values["training"].update(evaluate_every=0, patience=0, schedule={}, steps=8, evaluate_samples=8)
    values["training"]["optimizer"].update(beta2=0.95, weight_decay=0.1)
    return json.dumps(values, sort_keys=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_names())
def test_its_shrunk_graphs_are_the_planned_ones(name):
    assert problems_of(essence(load_config(name))) == []
