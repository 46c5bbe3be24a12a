"""Reports of graphs that are not the planned ones, in one thing each."""

from dataclasses import replace

import pytest
from right_report import right, right_report

from ms_codegeex.base.mesh import Mesh
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.extras.cluster.rehearsal import compile as compile_module
from ms_codegeex.extras.cluster.rehearsal.plan_checks import (
    PlanCheck,
    bucket_of,
    execution_problems,
    members,
    planned_calls,
)
from ms_codegeex.extras.cluster.rehearsal.shrink import shrunk, small_mesh
from ms_codegeex.planning.communication import collectives

RANK = 3


@pytest.fixture
def config():
    """Data 2 x tensor 2 x pipeline 2 with optimizer shards."""
    parallel = {"tensor": 2, "pipeline": 2, "optimizer_shard": 2, "micro_batches": 2}
    values = {"device": "ascend", "devices": 8, "training": {"steps": 1, "global_batch": 64}, "parallel": parallel}
    config = build_run_config(values)
    return shrunk(config, small_mesh(config.mesh))


def report(listed, config, rank=RANK):
    return replace(right_report(config, rank), collectives=listed)


FORGERIES = {  # an operator, whether it is in a bucket, what is another of one such entry, and what is named
    "from another rank": ("Receive", False, {"ranks": [3, 6]}, "Receive of 16,384 bytes float32 of ranks 3, 6"),
    "in fp16": ("Receive", False, {"dtype": "float16"}, "Receive of 16,384 bytes float16 of ranks 3, 7"),
    "a half": ("Receive", False, {"bytes": 8192}, "Receive of 8,192 bytes float32 of ranks 3, 7"),
    "too often": ("Receive", False, {"calls": 9}, "Receive of 16,384 bytes float32 of ranks 3, 7"),
    "wrong members": ("ReduceScatter", True, {"ranks": [0, 2]}, "of ranks 0, 2"),
    "swapped members": ("AllGather", True, {"ranks": [3, 1]}, "of ranks 3, 1"),
    "wrong bucket": ("ReduceScatter", True, {"fusion": 9}, "in bucket"),
    "alone": ("AllReduce", True, {"fusion": 0}, "in bucket"),
    "wrong peer": ("Send", False, {"ranks": [3, 6]}, "of ranks 3, 6"),
}


def test_a_right_report_passes(config):
    assert execution_problems(config, RANK, right(config, RANK)) == []
    assert all(check.ok for check in compile_module._collective_checks(config, report(right(config, RANK), config), ""))


@pytest.mark.parametrize(("op", "fused", "change", "named"), FORGERIES.values(), ids=FORGERIES)
def test_a_forged_report_fails(config, op, fused, change, named):
    listed = right(config, RANK)
    next(x for x in listed if x["op"] == op and bool(x["fusion"]) == fused).update(change)
    (problem,) = execution_problems(config, RANK, listed)
    assert problem.startswith(f"rank {RANK}, ")
    failed = [x.name for x in compile_module._collective_checks(config, report(listed, config), "") if not x.ok]
    assert any(named in name for name in failed), failed


def test_a_communicator_too_few_or_too_many_is_named(config):
    """Data 2 x tensor 2 x pipeline 2: the tied table and the messages between stages go over the same two ranks."""
    right_ones = [(0, 1, 2, 3), (0, 1, 2, 3, 4, 5, 6, 7), (1, 3), (2, 3), (3, 7), (3, 7)]

    def check(groups):
        made = replace(report([], config), communicators=[list(ranks) for ranks in groups])
        return next(x for x in compile_module._graph_checks(config, made, "") if x.name == "communicators")

    assert check(right_ones) == PlanCheck("communicators", "6", "6")
    missing = check(right_ones[:-1])
    assert (missing.expected, missing.found) == ("6, 2 of ranks [3, 7]", "5, 1 of ranks [3, 7]") and not missing.ok
    other = check([*right_ones[:-1], (1, 7)])
    assert not other.ok and other.found == "6, 1 of ranks [1, 7]" and other.expected == "6, 0 of ranks [1, 7]"


def test_groups_are_those_of_the_rank(config):
    """Data 2 x tensor 2 in two stages: 0 1 | 2 3 and 4 5 | 6 7."""
    found = {key[1] for key in planned_calls(config, RANK)}
    assert found == {(2, 3), (1, 3), (0, 1, 2, 3), (3, 7), tuple(range(8))}
    sends = [x for x in collectives(config) if x.op == "Send" and x.stage == 1]
    assert {members(config.mesh, x, 7) for x in sends} == {(3, 7)}


def test_buckets_follow_block_numbers():
    config = build_run_config({"training": {"steps": 1}, "model": {"preset": "13b"}})
    assert [bucket_of(config, f"blocks.{i}.attention.query.weight") for i in (0, 9, 10, 38)] == [1, 1, 2, 4]
    assert (bucket_of(config, "embedding.word.weight"), bucket_of(config, "head.weight")) == (1, 4)
    assert bucket_of(config, "top_query_layer.feed_forward.up.bias") == bucket_of(config, "final_norm.bias") == 4
    assert bucket_of(config, "blocks.38.attention.query.weight", called=True) == 1
    values = {"training": {"steps": 1}, "parallel": {"fusion": {"allreduce_groups": 0}}}
    assert bucket_of(build_run_config(values), "blocks.5.attention.query.weight") == 0


@pytest.mark.parametrize(
    ("planned", "small"),
    [
        (Mesh(data=8, optimizer_shard=8), Mesh(data=2, optimizer_shard=2)),  # over all replicas
        (Mesh(data=8, optimizer_shard=4), Mesh(data=4, optimizer_shard=2)),  # over some
        (Mesh(data=8, tensor=4, pipeline=6), Mesh(data=2, tensor=2, pipeline=2)),
    ],
)
def test_a_small_mesh_is_of_the_planned_kind(planned, small):
    assert small_mesh(planned) == small
