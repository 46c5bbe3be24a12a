"""Pipelines with and without virtual stages: the order of passes in the compiled graphs, and the bubble."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import pytest
from conftest import ROOT

from ms_codegeex.config.chosen_hardware import hardware_of
from ms_codegeex.config.loading import load_config
from ms_codegeex.planning.memory import passes, warm_up
from ms_codegeex.rehearsal.compile import compile_ranks
from ms_codegeex.rehearsal.timeline.costs import Machine, tasks_of
from ms_codegeex.rehearsal.timeline.tasks import simulate
from ms_codegeex.rehearsal.timeline.timeline import make_timeline

SMALL = ["devices=2", "parallel.tensor=1", "parallel.pipeline=2", "parallel.optimizer_shard=1", "training.dropout=0"]
SMALL += ["training.global_batch=8", "training.micro_batch=2", "training.recompute=none", "model.num_layers=3"]
SMALL += ["model.hidden_size=64", "model.num_heads=4", "model.intermediate_size=128", "model.vocab_size=256"]
SMALL += ["model.max_position_embeddings=32", "model.eos_token_id=1", "data.seq_length=32"]
STAGES, BLOCKS = 2, ("blocks.0", "blocks.1", "blocks.2", "top_query_layer")


@cache
def compiled(virtual_stages):
    """The timeline of one rank of each stage; the graphs must be as planned."""
    config = load_config(ROOT / "configs" / "codegeex_13b.yaml", [*SMALL, f"parallel.virtual_stages={virtual_stages}"])
    report = compile_ranks(config, [0, 1], timeline=True)
    assert report.ok, report.problems
    return make_timeline(report.config, config, report.programs)


def passes_in(program):
    """(micro-batch, block, whether backward) of every block's pass, in an order that the graph's edges allow: of two
    that are ordered, the later one waits for more operators."""
    earlier, first = [], {}
    for number, operator in enumerate(program.operators):
        bits = 0
        for wait in operator.waits:
            bits |= earlier[wait] | 1 << wait
        earlier.append(bits)
        read = " ".join(x for x in operator.reads if isinstance(x, str))
        added = re.search(r"accu_grads\.(blocks\.\d|top_query_layer)", read) if operator.op == "AssignAdd" else None
        product = operator.op == "MatMul" and "Gradients" not in operator.scope
        inside = re.search(r"(\d)-Block|top_query_layer", operator.scope) if product else None
        if added:
            first.setdefault((operator.micro, added[1], True), number)
        elif inside:
            name = f"blocks.{inside[1]}" if inside[1] else "top_query_layer"
            first.setdefault((operator.micro, name, False), number)
    return sorted(first, key=lambda key: earlier[first[key]].bit_count())


def planned(stage, virtual_stages, micro_batches):
    """The same by the schedule."""
    forward = passes(STAGES, virtual_stages, micro_batches)
    backward = passes(STAGES, virtual_stages, micro_batches, backward=True)
    ahead = warm_up(STAGES, virtual_stages, stage)
    order = [(*x, False) for x in forward[:ahead]]
    for each, other in zip(forward[ahead:], backward, strict=False):
        order += [(*each, False), (*other, True)]
    order += [(*x, True) for x in backward[len(forward) - ahead :]]
    per_part = len(BLOCKS) // (STAGES * virtual_stages)
    found = []
    for micro, number, back in order:
        start = (number * STAGES + stage) * per_part
        blocks = BLOCKS[start : start + per_part]
        found += [(micro, name, back) for name in (reversed(blocks) if back else blocks)]
    return found


@pytest.mark.slow  # compiles
@pytest.mark.parametrize("virtual_stages", [1, 2])
def test_the_graphs_run_their_passes_in_the_order_of_the_schedule(virtual_stages):
    line = compiled(virtual_stages)
    for rank in line.ranks:
        micro_batches = line.config.accumulation
        assert micro_batches == 2 * virtual_stages
        assert passes_in(rank.program) == planned(rank.program.stage, virtual_stages, micro_batches)


@pytest.mark.slow  # compiles
def test_virtual_stages_send_to_and_fro():
    sends = [[x for x in compiled(v).ranks[0].program.operators if x.op == "Send"] for v in (1, 2)]
    assert [len(x) / compiled(v).config.accumulation for v, x in zip((1, 2), sends, strict=True)] == [1, 3]
    for virtual_stages in (1, 2):
        first, last = (rank.program.operators for rank in compiled(virtual_stages).ranks)
        received = {x.message.tag for x in last if x.op == "Receive"}
        assert {x.message.tag for x in first if x.op == "Send"} == received


@pytest.mark.slow  # compiles
@pytest.mark.parametrize("virtual_stages", [1, 2])
def test_the_bubble_of_the_graphs_is_near_that_of_the_formula(virtual_stages):
    """If only the blocks' matrix products take time, equally long."""
    line = compiled(virtual_stages)
    machine = Machine(hardware_of(line.config), line.config.mesh, 8, False)
    ranks = []
    for rank in line.ranks:
        operators = rank.program.operators
        counted = [x.op == "MatMul" and re.search(r"-Block|top_query_layer|Linear", x.scope) for x in operators]
        tasks = tasks_of(rank.program, machine)
        ranks.append([replace(t, seconds=float(bool(c))) for t, c in zip(tasks, counted, strict=True)])
    work = max(sum(task.seconds for task in tasks) for tasks in ranks)
    step = max(span.end for spans in simulate(ranks) for span in spans)
    bubble = (STAGES - 1) / (virtual_stages * line.config.accumulation)
    assert step / work - 1 == pytest.approx(bubble, rel=0.15)
