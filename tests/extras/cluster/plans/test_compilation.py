"""How many micro-batches a graph has, and the estimate of what compiling it takes."""

import re

import pytest
from conftest import ROOT

from ms_codegeex.base.errors import UserError
from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.cluster.plans.compilation import LARGEST, LONGEST, compilation
from ms_codegeex.extras.cluster.plans.planner import change, make_plan
from ms_codegeex.extras.cluster.plans.search import with_graph

PIPELINE = ROOT / "configs" / "codegeex_13b_pipeline.yaml"  # four stages of ten blocks
RECIPES = sorted((ROOT / "configs" / "recipes").glob("*.yaml"))


def with_micro_batches(number, *overrides):
    return load_config(PIPELINE, [f"training.global_batch={48 * 8 * number}", *overrides])


@pytest.mark.parametrize(
    ("number", "keys", "graph", "evaluation"),
    [
        (8, (), 8, 4),
        (48, (), 48, 4),
        (96, (), 48, 4),
        (98, (), 14, 7),
        (97, (), 97, 97),  # prime
        (96, ("parallel.graph_micro_batches=6",), 6, 6),
        (96, ("parallel.pipeline=1", "devices=384"), 12, 2),
        (97, ("parallel.pipeline=1", "devices=384"), 97, 97),
        (100, ("parallel.virtual_stages=2", "parallel.pipeline=4", "model.num_layers=39"), 20, 4),
    ],
)
def test_a_graph_has_micro_batches_that_fill_the_pipeline_and_divide_the_step(number, keys, graph, evaluation):
    config = with_micro_batches(number, *keys)
    assert (config.graph_micro_batches, config.evaluation_micro_batches) == (graph, evaluation)
    assert config.calls * graph == config.accumulation == number
    call = config.of_a_call
    assert (call.calls, call.accumulation, call.micro_batch, call.mesh) == (1, graph, config.micro_batch, config.mesh)


def test_calls_repeat_what_is_done_for_weights_and_gradients_and_nothing_for_activations():
    once, often = (make_plan(with_micro_batches(48, f"parallel.graph_micro_batches={n}")) for n in (48, 12))
    sums = []
    for plan in (once, often):
        totals = dict.fromkeys(("input", "activation", "weight", "gradient", "scalar"), 0)
        for x in plan.collectives:
            totals[x.purpose] += x.bytes
        sums.append(totals)
    times = {"weight": 4.0, "gradient": 4.0, "activation": 1.0, "input": 1.0}
    assert {key: sums[1][key] / sums[0][key] for key in times} == times
    kept = [[stage.total - stage.communication for stage in plan.memory] for plan in (once, often)]
    assert kept[0] == kept[1] and once.step_seconds < often.step_seconds


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_compile_within_the_bounds(path):
    config = load_config(path)
    estimate = compilation(config)
    assert estimate.seconds <= LONGEST == 20 * 60 and estimate.server_bytes <= LARGEST == 160 * 2**30
    if not config.partitioned:
        return
    possible = [n for n in range(1, config.accumulation + 1) if config.fills_graph(n)]
    most = max(n for n in possible if compilation(config, n).bounded)
    assert with_graph(config).graph_micro_batches == most
    # of what a graph without bounds would take; docs/plan.md names the one that is slower
    whole = make_plan(change(config, parallel__graph_micro_batches=config.accumulation))
    at_most = 1.06 if path.stem == "codegeex_13b_910c_16" else 1.04
    assert make_plan(config).step_seconds <= at_most * whole.step_seconds


def test_a_plan_whose_smallest_graph_takes_too_much_is_refused():
    with pytest.raises(UserError, match=r"^compilation: about .* set training.global_batch=380928, which is") as error:
        with_graph(with_micro_batches(997))
    config = with_micro_batches(997, *re.findall(r"training.global_batch=\d+", str(error.value)))
    assert config.accumulation == 992 and with_graph(config).graph_micro_batches < 992


# benchmarks/RESULTS.md: stages, blocks of one, tensor parallelism; micro-batches of all graphs; seconds, GB.
MEASURED = [
    (2, 2, 1, 16 + 16, 56, 1.49),
    (2, 2, 1, 64 + 64, 186, 2.55),
    (1, 40, 8, 2, 240, 10.8),
    (4, 10, 8, 4, 80, 4.1),
]


@pytest.mark.parametrize(("stages", "blocks", "tensor", "micro_batches", "seconds", "gigabytes"), MEASURED)
def test_the_estimate_is_near_what_was_measured(stages, blocks, tensor, micro_batches, seconds, gigabytes):
    keys = [f"model.num_layers={stages * blocks - 1}", f"parallel.tensor={tensor}", f"parallel.pipeline={stages}"]
    config = load_config(PIPELINE, [*keys, "devices=64", "parallel.optimizer_shard=1", "training.global_batch=1024"])
    config = change(config, parallel__graph_micro_batches=None, training__micro_batch=8)
    evaluated = config.evaluated_of(config.accumulation) if stages > 1 else 1
    found = compilation(config, max(2, micro_batches - evaluated))
    assert found.seconds == pytest.approx(seconds, rel=0.2)
    assert found.rank_bytes / 1e9 == pytest.approx(gigabytes, rel=0.2)
