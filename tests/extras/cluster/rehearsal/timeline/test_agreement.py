"""Plan and timeline of the same step, where nothing overlaps; and which blocks of a compiled graph recompute."""

import pytest
from conftest import ROOT

from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.cluster.rehearsal.compile import compile_ranks
from ms_codegeex.extras.cluster.rehearsal.timeline.costs import MATMUL, OPTIMIZER, VECTOR
from ms_codegeex.extras.cluster.rehearsal.timeline.lifetimes import label
from ms_codegeex.extras.cluster.rehearsal.timeline.timeline import make_timeline

# Full widths, so that latencies weigh as little as in the real step.
STEPS = {
    "13B on Ascend 910, composed attention, full recomputation": (
        "codegeex_13b",
        ["devices=64", "training.global_batch=128", "parallel.optimizer_shard=8", "model.num_layers=2"],
    ),
    "CodeGeeX2-6B on 910B, fused attention, tensor 2": (
        "codegeex2_6b",
        [
            "model.num_layers=2",
            "parallel.pipeline=1",
            "parallel.hardware=ascend910b",
            "training.recompute=none",
            "training.micro_batch=null",
            "training.global_batch=32",
        ],
    ),
    "13B on 910B, micro-batches in two parts, sequence parallelism, tensor 4": (
        "codegeex_13b",
        [
            "devices=64",
            "training.global_batch=128",
            "training.micro_batch=4",
            "training.dropout=0",
            "training.recompute=none",
            "parallel.tensor=4",
            "parallel.optimizer_shard=16",
            "parallel.sequence=true",
            "parallel.overlap.parts=2",
            "parallel.hardware=ascend910b",
            "model.num_layers=4",
        ],
    ),
}


@pytest.mark.slow  # compiles a block of full width, called and inlined
@pytest.mark.parametrize(("name", "overrides"), STEPS.values(), ids=STEPS)
def test_a_step_without_overlap_takes_the_time_of_the_plan(name, overrides):
    config = load_config(ROOT / "configs" / f"{name}.yaml", overrides)
    report = compile_ranks(config, [0], timeline=True)
    assert report.ok, report.problems
    line = make_timeline(report.config, config, report.programs)
    assert line.serial_seconds == pytest.approx(line.plan.time.total, rel=0.03)
    assert line.seconds < line.serial_seconds
    (rank,) = line.ranks
    found = {x.kind: x for x in line.comparison(rank)}
    for kind in ("collectives, tensor", MATMUL):
        assert found[kind].found == pytest.approx(found[kind].planned, rel=0.06)
    work = [sum(getattr(found[kind], side) for kind in (MATMUL, VECTOR, OPTIMIZER)) for side in ("planned", "found")]
    assert work[1] == pytest.approx(work[0], rel=0.03)  # part of the vector work is fused into matmuls
    assert all(x.reason for x in found.values() if x.differs)
    # the plan keeps the activations of both parts, the timeline has begun the first one's backward pass by then
    maximum = 1.3 if config.parallel.overlap.parts == 1 else 1.35
    assert rank.memory.peak < line.plan.memory[0].total < maximum * rank.memory.peak


@pytest.mark.slow  # compiles two graphs
def test_only_the_chosen_blocks_of_a_graph_recompute():
    small = ["model.hidden_size=64", "model.num_layers=3", "model.num_heads=4", "model.intermediate_size=128"]
    small += ["model.vocab_size=256", "model.max_position_embeddings=32", "model.eos_token_id=1", "data.seq_length=32"]
    mesh = ["devices=2", "parallel.tensor=2", "parallel.optimizer_shard=1", "training.global_batch=4"]
    config = load_config(ROOT / "configs" / "codegeex_13b.yaml", [*small, *mesh, "training.recompute_blocks=[2]"])
    report = compile_ranks(config, [0], timeline=True)
    assert report.ok, report.problems  # matmuls and collectives, of blocks that are called and of inlined ones
    (program,) = report.programs
    again = {place: [] for place in ("0-Block", "1-Block", "2-Block", "top_query_layer")}
    casts = dict.fromkeys(again, 0)
    for operator in program.operators:
        place = next((x for x in again if f"/{x}" in operator.scope), None)
        if place and label(operator).startswith("recomputed "):
            again[place].append(operator.op)
        if place and operator.op == "Cast" and "norm-FusedLayerNorm/Cast" in operator.scope:
            casts[place] += 1
    assert [kinds.count("MatMul") for kinds in again.values()] == [6 + 5, 6 + 5, 0, 0]  # forward, and all but the last
    assert all("Softmax" in kinds for kinds in again.values())
    # two norms cast up and down; blocks 0 and 1 do all of it twice, block 2 keeps the input that block 1 made
    assert casts == {"0-Block": 8, "1-Block": 8, "2-Block": 5, "top_query_layer": 6}
