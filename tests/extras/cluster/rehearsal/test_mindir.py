"""A tiny training step, partitioned over two simulated devices, read, rewritten and run by two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.extras.cluster.rehearsal import mindir
from ms_codegeex.extras.cluster.rehearsal.stubs import loader_environment

SCRIPT = Path(__file__).with_name("tiny_net.py")
ROOT = Path(__file__).resolve().parents[4]
LIBRARY = Path("calls.so")
RATE, MOMENTUM, STEPS = 0.01, 0.9, 3


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the exported graphs of both ranks, layers inlined at once and lazily, and what the run of both gave."""
    path, generator = tmp_path_factory.mktemp("tiny_net"), np.random.default_rng(0)
    shapes = {"x": (8, 6), "first": (6, 4), "second": (4, 6), "wide": (6, 4), "square": (4, 4)}
    np.savez(path / "data.npz", **{k: generator.normal(0, 0.5, shape).astype("f") for k, shape in shapes.items()})
    (path / "messages").mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **loader_environment()}
    done = subprocess.run([sys.executable, str(SCRIPT)], cwd=path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path


def load(directory: Path, kind: str, rank: int):
    return mindir.parse((directory / f"{kind}{rank}.mindir").read_bytes())


def expected(directory: Path) -> tuple[list[float], dict[str, np.ndarray]]:
    """Losses and the last weights of the same steps on one device, in NumPy."""
    data = {name: value.astype(np.float64) for name, value in np.load(directory / "data.npz").items()}
    x, weights = data["x"], {name: data[name] for name in ("first", "second")}
    moments, losses = {name: 0.0 for name in weights}, []
    for _ in range(STEPS):
        hidden = np.maximum(x @ weights["first"], 0)
        y = hidden @ weights["second"]
        losses.append(np.sum(y * y))
        backward = 2 * y @ weights["second"].T * (hidden > 0)
        gradients = {"first": x.T @ backward, "second": hidden.T @ (2 * y)}
        for name in weights:
            moments[name] = MOMENTUM * moments[name] + gradients[name]
            weights[name] = weights[name] - RATE * moments[name]
    return losses, weights


def test_collectives(directory):
    found = mindir.collectives(load(directory, "step", 0), 0)
    # all-reduces: the partial sums of x w1; the loss; backwards, the rows that the other rank used
    kinds = {"AllReduce": 3, "AllGather": 1, "ReduceScatter": 1, "AlltoAll": 2, "Broadcast": 1}
    assert Counter(c.op for c in found) == kinds
    assert all(c.ranks == (0, 1) and c.calls == 1 and c.dtype == "float32" and c.peer is None for c in found)
    first = {c.op: c for c in reversed(found)}
    assert (first["AllReduce"].shape, first["AllReduce"].bytes, first["AllReduce"].reduce) == ((8, 4), 128, "sum")
    assert "first-Product" in first["AllReduce"].name
    assert (first["AllGather"].input_shape, first["AllGather"].shape, first["AllGather"].bytes) == ((2, 6), (4, 6), 96)
    scatter = first["ReduceScatter"]
    assert (scatter.input_shape, scatter.shape, scatter.bytes) == ((4, 6), (2, 6), 96)
    assert first["AllGather"].fusion == scatter.fusion == 1 and first["AllReduce"].fusion == 0
    to_columns = first["AlltoAll"]
    assert (to_columns.input_shape, to_columns.shape, to_columns.bytes) == ((4, 6), (8, 3), 96)
    assert (to_columns.split_count, to_columns.split_dim, to_columns.concat_dim) == (2, 1, 0)
    assert (first["Broadcast"].shape, first["Broadcast"].root, first["Broadcast"].bytes) == ((), 1, 4)


def test_the_ranks_agree_on_the_tags_and_no_two_nodes_share_one(directory):
    tags = [[c.tag for c in mindir.collectives(load(directory, "step", rank), rank)] for rank in (0, 1)]
    assert tags[0] == tags[1]
    assert len(set(tags[0])) == len(tags[0]) == 8


def test_the_graph_of_another_rank_is_refused(directory):
    with pytest.raises(RunFailure, match=r"of ranks \[0, 1\] in the graph of rank 2"):
        mindir.collectives(load(directory, "step", 0), 2)


def test_parameters_are_this_ranks_part(directory):
    found = mindir.parameters(load(directory, "step", 1))
    for prefix in ("", "moments."):
        assert found[f"{prefix}first.weight"] == mindir.TensorType((3, 4), "float32")
        assert found[f"{prefix}second.weight"] == mindir.TensorType((2, 6), "float32")
        assert found[f"{prefix}second.weight"].bytes == 48
    assert found["learning_rate"] == mindir.TensorType((), "float32")


def test_matmul_flops_are_those_of_this_rank(directory):
    # forward: half of the inner size of x w1, half of the rows of (x w1) w2; backward: w1's gradient, and both of w2's
    flops = 2 * (8 * 3 * 4 + 4 * 4 * 6) + 2 * (8 * 3 * 4 + 2 * 4 * 4 * 6)
    assert mindir.matmul_flops(load(directory, "step", 0)) == {"float32": flops}
    assert Counter(mindir.executed(load(directory, "step", 0)))["MatMul"] == 5


def test_16_bit_inputs_of_what_computes_in_fp32_are_found(directory):
    model = load(directory, "step", 0)
    assert mindir.narrow(model) == []
    for node in model.graph.node:
        for attribute in node.attribute:
            for tensor in attribute.tensors:
                tensor.data_type = mindir.data_type(mindir.TensorType((), "bfloat16"))
    assert mindir.narrow(model) == ["Square"]  # products and sums may be


@pytest.mark.parametrize(
    ("op", "dtype", "shapes", "flat", "flops"),
    [
        ("FlashAttentionScore", "float16", [(2, 1, 8, 4), (2, 1, 8, 4)], False, {"float16": 2 * 2 * 2 * 8 * 8 * 4}),
        ("MatMul", "float16", [(8, 6), (6, 1)], False, {"float16": 2 * 8 * 6}),
        ("MatMul", "float16", [(8, 6), (6, 1)], True, {"float16": 2 * 8 * 6}),  # an adapter of rank 1
        ("MatMul", "float32", [(8, 6), (6, 1)], False, {"float32": 2 * 8 * 6}),
        ("MatMul", "float32", [(8, 6), (6, 1)], True, {}),  # the mean of a norm on a GPU
    ],
)
def test_products_along_an_axis_of_1_count_except_those_of_norms_on_gpus(op, dtype, shapes, flat, flops):
    from mindspore.train.mind_ir_pb2 import AttributeProto, ModelProto

    model, data_type = ModelProto(), {"float16": 10, "float32": 1}[dtype]
    model.graph.name = "graph"
    for index, shape in enumerate(shapes):
        model.graph.parameter.add(name=f"graph:{index}", dims=shape, data_type=data_type)
    model.primitives.add(name=f"{op}:0", op_type=op)
    inputs = [*(f"graph:{index}" for index in range(len(shapes))), *("none" for _ in range(8))]
    node = model.graph.node.add(op_type=f"REF::{op}:0", input=inputs, output=["graph:y"])
    made = (*shapes[0][:-1], shapes[1][-1])
    node.attribute.add(name="shape", type=AttributeProto.TENSORS).tensors.add(dims=made, data_type=data_type)
    assert mindir.matmul_flops(model, flat) == flops


def test_functions_are_counted_as_often_as_they_are_called(directory):
    plain, lazy = load(directory, "plain", 0), load(directory, "lazy", 0)
    assert not plain.functions
    assert len(lazy.functions) == 1
    assert [c.calls for c in mindir.collectives(plain, 0)] == [1, 1, 1]
    assert [c.calls for c in mindir.collectives(lazy, 0)] == [3]
    assert Counter(mindir.executed(lazy))["MatMul"] == Counter(mindir.executed(plain))["MatMul"] == 3
    assert mindir.matmul_flops(lazy) == mindir.matmul_flops(plain) == {"float32": 3 * 2 * 6 * 2 * 4}


def test_only_communication_is_rewritten(directory):
    model, before = load(directory, "step", 0), load(directory, "step", 0)
    assert mindir.rewrite(model, LIBRARY) == 8
    assert mindir.collectives(model, 0) == []
    counts, old = Counter(mindir.executed(model)), Counter(mindir.executed(before))
    assert counts.pop("Custom") == 8
    counts["MakeTuple"] -= 1  # the broadcast's
    assert counts == Counter({op: n for op, n in old.items() if op not in mindir.COMMUNICATION})
    called = [node.attribute[0].tensors[0].raw_data for node in model.graph.node if node.name.endswith("_function")]
    assert [int.from_bytes(number, sys.byteorder) for number in called] == list(range(1, 9))
    assert mindir.matmul_flops(model) == mindir.matmul_flops(before)
    assert model.graph.parameter == before.graph.parameter
    kept = {node.output[0]: node for node in model.graph.node}
    communication = {node.output[0] for node in before.graph.node if "rehearsal" in kept[node.output[0]].op_type}
    assert len(communication) == 8
    assert all(kept[node.output[0]] == node for node in before.graph.node if node.output[0] not in communication)


def pipeline_ends(op: str, peers: list[int], tag: int = 3):
    """A graph with one Send or Receive per entry of `peers`, an index into the group of ranks 4 and 7."""
    from mindspore.train.mind_ir_pb2 import AttributeProto, ModelProto

    model = ModelProto()
    model.graph.parameter.add(name="graph:x", dims=[2, 5], data_type=10)
    for index, peer in enumerate(peers):
        primitive = model.primitives.add(name=f"{op}:{index}", op_type=op)
        for name, value in (("sr_tag", tag), ("dest_rank" if op == "Send" else "src_rank", peer)):
            primitive.attribute.add(name=name, type=AttributeProto.INT64, i=value)
        group = primitive.attribute.add(name="group_rank_ids", type=AttributeProto.TUPLE)
        for rank in (4, 7):
            group.values.add(type=AttributeProto.UINT32, ints=[rank])
        node = model.graph.node.add(op_type=f"REF::{op}:{index}", input=["graph:x"], output=[f"graph:y{index}"])
        node.attribute.add(name="shape", type=AttributeProto.TENSORS).tensors.add(dims=[2, 5], data_type=10)
    return model


def test_both_ends_of_a_pipeline_message_agree():
    sent = mindir.collectives(pipeline_ends("Send", [1, 1]), 4)
    received = mindir.collectives(pipeline_ends("Receive", [0, 0]), 7)
    assert [c.tag for c in sent] == [c.tag for c in received]
    assert len({c.tag for c in sent}) == 2
    assert {c.tag for c in sent}.isdisjoint(c.tag for c in mindir.collectives(pipeline_ends("Send", [0, 0]), 7))
    assert {c.tag for c in sent}.isdisjoint(c.tag for c in mindir.collectives(pipeline_ends("Send", [1], tag=4), 4))
    assert [(c.peer, c.bytes, c.dtype) for c in sent] == [(7, 20, "float16")] * 2
    assert [(c.peer, c.bytes, c.input_shape) for c in received] == [(4, 20, ())] * 2


def test_an_unknown_communication_operator_is_named(directory):
    model = load(directory, "step", 0)
    next(p for p in model.primitives if p.op_type == "AlltoAll").op_type = "NeighborExchange"
    for read in (lambda: mindir.collectives(model, 0), lambda: mindir.rewrite(model, LIBRARY)):
        with pytest.raises(RunFailure, match="cannot execute NeighborExchange"):
            read()


def test_two_processes_train_as_one_device_does(directory):
    assert list((directory / "messages").iterdir()) == []
    losses, weights = expected(directory)
    assert losses[-1] < 0.9 * losses[0]
    for rank in (0, 1):
        result = np.load(directory / f"result{rank}.npz")
        np.testing.assert_allclose(result["results"][:, 0], losses, rtol=1e-5)
        np.testing.assert_array_equal(result["results"][:, 1], 11)
        for name in ("first", "second"):
            part = np.split(weights[name], 2)[rank]
            moved = np.abs(part - np.split(np.load(directory / "data.npz")[name], 2)[rank]).max()
            np.testing.assert_allclose(result[f"{name}.weight"], part, rtol=0, atol=1e-5 * moved)
