"""Seconds of operators, kernels and buckets against figures worked out by hand."""

import json
from dataclasses import asdict

import pytest
from tuned_products import TUNED_PRODUCTS

from ms_codegeex.base.hardware import ASCEND_910
from ms_codegeex.base.mesh import Mesh
from ms_codegeex.config.validation import validated
from ms_codegeex.extras.cluster.rehearsal.mindir import TensorType
from ms_codegeex.extras.cluster.rehearsal.timeline.costs import (
    COMPUTE,
    MATMUL,
    OPTIMIZER,
    VECTOR,
    Machine,
    buckets,
    kernels,
    tasks_of,
)
from ms_codegeex.extras.cluster.rehearsal.timeline.operators import Message, Operator, StepProgram
from ms_codegeex.planning.operators import matmul_seconds

BANDWIDTH = ASCEND_910.memory_bandwidth
HALF, FULL = "float16", "float32"


def tensor(*shape, dtype=HALF):
    return TensorType(shape, dtype)


def operator(op, reads, inputs, output, scope="Default/network-Loss/x", message=None):
    waits = tuple(sorted({x for x in reads if isinstance(x, int)}))
    return Operator(op, waits, tuple(reads), tuple(inputs), (output,), scope, message=message)


def machine(fused=False, mesh=None):
    return Machine(ASCEND_910, mesh or Mesh(data=4, tensor=2), 8, fused)


def tasks(*operators, **settings):
    return tasks_of(StepProgram(0, 0, operators, {}), machine(**settings))


def test_matmuls_take_the_measured_time_of_the_plan():
    for matmul, measured in TUNED_PRODUCTS[:5]:
        left, right = tensor(matmul.m, matmul.k), tensor(matmul.k, matmul.n)
        (task,) = tasks(operator("MatMul", ["x", "w"], [left, right], tensor(matmul.m, matmul.n)))
        assert task.seconds == matmul_seconds(matmul, ASCEND_910, "fp16") == pytest.approx(measured, rel=0.03)
        assert (task.stream, task.kind) == (COMPUTE, MATMUL)


def test_a_batched_matmul_counts_every_batch():
    found = operator(
        "BatchMatMul", ["q", "k"], [tensor(8, 5, 2048, 128), tensor(8, 5, 2048, 128)], tensor(8, 5, 2048, 2048)
    )
    (matmul,) = found.products
    assert (matmul.batch, matmul.m, matmul.k, matmul.n) == (40, 2048, 128, 2048)


def test_fused_attention_has_two_matmuls_forward_and_five_backward():
    shapes = [tensor(2, 4, 64, 16), tensor(2, 4, 64, 16)]
    for op, count in (("FlashAttentionScore", 2), ("FlashAttentionScoreGrad", 5)):
        matmuls = operator(op, ["q", "k"], shapes, tensor(2, 4, 64, 16)).products
        assert sum(x.flops for x in matmuls) == count * 2 * 8 * 64 * 64 * 16


def test_vector_work_takes_its_bytes_and_aliases_take_none():
    x = tensor(1000, 1000)
    add, shaped = operator("Add", ["x", "y"], [x, x], x), operator("Reshape", [0], [x], tensor(1000000))
    found = tasks(add, shaped)
    assert found[0].seconds == 3 * 2e6 / BANDWIDTH and found[0].kind == VECTOR
    assert (found[1].stream, found[1].seconds) == ("", 0.0)


def test_the_optimizer_reads_four_tensors_and_writes_three():
    w = tensor(1000, dtype=FULL)
    update = operator("AdamWeightDecay", ["w", "m", "v", None, None, None, "g"], [w, w, w, *[tensor()] * 3, w], w)
    (found,) = tasks(update)
    assert found.seconds == 28 * 1000 / BANDWIDTH and found.kind == OPTIMIZER


