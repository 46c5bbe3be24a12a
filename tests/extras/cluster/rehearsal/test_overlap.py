"""Overlap of collectives with computation: what each switch changes in the compiled graph and in its timeline."""

from collections import Counter
from functools import cache

import pytest
from conftest import ROOT

from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.cluster.rehearsal.compile import compile_ranks
from ms_codegeex.extras.cluster.rehearsal.timeline.timeline import make_timeline

PAPER = ROOT / "configs" / "codegeex_13b.yaml"
MESH = ["devices=64", "parallel.tensor=8", "parallel.optimizer_shard=8", "training.global_batch=64"]
MESH += ["model.num_layers=2", "training.dropout=0"]
PARTS, KEPT = "parallel.overlap.parts=2", "parallel.overlap.recompute_collectives=false"
BLOCKS = 3  # with the top query layer


@cache
def compiled(*overrides):
    """The timeline of one rank of the 13B's widths, whose graphs must be as planned."""
    config = load_config(PAPER, [*MESH, *overrides])
    report = compile_ranks(config, [0], timeline=True)
    assert report.ok, report.problems
    return make_timeline(report.config, config, report.programs)


def sums(line):
    """The numbers of the tensor-parallel all-reduces of activations, in FP16."""
    rank = line.ranks[0]
    pairs = enumerate(rank.program.operators)
    return [i for i, x in pairs if x.op == "AllReduce" and len(x.message.ranks) == 8 and x.inputs[0].dtype == "float16"]


def before(line):
    """For each operator the numbers of all those that it waits for, as bits."""
    found = []
    for operator in line.ranks[0].program.operators:
        bits = 0
        for wait in operator.waits:
            bits |= found[wait] | 1 << wait
        found.append(bits)
    return found


def unordered(line):
    """How many pairs of sums wait for each other in neither direction."""
    chosen, earlier = sums(line), before(line)
    return sum(not earlier[b] >> a & 1 for i, a in enumerate(chosen) for b in chosen[i + 1 :])


def exposed(line):
    """The share of the tensor group's work that the device waits for."""
    return line.ranks[0].exposed(line.seconds)["tensor"] / line.ranks[0].work["collectives, tensor"]


@pytest.mark.slow  # compiles
def test_parts_of_a_micro_batch_have_sums_that_wait_for_neither():
    plain, parts = compiled(), compiled(PARTS)
    assert len(sums(plain)) == 5 * BLOCKS and len(sums(parts)) == 2 * len(sums(plain))
    assert (
        unordered(parts) >= len(sums(plain)) ** 2 > 4 * unordered(plain)
    )  # every sum of one with every one of the other
    assert exposed(parts) < 0.5 * exposed(plain)
    assert parts.seconds < plain.seconds and parts.serial_seconds > plain.serial_seconds


@pytest.mark.slow  # compiles
def test_saved_all_reduce_results_are_not_repeated():
    plain, kept = compiled(), compiled(KEPT)
    assert len(sums(kept)) == len(sums(plain)) - BLOCKS
    products = [Counter(x.op for x in line.ranks[0].program.operators)["MatMul"] for line in (plain, kept)]
    assert products[1] == products[0] - BLOCKS  # the product before the sum is not repeated either
    assert kept.seconds < plain.seconds
