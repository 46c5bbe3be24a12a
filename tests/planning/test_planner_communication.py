"""Collectives of a step: operations, groups, counts, bytes, links and times."""

import pytest
from conftest import ROOT

from ms_codegeex.base.hardware import A100, ASCEND_910
from ms_codegeex.base.mesh import Mesh
from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.cluster.plans.planner import communication_by_group, make_plan
from ms_codegeex.planning.communication import PlannedCollective, collectives, group_ranks, link_of, seconds, spread
from ms_codegeex.planning.model_parts import parts_of

PAPER = ROOT / "configs" / "codegeex_13b.yaml"
TINY = ROOT / "configs" / "codegeex_tiny_release.yaml"


def listed(path, *overrides):
    """{(op, group, purpose, phase, bytes): (group size, count)} over all stages."""
    config = load_config(path, overrides)
    return {
        (c.stage, c.op, c.group, c.purpose, c.phase, c.bytes_each): (c.group_size, c.count) for c in collectives(config)
    }


def test_a_single_device_says_nothing():
    assert collectives(load_config(TINY, ["devices=1"])) == []


def test_data_parallel_reduces_every_parameter_once():
    found = listed(TINY, "devices=4")
    gradients = {key: value for key, value in found.items() if key[3] == "gradient"}
    assert all(key[1:3] == ("AllReduce", "data") and value[0] == 4 for key, value in gradients.items())
    config = load_config(TINY, ["devices=4"])
    assert sum(key[5] * value[1] for key, value in gradients.items()) == 4 * config.model.sizes.parameter_count()
    assert sum(value[1] for value in gradients.values()) == 3 + 4 * 16 + 2  # tables, four layers, final norm
    assert found[0, "AllReduce", "world", "scalar", "step", 12] == (4, 1)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["parallel.pipeline=2", "parallel.micro_batches=4"], id="pipeline with a shared table"),
        pytest.param(["parallel.optimizer_shard=64"], id="shards of some replicas"),
    ],
)
def test_short_gradients_are_half_as_long_and_a_shared_table_is_not(words):
    words = ["devices=1024", "training.global_batch=4096", "parallel.tensor=4", *words]
    plain, short = (
        collectives(load_config(PAPER, [*words, f"parallel.short_gradients={flag}"])) for flag in ("false", "true")
    )
    assert len(plain) == len(short)
    for before, after in zip(plain, short, strict=True):
        half = before.purpose == "gradient" and before.group != "tied"
        assert (after.op, after.group, after.count) == (before.op, before.group, before.count)
        assert after.bytes_each == (before.bytes_each // 2 if half else before.bytes_each)
        assert after.dtype == ("fp16" if half else before.dtype)
    assert any(x.group == "tied" for x in plain) == ("parallel.pipeline=2" in words)


def test_the_13b_gathers_matrices_in_fp16_and_scatters_gradients_in_fp32():
    found = listed(PAPER)
    small, large = 4 * 5120 * 5120 // 8, 4 * 5120 * 20480 // 8
    for op, purpose, part in (("AllGather", "weight", 2), ("ReduceScatter", "gradient", 1)):
        assert found[0, op, "optimizer", purpose, "step", small // part] == (16, 4 * 40)
        assert found[0, op, "optimizer", purpose, "step", large // part] == (16, 2 * 40)
    assert found[0, "AllReduce", "replica", "gradient", "step", small // 16] == (12, 4 * 40)
    assert found[0, "AllReduce", "replica", "gradient", "step", large // 16] == (12, 2 * 40)
    assert found[0, "AllReduce", "data", "gradient", "step", 4 * 52224 * 5120 // 8] == (192, 1)
    assert found[0, "AllReduce", "stage", "gradient", "step", 4 * 2048 * 5120] == (1536, 2)  # position, top query
    assert found[0, "AllReduce", "stage", "gradient", "step", 4 * 5120] == (1536, 40 * 6 + 2)


def test_tensor_parallel_blocks_sum_twice_each_way():
    hidden = 2 * 16 * 2048 * 5120
    found = listed(PAPER, "training.recompute=none")
    activations = {key: value for key, value in found.items() if key[3] == "activation"}
    assert activations == {
        (0, "AllReduce", "tensor", "activation", "forward", hidden): (8, 2 * 40),
        (0, "AllReduce", "tensor", "activation", "backward", hidden): (8, 2 * 40),  # one for each forward, no other
        (0, "AllReduce", "tensor", "activation", "forward", 2 * hidden): (8, 1),  # FP32 lookup of words
        (0, "AllReduce", "tensor", "activation", "backward", 2 * hidden): (8, 1),
        (0, "AllReduce", "tensor", "activation", "forward", 4 * 16 * 2048): (8, 3),  # softmax over the vocabulary
        (0, "AllReduce", "tensor", "activation", "backward", 4 * 16 * 2048): (8, 2),
    }
    again = listed(PAPER).keys() - found.keys()
    assert again == {
        (0, "AllReduce", "tensor", "activation", "recompute", hidden),
        (0, "AllGather", "tensor", "activation", "recompute", hidden),
    }


def test_sequence_parallelism_gathers_and_scatters_instead():
    hidden = 2 * 16 * 2048 * 5120
    found = listed(PAPER, "training.recompute=none", "parallel.sequence=true")
    assert found[0, "ReduceScatter", "tensor", "activation", "forward", hidden] == (8, 80)
    assert found[0, "AllGather", "tensor", "activation", "backward", hidden] == (8, 80)
    assert found[0, "AllGather", "tensor", "activation", "forward", hidden] == (8, 80 + 1)  # the head's
    assert found[0, "ReduceScatter", "tensor", "activation", "backward", hidden] == (8, 80 + 1)


@pytest.mark.parametrize(
    ("overrides", "calls"),
    [([], 1), (["training.dropout=0"], 1), (["training.recompute=selective"], 0), (["lora.rank=8"], 0)],
    ids=["full", "no dropout", "selective", "adapters"],
)
def test_the_logits_input_is_gathered_again_after_a_recomputed_block(overrides, calls):
    config = load_config(PAPER, ["parallel.sequence=true", *overrides])
    (head,) = (part for part in parts_of(config, ASCEND_910) if part.name == "head")
    assert [x.op for x in head.collectives if x.phase == "recompute"] == ["AllGather"] * calls


def test_a_vocabulary_that_is_not_cut_needs_no_sums():
    found = listed(PAPER, "parallel.vocabulary=false", "training.recompute=none")
    sizes = {key[5] for key in found if key[3] == "activation"}
    assert sizes == {2 * 16 * 2048 * 5120}
    assert found[0, "AllReduce", "stage", "gradient", "step", 4 * 52224 * 5120] == (1536, 1)


def test_a_pipeline_sends_and_ties_its_ends():
    found = listed(ROOT / "configs" / "codegeex_13b_pipeline.yaml")
    message, table = 2 * 8 * 2048 * 5120, 4 * 52224 * 5120 // 8
    forward = [stage for stage in range(4) if (stage, "Send", "pipeline", "activation", "forward", message) in found]
    backward = [stage for stage in range(4) if (stage, "Send", "pipeline", "activation", "backward", message) in found]
    assert (forward, backward) == ([0, 1, 2], [1, 2, 3])
    assert found[1, "Send", "pipeline", "activation", "forward", message] == (2, 8)
    assert found[0, "AllReduce", "tied", "gradient", "step", table] == (2, 1)
    assert found[3, "AllReduce", "tied", "gradient", "step", table] == (2, 1)
    assert (1, "AllReduce", "tied", "gradient", "step", table) not in found


def test_activations_travel_every_micro_batch_weights_once():
    once, four = listed(PAPER), listed(PAPER, "training.global_batch=12288", "training.micro_batch=16")
    for key, (size, count) in once.items():
        if key[3] != "input":  # one device's rows of a replica become the whole stage's
            often = key[3] == "activation" or key[2:4] == ("data", "scalar")
            assert four[key] == (size, count * (4 if often else 1)), key


def test_groups_and_the_links_they_cross():
    mesh = Mesh(data=192, tensor=8, optimizer_shard=16)
    assert group_ranks(mesh, "tensor", 0) == tuple(range(8))
    assert group_ranks(mesh, "optimizer", 0) == tuple(8 * i for i in range(16))
    assert group_ranks(mesh, "replica", 0) == tuple(128 * i for i in range(12))
    assert spread(tuple(range(8)), ASCEND_910.board_devices, 8) == (4, 2, 1)
    assert spread(tuple(range(16)), ASCEND_910.board_devices, 8) == (4, 2, 2)
    assert spread(tuple(8 * i for i in range(16)), ASCEND_910.board_devices, 8) == (1, 1, 16)
    assert link_of(list(range(8)), 8) == "server" and link_of([0, 8], 8) == "cluster"


def a_call(op, group="data", size=10**9, count=1):
    return PlannedCollective(op, group, 8, count, size, "fp32", "server", 0, "gradient")


def test_collective_times_by_hand():
    eight = Mesh(data=8)
    flat = seconds(a_call("AllReduce"), eight, A100, 8)  # all behind one switch: 2 · 7/8 of the bytes
    assert flat == pytest.approx(2 * 7 / 8 * 1e9 / 300e9 + 6 * 2e-5)
    boards = seconds(a_call("ReduceScatter"), eight, ASCEND_910, 8)  # on the board, then a quarter between the boards
    assert boards == pytest.approx(3 / 4 * 1e9 / 90e9 + 1 / 2 * 1e9 / 4 / 32e9 + 3 * 2e-5)
    apart = seconds(a_call("AllGather"), Mesh(data=16, tensor=8), ASCEND_910, 8)  # one device of each of 16 servers
    assert apart == pytest.approx(15 / 16 * 1e9 / 12.5e9 + 4 * 2e-5)
    assert seconds(a_call("AllReduce"), Mesh(), A100, 8) == 0
    send = seconds(a_call("Send", "pipeline", count=3), Mesh(data=8, pipeline=2), ASCEND_910, 8)
    assert send == pytest.approx(3 * (1e9 / 12.5e9 + 2e-5))


def test_fused_calls_start_once_a_bucket():
    mesh = Mesh(data=8)
    many = seconds(a_call("AllReduce", size=4, count=100), mesh, A100, 8)
    assert seconds(a_call("AllReduce", size=4, count=100), mesh, A100, 8, calls=4) == pytest.approx(many / 25, rel=0.01)


def test_the_summary_by_group_adds_up():
    plan = make_plan(load_config(PAPER))
    groups = communication_by_group(plan)
    assert set(groups) == {"tensor", "data", "stage", "optimizer", "replica", "world"}
    assert groups["optimizer"]["bytes"] == (2 + 4) * 40 * 12 * 5120**2 // 8
    assert groups["tensor"]["link"] == "server" and groups["optimizer"]["link"] == "cluster"
    total = sum(entry["seconds"] for entry in groups.values())
    assert total == pytest.approx(plan.time.slowest.activations + plan.time.gradients)
