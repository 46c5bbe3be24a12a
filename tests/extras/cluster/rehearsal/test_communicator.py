"""Messages between ranks, against NumPy: threads and processes that each hold one rank's end."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.extras.cluster.rehearsal.communicator import FileCommunicator, reduce
from ms_codegeex.extras.cluster.rehearsal.mindir import CollectiveNode


def node(op: str, ranks: tuple[int, ...], given: np.ndarray | None, shape: tuple[int, ...], **more) -> CollectiveNode:
    """One communication node as `mindir.collectives` would describe it."""
    dtype, inner = ("float32", ()) if given is None else (given.dtype.name, given.shape)
    fields = {"tag": f"{op}-{'_'.join(map(str, ranks))}-0", "dtype": dtype, "input_shape": inner, "name": "test"}
    return CollectiveNode(op=op, ranks=ranks, shape=shape, **{**fields, "bytes": 0, "calls": 1, "fusion": 0, **more})


def together(directory: Path, nodes: dict[int, CollectiveNode], values: dict[int, np.ndarray], steps: int = 1) -> dict:
    """Every rank's results of `steps` runs of its node, each rank in its own thread, values growing by 1 each step."""

    def rank(number: int) -> list:
        run = FileCommunicator(directory, number, seconds=600).function(nodes[number])
        return [run(value if (value := values[number]) is None else value + step) for step in range(steps)]

    with ThreadPoolExecutor(len(nodes)) as pool:
        results = dict(zip(nodes, pool.map(rank, nodes), strict=True))
    assert list(directory.iterdir()) == []  # nothing is left over
    return results


