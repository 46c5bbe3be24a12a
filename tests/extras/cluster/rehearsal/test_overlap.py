"""Overlap of collectives with computation: what each switch changes in the compiled graph."""

from collections import Counter
from functools import cache

import pytest
from compiled_graphs import compiled_graphs
from conftest import ROOT

from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.cluster.plans.planner import make_plan

PAPER = ROOT / "configs" / "codegeex_13b.yaml"
MESH = ["devices=64", "parallel.tensor=8", "parallel.optimizer_shard=8", "training.global_batch=64"]
MESH += ["model.num_layers=2", "training.dropout=0"]
PARTS, KEPT = "parallel.overlap.parts=2", "parallel.overlap.recompute_collectives=false"
BLOCKS = 3  # with the top query layer


@cache
def compiled(*overrides):
    """The operators of one rank of the 13B's widths, and its plan."""
    config = load_config(PAPER, [*MESH, *overrides])
    _, (program,) = compiled_graphs(config, [0])
    return program.operators, make_plan(config)


def sums(operators):
    """The numbers of the tensor-parallel all-reduces of activations, in FP16."""
    pairs = enumerate(operators)
    return [i for i, x in pairs if x.op == "AllReduce" and len(x.message.ranks) == 8 and x.inputs[0].dtype == "float16"]


def before(operators):
    """For each operator the numbers of all those that it waits for, as bits."""
    found = []
    for operator in operators:
        bits = 0
        for wait in operator.waits:
            bits |= found[wait] | 1 << wait
        found.append(bits)
    return found


def unordered(operators):
    """How many pairs of sums wait for each other in neither direction."""
    chosen, earlier = sums(operators), before(operators)
    return sum(not earlier[b] >> a & 1 for i, a in enumerate(chosen) for b in chosen[i + 1 :])


@pytest.mark.slow  # compiles
def test_parts_of_a_micro_batch_have_sums_that_wait_for_neither():
    (plain, plan), (parts, plan_of_parts) = compiled(), compiled(PARTS)
    assert len(sums(plain)) == 5 * BLOCKS and len(sums(parts)) == 2 * len(sums(plain))
    # every sum of one with every one of the other
    assert unordered(parts) >= len(sums(plain)) ** 2 > 4 * unordered(plain)
    assert plan_of_parts.hidden_seconds > plan.hidden_seconds  # as the plan says


@pytest.mark.slow  # compiles
def test_saved_all_reduce_results_are_not_repeated():
    (plain, plan), (kept, plan_of_kept) = compiled(), compiled(KEPT)
    assert len(sums(kept)) == len(sums(plain)) - BLOCKS
    products = [Counter(x.op for x in operators)["MatMul"] for operators in (plain, kept)]
    assert products[1] == products[0] - BLOCKS  # the product before the sum is not repeated either
    assert plan_of_kept.step_seconds < plan.step_seconds
