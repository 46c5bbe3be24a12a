"""The estimated overlap against simulations of compiled graphs, and the search that ranks by it."""

import pytest
import yaml
from conftest import ROOT

from ms_codegeex import cli
from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.cluster.plans.planner import change, make_plan
from ms_codegeex.extras.cluster.plans.roofline import collective_seconds
from ms_codegeex.extras.cluster.plans.search import search, yaml_of

BASE = ROOT / "configs" / "codegeex_13b.yaml"
RECIPES = ROOT / "configs" / "recipes"
TWO = ["devices=64", "training.global_batch=64", "model.num_layers=2", "parallel.optimizer_shard=8"]
TWO += ["training.dropout=0"]
ONE = [*TWO, "model.num_layers=1", "training.global_batch=128", "training.micro_batch=8"]
FOUR = ["devices=64", "model.num_layers=4", "training.micro_batch=4", "parallel.tensor=4", "training.dropout=0"]
FOUR += ["parallel.optimizer_shard=16", "parallel.sequence=true", "parallel.hardware=ascend910b"]
FOUR += ["training.recompute=none"]
WIDE = ["parallel.tensor=4", "parallel.data=128", "parallel.pipeline=1", "parallel.virtual_stages=1"]
WIDE += ["training.micro_batch=4"]
WIDE += ["parallel.overlap.parts=2", "parallel.fusion.allreduce_groups=20"]
SIMULATED = {  # seconds of a step, its operators and messages list-scheduled, recorded from an earlier version
    "two blocks": (BASE, TWO, 0.2090),
    "saved collectives": (BASE, [*TWO, "parallel.overlap.recompute_collectives=false"], 0.2007),
    "two parts": (BASE, [*TWO, "parallel.overlap.parts=2"], 0.1875),
    "three blocks on 1,536": (BASE, ["model.num_layers=3"], 0.5026),
    "micro-batches": (BASE, ONE, 0.3413),
    "micro-batches in two parts": (BASE, [*ONE, "parallel.overlap.parts=2"], 0.3120),
    "many micro-batches": (BASE, FOUR, 5.18),
    "many micro-batches in two parts": (BASE, [*FOUR, "parallel.overlap.parts=2"], 5.09),
    "512 without virtual stages": (RECIPES / "codegeex_13b_910b_512.yaml", ["parallel.virtual_stages=1"], 4.724),
    "the paper's": (BASE, [], 4.3955),
    "1,536": (RECIPES / "codegeex_13b_910_1536.yaml", [], 2.6345),
    "64 x 910B": (RECIPES / "codegeex_13b_910b_64.yaml", [], 33.067),
    "512 without a pipeline": (RECIPES / "codegeex_13b_910b_512.yaml", WIDE, 4.62),
}


@pytest.mark.parametrize(("file", "keys", "seconds"), SIMULATED.values(), ids=SIMULATED)
def test_the_estimate_is_within_ten_percent_of_simulations(file, keys, seconds):
    plan = make_plan(load_config(file, keys))
    assert plan.time.total - plan.hidden_seconds == pytest.approx(seconds, rel=0.10)


def test_more_buckets_hide_more_and_micro_batches_hide_only_the_weights():
    plan = make_plan(load_config(BASE, TWO))
    assert make_plan(change(plan.config, parallel__fusion__allreduce_groups=20)).hidden_seconds > plan.hidden_seconds
    micro = make_plan(load_config(BASE, ONE))
    gathered = [x for x in micro.collectives if x.purpose == "weight"]
    seconds = sum(collective_seconds(micro.config, micro.chip, x) for x in gathered)
    assert seconds > 0
    assert micro.hidden_seconds == pytest.approx(3 / 4 * seconds)  # all but one of four buckets


def test_the_search_ranks_by_overlap_and_chooses_buckets(tmp_path, capsys):
    keys = ["devices=16", "training.global_batch=64", "training.micro_batch=4", "model.num_layers=10"]
    keys += ["parallel.tensor=2", "parallel.optimizer_shard=8"]
    config = load_config(BASE, keys)
    found = search(config, overlap=True).ranked
    seconds = [plan.overlapped_seconds for plan in found]
    assert seconds == sorted(seconds)
    assert seconds[0] < min(found, key=lambda plan: plan.step_seconds).overlapped_seconds
    best = found[0].config.parallel.fusion.allreduce_groups
    assert best != config.parallel.fusion.allreduce_groups
    values = yaml.safe_load(yaml_of(found[0], str(BASE), {}))
    assert values["parallel"]["fusion"]["allreduce_groups"] == best
    file = tmp_path / "best.yaml"
    file.write_text(yaml_of(found[0], str(BASE), {"model": {"num_layers": 10}, "training": {"global_batch": 64}}))
    assert make_plan(load_config(file)).overlapped_seconds == pytest.approx(seconds[0])
    assert cli.main(["plan", "--config", str(BASE), "--overlap"]) == 2
    assert "--overlap: ranks what --search finds" in capsys.readouterr().err


def test_the_search_tries_virtual_stages():
    keys = ["devices=16", "training.global_batch=64", "training.micro_batch=4", "model.num_layers=15"]
    keys += ["parallel.tensor=2", "parallel.optimizer_shard=8"]
    found = search(load_config(BASE, keys), overlap=True).ranked
    interleaved = [plan for plan in found if plan.config.mesh.virtual_stages > 1]
    assert interleaved
    plan = interleaved[0]
    without = make_plan(change(plan.config, parallel__virtual_stages=1))
    assert plan.fits and plan.overlapped_seconds < without.overlapped_seconds
    assert yaml.safe_load(yaml_of(plan, str(BASE), {}))["parallel"]["virtual_stages"] > 1