def test_zeros_that_empty_a_gradient_buffer_are_part_of_the_update():
    w, truth = tensor(1000, dtype=FULL), tensor(1000, dtype="bool")
    compared = operator("Greater", ["accu_grads.w"], [w], truth, "Default/Greater-op3")
    zeros = operator("Cast", [0], [truth], w, "Default/Cast-op4")
    narrow = operator("Cast", ["w"], [w], tensor(1000), "Default/Cast-op5")
    assert [task.kind for task in tasks(compared, zeros, narrow)] == [OPTIMIZER, OPTIMIZER, VECTOR]


def chain():
    """x -> cast -> two users that meet again -> sum of rows; the matmul's bias."""
    narrow, wide, row = tensor(100, 10), tensor(100, 10, dtype=FULL), tensor(100, dtype=FULL)
    return (
        operator("MatMul", ["a", "w"], [tensor(100, 20), tensor(20, 10)], narrow),
        operator("Add", [0, "b"], [narrow, tensor(10)], narrow),
        operator("Cast", [1], [narrow], wide),
        operator("Mul", [2, 2], [wide, wide], wide),
        operator("Sub", [2, 3], [wide, wide], wide),
        operator("ReduceSum", [4], [wide], row),
        operator("Send", [1], [narrow], narrow, message=Message((0, 8), 2000, "p")),
    )


def test_kernels_are_the_chains_without_another_way_out():
    assert kernels(chain()) == [1, 1, 5, 5, 5, 5, 6]  # the bias has two users, so the rest is another kernel


def test_a_fused_kernel_reads_and_writes_only_what_leaves_it():
    found = tasks(*chain(), fused=True, mesh=Mesh(data=4, tensor=2, pipeline=2))
    assert [task.stream for task in found] == ["", COMPUTE, "", "", "", COMPUTE, "pipeline"]
    assert found[5].seconds == (2000 + 400) / BANDWIDTH
    (matmul,) = chain()[0].products
    assert found[1].seconds >= matmul_seconds(matmul, ASCEND_910, "fp16") and found[1].kind == MATMUL
    alone = tasks(*chain(), mesh=Mesh(data=4, tensor=2, pipeline=2))
    assert [task.seconds > 0 for task in alone] == [True] * 7


def gathers():
    shard, whole = tensor(100), tensor(400)
    group = Message((0, 2, 4, 6), 800, "a", fusion=3)
    return [
        operator("AllGather", ["w"], [shard], whole, message=group),
        operator("AllGather", ["v"], [shard], whole, message=Message((0, 2, 4, 6), 800, "b", fusion=3)),
        operator("AllGather", ["u"], [shard], whole, message=Message((0, 2, 4, 6), 800, "c", fusion=4)),
    ]


def test_a_bucket_is_one_message_of_all_its_bytes():
    listed = gathers()
    assert buckets(listed) == [[0, 1]]
    found = tasks(*listed)
    alone = tasks(listed[0])[0].seconds
    latency = 2 * ASCEND_910.latency
    assert [task.stream for task in found] == ["", "data", "data"]
    assert found[1].seconds == pytest.approx(2 * alone - latency) and found[0].waits == (1,)


def test_a_bucket_whose_members_wait_for_one_another_stays_apart():
    listed = gathers()
    between = operator("Add", [0, "w"], [tensor(400)] * 2, tensor(400))
    later = operator("AllGather", [3], [tensor(100)], tensor(400), message=Message((0, 2, 4, 6), 800, "d", fusion=3))
    assert buckets([*listed, between, later]) == []


def test_a_group_of_one_sends_nothing():
    (found,) = tasks(operator("AllReduce", ["x"], [tensor(4)], tensor(4), message=Message((0,), 8, "t")))
    assert (found.stream, found.seconds) == ("", 0.0)


def test_a_program_survives_json():
    program = StepProgram(3, 1, (*chain(), *gathers()), {"w": 8})
    assert validated(StepProgram, json.loads(json.dumps(asdict(program)))) == program
