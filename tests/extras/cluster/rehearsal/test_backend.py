"""Kernels and streams in dumps of the Ascend back end, written by hand; and in a real one."""

from collections import Counter

import pytest
from test_compile import FAMILIES, MESHES, small

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.extras.cluster.rehearsal import backend, job
from ms_codegeex.extras.cluster.rehearsal.backend import (
    Kernel,
    read_kernels,
    read_libraries,
    stream_checks,
    unchecked_operators,
)
from ms_codegeex.extras.cluster.rehearsal.compile import compile_ranks
from ms_codegeex.parallel.sharding import layouts_of

DUMP = """
%para1_x: <Tensor[Float32], (2, 32)>
subgraph attr:
subgraph @kernel_graph_1() {
  %0(a) = PrimFunc_MatMul(%para1, %para2, Bool(0)) {instance name: m} primitive_attrs: {stream_id: U32(0)}
      : (<Tensor[Float16], (128, 64)>) -> (<Tensor[Float16], (128, 32)>)
      # Fullname with scope: (Default/MatMul-op0)
  %1(b) = AllReduce(%0) primitive_attrs: {stream_id: U32(2), fusion: I64(0), group_rank_ids: (0, 1), op: "sum"}
  %2(c) = AllGather(%para3) primitive_attrs: {rank_size: I64(2), stream_id: U32(3), group_rank_ids: (0, 2)}
  %3(d) = Depend(%1, %2) primitive_attrs: {visited: Bool(1)}
  %4(e) = PrimFunc_Add(%3, %2) primitive_attrs: {stream_id: U32(0)}
  %5(f) = AllReduce(%4) primitive_attrs: {stream_id: U32(4), group_rank_ids: (0)}
"""
LOG = """
[INFO] DEVICE(7,7f,python):2026-01-01 [mindspore/kernel_select_ascend.cc:664] GenerateKernelBuildInfo] Default/MatMul-op0
[INFO] DEVICE(7,7f,python):2026-01-01 [mindspore/kernel_select_ascend.cc:750] CollectOpSelectedType] MatMul select aclnn kernel
[INFO] DEVICE(7,7f,python):2026-01-01 [mindspore/kernel_select_ascend.cc:750] CollectOpSelectedType] AllReduce select hccl kernel
[INFO] DEVICE(7,7f,python):2026-01-01 [mindspore/kernel_select_ascend.cc:750] CollectOpSelectedType] Add select aclop kernel
"""  # noqa: E501
LISTED = [
    {"op": "AllReduce", "ranks": [0, 1], "calls": 1},
    {"op": "AllGather", "ranks": [0, 2], "calls": 1},
    {"op": "AllReduce", "ranks": [0], "calls": 1},
]


def test_every_node_with_a_stream_is_a_kernel():
    found = read_kernels(DUMP.splitlines())
    assert found[:3] == [Kernel("MatMul", 0), Kernel("AllReduce", 2, (0, 1)), Kernel("AllGather", 3, (0, 2))]
    assert found[3:] == [Kernel("Add", 0), Kernel("AllReduce", 4, (0,))]


def test_the_library_of_each_kernel_is_read_from_the_log():
    kernels = read_kernels(DUMP.splitlines(), read_libraries(LOG.splitlines()))
    chosen = ("MatMul aclnn", "AllReduce hccl", "AllGather ", "Add aclop", "AllReduce hccl")
    assert tuple(f"{kernel.op} {kernel.library}" for kernel in kernels) == chosen
    assert unchecked_operators(kernels) == ["Add"]


def test_each_group_has_a_stream_of_its_own():
    checks = stream_checks(read_kernels(DUMP.splitlines()), LISTED)
    assert len(checks) == 4 and all(check.ok for check in checks)


@pytest.mark.parametrize(
    ("old", "new", "failing"),
    [
        ("stream_id: U32(3)", "stream_id: U32(2)", "back end, collectives"),
        ("stream_id: U32(3)", "stream_id: U32(0)", "back end, collectives apart from computation"),
        ("(%3, %2) primitive_attrs: {stream_id: U32(0)", "() {stream_id: U32(1)", "back end, computation"),
        ("AllGather(", "AllReduce(", "back end, kernels of collectives"),
    ],
)
def test_other_streams_and_kernels_are_seen(old, new, failing):
    assert old in DUMP
    checks = stream_checks(read_kernels(DUMP.replace(old, new).splitlines()), LISTED)
    assert failing in {check.name for check in checks if not check.ok}


def test_a_back_end_that_dies_before_it_assigned_streams_is_a_failure(monkeypatch):
    monkeypatch.setattr(job, "COMPILE_PROGRAM", ("-c", "raise SystemExit('out of stubs')"))
    monkeypatch.setattr(backend.cann_stubs, "loader_environment", dict)
    with pytest.raises(RunFailure, match=r"back end: no streams were assigned .*out of stubs"):
        backend.backend_kernels(small("devices=2", "training.global_batch=4"), 0, inline=True)


FUSED = {  # overrides, and the library of each fused kernel that has a gradient
    "codegeex": ((), {"FlashAttentionScore": "aclnn", "LayerNorm": "aclop"}),
    "codegeex2": (FAMILIES["codegeex2"], {"FlashAttentionScore": "aclnn", "RmsNorm": "aclnn"}),
}


@pytest.mark.slow  # a compilation with Ascend's back end
@pytest.mark.parametrize("family", FUSED)
def test_the_back_end_chooses_fused_kernels(family):
    """Attention, norms and AdamW, with keys and values shared by heads in CodeGeeX2. In BF16 every step updates."""
    overrides, fused = FUSED[family]
    mesh = ("devices=4", "training.global_batch=8", "parallel.optimizer_shard=2", "parallel.hardware=ascend910b")
    config = small(*mesh, "training.precision=bf16", "training.dropout=0", *overrides)
    kernels = backend.backend_kernels(config, 0, inline=True)
    counts, libraries = Counter(kernel.op for kernel in kernels), {kernel.op: kernel.library for kernel in kernels}
    layers, full = config.model.sizes.attention_layers, config.training.recompute == "full"
    assert counts["FlashAttentionScore"] == (2 if full else 1) * layers and counts["FlashAttentionScoreGrad"] == layers
    for op, library in fused.items():
        assert libraries[op] == libraries[f"{op}Grad"] == library, op
    assert not {"Softmax", "BatchMatMul", "Rsqrt"} & counts.keys()  # of composed attention and norms
    weights = sum(layout.trained for layout in layouts_of(config))
    assert counts["AdamW"] == weights and libraries["AdamW"] == "aclnn"
    assert "UnsortedSegmentSum" in unchecked_operators(kernels)


@pytest.mark.slow  # three compilations of the engine, one of them with Ascend's back end: minutes
def test_the_streams_of_the_back_end_are_as_expected():
    config = small("devices=4", "training.global_batch=8", "parallel.optimizer_shard=2")
    report = compile_ranks(config, [0], target="ascend", backend=True)
    assert report.ok, report.problems
    assert {"back end, computation", "back end, collectives"} <= {check.name for check in report.checks}
    assert {"MatMul", "LayerNorm", "AllReduce"} <= {kernel.op for kernel in report.kernels}
    assert "left to CANN's library of operators, which is a stub here: " in report.text()
    assert "kernels that the back end chose" in report.text() and "target ascend" in report.text()


@pytest.mark.slow  # two compilations of the engine
def test_a_pipeline_partitioned_for_ascend_is_the_planned_one():
    (overrides,) = MESHES.values()
    report = compile_ranks(small(*overrides.split()), [0, 4], target="ascend")
    assert report.ok, report.problems