def random(seed: int, ranks: tuple[int, ...], shape: tuple[int, ...], dtype: str = "float32") -> dict[int, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {rank: np.asarray(10 * generator.normal(size=shape)).astype(dtype) for rank in ranks}


GROUPS = [(0, 1), (1, 3), (0, 1, 2, 3)]


@pytest.mark.parametrize("ranks", GROUPS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16", "int32"])
@pytest.mark.parametrize("kind", ["sum", "max", "min", "prod"])
def test_all_reduce(tmp_path, ranks, dtype, kind):
    values = random(1, ranks, (3, 4), dtype)
    results = together(tmp_path, {r: node("AllReduce", ranks, values[r], (3, 4), reduce=kind) for r in ranks}, values)
    wide = np.stack([values[r] for r in ranks]).astype(np.float64)
    expected = {"sum": wide.sum(0), "max": wide.max(0), "min": wide.min(0), "prod": wide.prod(0)}[kind]
    for rank in ranks:
        assert results[rank][0].dtype == dtype
        np.testing.assert_allclose(results[rank][0], expected, rtol=1e-3 if dtype == "float16" else 1e-5)
        assert results[rank][0].tobytes() == results[ranks[0]][0].tobytes()


def test_sums_are_taken_in_the_order_of_the_group_and_in_fp32():
    values = [np.float16([60000]), np.float16([60000]), np.float16([-60000]), np.float16([0.04])]
    assert reduce(values, "sum", "float16") == np.float16(60000)  # in FP16 the first sum would already be infinite
    assert np.isinf(reduce([np.float16([60000])] * 2, "sum", "float16"))
    values = [np.float32([1e8]), np.float32([-1e8]), np.float32([1])]
    assert reduce(values, "sum", "float32") == 1
    assert reduce(values[::-1], "sum", "float32") == 0
    one, eps, infinite = np.uint16([0x3F80]), np.uint16([0x3B80]), np.uint16([0x7F7F])  # bfloat16: 1, 2^-8, the largest
    assert reduce([one, eps, eps], "sum", "bfloat16") == 0x3F81  # rounded once: 1 + 2^-7
    assert reduce([infinite, infinite], "sum", "bfloat16") == 0x7F80


@pytest.mark.parametrize("ranks", GROUPS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "bool"])
def test_all_gather_joins_in_the_order_of_the_group(tmp_path, ranks, dtype):
    values = random(2, ranks, (2, 3), dtype)
    shape = (2 * len(ranks), 3)
    results = together(tmp_path, {r: node("AllGather", ranks, values[r], shape) for r in ranks}, values)
    for rank in ranks:
        np.testing.assert_array_equal(results[rank][0], np.concatenate([values[r] for r in ranks]))


@pytest.mark.parametrize("ranks", [*GROUPS, (3, 1)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16", "int32"])
def test_reduce_scatter_gives_each_its_part_of_the_sum(tmp_path, ranks, dtype):
    values = random(3, ranks, (2 * len(ranks), 3), dtype)
    results = together(tmp_path, {r: node("ReduceScatter", ranks, values[r], (2, 3)) for r in ranks}, values)
    total = sum(values[r].astype(np.float64) for r in ranks)
    for part, rank in enumerate(ranks):
        expected = total[2 * part : 2 * part + 2]
        np.testing.assert_allclose(results[rank][0], expected, rtol=2e-3 if dtype == "float16" else 1e-5, atol=1e-5)


@pytest.mark.parametrize("ranks", GROUPS, ids=str)
@pytest.mark.parametrize(("split", "concat"), [(0, 1), (1, 0), (2, 1), (1, 1)])
def test_all_to_all(tmp_path, ranks, split, concat):
    size, shape = len(ranks), [4, 4, 4]
    values = random(4, ranks, tuple(shape))
    shape[split] //= size
    shape[concat] *= size
    more = {"split_count": size, "split_dim": split, "concat_dim": concat}
    nodes = {r: node("AlltoAll", ranks, values[r], tuple(shape), **more) for r in ranks}
    results = together(tmp_path, nodes, values)
    for place, rank in enumerate(ranks):
        width = 4 // size
        mine = [np.take(values[r], range(place * width, (place + 1) * width), split) for r in ranks]
        np.testing.assert_array_equal(results[rank][0], np.concatenate(mine, concat))


@pytest.mark.parametrize("root", [0, 2])
def test_broadcast_gives_everyone_the_root_of_the_group(tmp_path, root):
    ranks = (1, 2, 5)
    values = random(5, ranks, (2, 2), "int32")
    results = together(tmp_path, {r: node("Broadcast", ranks, values[r], (2, 2), root=root) for r in ranks}, values)
    for rank in ranks:
        np.testing.assert_array_equal(results[rank][0], values[ranks[root]])


def test_send_and_receive_over_several_steps(tmp_path):
    values = {2: np.arange(6, dtype=np.float16).reshape(2, 3), 7: None}
    nodes = {
        2: node("Send", (2, 7), values[2], (2, 3), peer=7, tag="p2p-2-7-0-0"),
        7: node("Receive", (2, 7), None, (2, 3), peer=2, tag="p2p-2-7-0-0", dtype="float16"),
    }
    results = together(tmp_path, nodes, values, steps=3)
    for step, result in enumerate(results[7]):
        np.testing.assert_array_equal(result, values[2] + step)
        assert result.dtype == np.float16


def test_a_send_does_not_wait_for_its_reader(tmp_path):
    one = {"dtype": "float32", "tag": "Send-0_1-0"}
    send = FileCommunicator(tmp_path, 0, seconds=0).function(node("Send", (0, 1), np.ones(2), (2,), peer=1, **one))
    for value in range(3):
        send(np.full(2, value, np.float32))
    assert len(list(tmp_path.iterdir())) == 3
    receive = FileCommunicator(tmp_path, 1, seconds=600).function(node("Receive", (0, 1), None, (2,), peer=0, **one))
    assert [receive()[0] for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "bool"])
def test_tensors_without_axes(tmp_path, dtype):
    ranks = (0, 1, 2)
    values = {r: np.asarray(r, dtype) for r in ranks}
    nodes = {r: node("AllReduce", ranks, values[r], (), reduce="max") for r in ranks}
    for (result,) in together(tmp_path, nodes, values).values():
        assert (result.shape, result.dtype, result) == ((), dtype, values[2])


def test_two_nodes_and_two_groups_at_once_do_not_mix(tmp_path):
    def rank(number: int) -> tuple[np.ndarray, np.ndarray]:
        exchange = FileCommunicator(tmp_path, number, seconds=600)
        row = (number // 2 * 2, number // 2 * 2 + 1)
        column = (number % 2, number % 2 + 2)
        value = np.float32([number])
        first = exchange.function(node("AllReduce", row, value, (1,)))
        second = exchange.function(node("AllReduce", column, value, (1,)))
        third = exchange.function(node("AllReduce", column, value, (1,), tag=f"AllReduce-{column[0]}_{column[1]}-1"))
        return first(value), second(value), third(10 * value)

    with ThreadPoolExecutor(4) as pool:
        results = [[float(v[0]) for v in values] for values in pool.map(rank, range(4))]
    assert results == [[1, 2, 20], [1, 4, 40], [5, 2, 20], [5, 4, 40]]


def test_a_missing_message_is_named(tmp_path):
    exchange = FileCommunicator(tmp_path, 3, seconds=0.05)
    with pytest.raises(RunFailure, match=r"rank 3 waited 0\.05 s for message p2p-1-3-4-0\.1 from rank 1"):
        exchange.function(node("Receive", (1, 3), None, (2,), peer=1, tag="p2p-1-3-4-0"))()
    value = np.ones(2, np.float32)
    with pytest.raises(RunFailure, match=r"rank 3 waited 0\.05 s for message AllReduce-3_9-0\.1 from rank 9"):
        exchange.function(node("AllReduce", (3, 9), value, (2,)))(value)


@pytest.mark.parametrize(("shape", "dtype"), [((6,), "float16"), ((3, 2), "float16"), ((2, 3), "float32")])
def test_what_is_received_must_be_what_is_sent(tmp_path, shape, dtype):
    value = np.zeros((2, 3), np.float16)
    FileCommunicator(tmp_path, 2).function(node("Send", (2, 7), value, (2, 3), peer=7, tag="m"))(value)
    receive = node("Receive", (2, 7), None, shape, peer=2, tag="m", dtype=dtype)
    with pytest.raises(RunFailure, match=r"rank 7 receives .* from rank 2, which sends float16 \[2, 3\]"):
        FileCommunicator(tmp_path, 7).function(receive)()


def test_a_message_of_another_run_is_refused(tmp_path):
    value = np.ones(2, np.float32)
    FileCommunicator(tmp_path, 0).send("old.1", value, [1])
    with pytest.raises(RunFailure, match="be empty at the start"):
        FileCommunicator(tmp_path, 0).send("old.1", value, [1])
    with pytest.raises(RunFailure, match="the folder must exist"):
        FileCommunicator(tmp_path / "missing", 0).send("new.1", value, [1])


def test_messages_are_never_unpickled(tmp_path):
    np.save(tmp_path / "x", np.array([{}], dtype=object), allow_pickle=True)
    os.rename(tmp_path / "x.npy", tmp_path / "message.0.1")
    with pytest.raises(ValueError, match="pickle"):
        FileCommunicator(tmp_path, 1, seconds=1).receive("message", 0)


@settings(max_examples=25)
@given(
    size=st.integers(1, 4),
    rows=st.integers(1, 3),
    columns=st.integers(0, 3),
    dtype=st.sampled_from(["float32", "int32"]),
    seed=st.integers(0, 2**31),
)
def test_a_reduce_scatter_then_an_all_gather_is_an_all_reduce(tmp_path_factory, size, rows, columns, dtype, seed):
    directory, ranks = tmp_path_factory.mktemp("messages"), tuple(range(5, 5 + size))
    shape, part = (rows * size, columns), (rows, columns)
    values = random(seed, ranks, shape, dtype)
    parts = together(directory, {r: node("ReduceScatter", ranks, values[r], part) for r in ranks}, values)
    parts = {r: result[0] for r, result in parts.items()}
    joined = together(directory, {r: node("AllGather", ranks, parts[r], shape) for r in ranks}, parts)
    summed = together(directory, {r: node("AllReduce", ranks, values[r], shape) for r in ranks}, values)
    for rank in ranks:
        assert joined[rank][0].tobytes() == summed[rank][0].tobytes()


def _process(directory: str, rank: int, steps: int) -> None:
    """One rank of `test_processes`: a ring of sends, then a sum, in each step."""
    exchange, size = FileCommunicator(Path(directory) / "messages", rank, seconds=600), 4
    value = np.full((50, 70), rank, np.float32)
    to, source = (rank + 1) % size, (rank - 1) % size
    send = exchange.function(node("Send", (rank, to), value, value.shape, peer=to, tag=f"p2p-{rank}-{to}"))
    arriving = node("Receive", (source, rank), None, value.shape, peer=source, tag=f"p2p-{source}-{rank}")
    receive = exchange.function(arriving)
    total = exchange.function(node("AllReduce", tuple(range(size)), value, value.shape))
    for step in range(steps):
        send(value + 100 * step)
        np.testing.assert_array_equal(receive(), np.float32(source + 100 * step))
        np.testing.assert_array_equal(total(value + step), np.float32(6 + 4 * step))
    Path(directory, f"done{rank}").touch()


def test_processes(tmp_path):
    (tmp_path / "messages").mkdir()
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_process, args=(str(tmp_path), rank, 20)) for rank in range(4)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [0, 0, 0, 0]
    assert sorted(path.name for path in tmp_path.glob("done*")) == [f"done{rank}" for rank in range(4)]
    assert list((tmp_path / "messages").iterdir()) == []
