"""Strategy files and slices as MindSpore makes them, put together to whole tensors; and what does not fit together."""

import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore.train.node_strategy_pb2 import ParallelStrategyMap
from partitioned_net import SHAPES, values

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.cluster.rehearsal.stubs import loader_environment
from ms_codegeex.formats import strategy as strategy_module
from ms_codegeex.formats.mindspore_checkpoint import is_weight, read_mindspore, write_mindspore
from ms_codegeex.formats.strategy import find_rank_files, merge, merge_slices, read_strategy, shard
from ms_codegeex.formats.tensors import LazyTensor, from_array

SCRIPT = Path(__file__).with_name("partitioned_net.py")
ROOT = Path(__file__).resolve().parents[2]
MESHES = {  # devices, data, tensor, optimizer shards
    "dp2tp2": (4, 2, 2, 2),
    "tp2": (2, 1, 2, 0),
    "tp2 in shards": (2, 1, 2, -1),  # of what the tensor-parallel ranks repeat
    "dp4tp2": (8, 4, 2, 2),  # the shards have replicas
    "repeated": (8, 2, 2, 4),  # the replicas are not neighbours in the grid of devices
    "all": (4, 2, 2, -1),
}
SLOW = ("dp4tp2", "repeated", "all")
DEFAULT = [name for name in MESHES if name not in SLOW]  # simulated by one process


def simulate(directories: dict[str, Path]) -> None:
    """Each rank's checkpoint and strategy file, saved by MindSpore under simulation, in the directory of each mesh."""
    single_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # so that it may fork
    result = subprocess.run(
        [sys.executable, str(SCRIPT), *(str(word) for name, at in directories.items() for word in (*MESHES[name], at))],
        cwd=next(iter(directories.values())),
        env={**os.environ, **single_thread, "PYTHONPATH": str(ROOT), **loader_environment()},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The directory of a run by its mesh's name, made on the first use."""
    made = {}

    def run(name: str) -> Path:
        if name not in made:
            new = {each: tmp_path_factory.mktemp(each) for each in (DEFAULT if name in DEFAULT else [name])}
            simulate(new)
            made.update(new)
        return made[name]

    return run


@pytest.fixture
def run(runs, tmp_path):
    """A copy of the dp2·tp2 run to spoil: (directory, strategy)."""
    shutil.copytree(runs("dp2tp2"), tmp_path, dirs_exist_ok=True)
    for path in tmp_path.rglob("*.ckpt"):
        path.chmod(0o644)
    return tmp_path, read_strategy(tmp_path / "strategy_0.ckpt")


def check(tensors, expected=None):
    expected = values() if expected is None else expected
    assert set(tensors) == set(expected)
    for name, array in expected.items():
        assert (tensors[name].dtype, tensors[name].shape) == (array.dtype.name, array.shape)
        assert tensors[name].array().tobytes() == array.tobytes()


@pytest.mark.parametrize("suffix", ["ckpt", "json"])
@pytest.mark.parametrize("mesh", [pytest.param(m, marks=pytest.mark.slow) if m in SLOW else m for m in MESHES])
def test_what_mindspore_cuts_and_saves_is_whole_again(runs, mesh, suffix):
    directory, world = runs(mesh), MESHES[mesh][0]
    local = {name: t.shape for name, t in read_mindspore(directory / "rank_0/net-1_2.ckpt").items()}
    assert local["up.weight"] != SHAPES["up.weight"] and "adam_m.up.weight" in local
    files, layouts = find_rank_files(directory), read_strategy(directory / f"strategy_0.{suffix}")
    assert list(files) == list(range(world))
    check(merge_slices(files, layouts))
    check(merge_slices(files, layouts, shards_merged=True))
    every = [directory / f"strategy_{rank}.ckpt" for rank in range(world)]
    assert read_strategy(every) == read_strategy(every[0])
    moments = merge_slices(files, layouts, keep=lambda name: name.startswith("adam_m."))
    assert moments["adam_m.up.weight"].shape == SHAPES["up.weight"] and len(moments) == len(SHAPES)


def test_the_bytes_of_mindspores_own_merge(run, tmp_path):
    directory, layouts = run
    whole = tmp_path / "whole"
    ms.transform_checkpoints(str(directory), str(whole), "whole", str(directory / "strategy_0.ckpt"), None)
    theirs = read_mindspore(whole / "rank_0" / "whole0.ckpt", is_weight)
    check(merge_slices(find_rank_files(directory), layouts), {name: t.array() for name, t in theirs.items()})


def test_replicas_are_not_needed(run):
    directory, layouts = run
    for rank in (2, 3):  # of optimizer shards there are no replicas
        shutil.rmtree(directory / f"rank_{rank}")
    some = {"table", "norm"}
    found = merge_slices(find_rank_files(directory), layouts, keep=some.__contains__)
    check(found, {name: array for name, array in values().items() if name in some})
    with pytest.raises(UserError, match=r"no file holds a part of .*; give the checkpoint of .*rank"):
        merge_slices(find_rank_files(directory), layouts)


def test_files_whose_shards_were_merged_keep_the_strategy_of_the_shards(run, tmp_path):
    """The release's 8 files of 128 ranks: here 2 of 4, next to the strategy of the 4."""
    _, layouts = run
    files = {}
    for rank in (0, 1):
        part = {}
        for name, array in values().items():
            (layout,) = (replace(x, shards=1) for x in layouts[name])
            for axis, (count, number) in enumerate(zip(layout.pieces, layout.cell(rank), strict=True)):
                array = np.split(array, count, axis)[number]
            part[name] = from_array(np.ascontiguousarray(array))
        files[rank] = tmp_path / f"rank_{rank}.ckpt"
        write_mindspore(files[rank], part)
    check(merge_slices(files, layouts, shards_merged=True))
    with pytest.raises(UserError, match="no file holds a part"):
        merge_slices(files, layouts)


def test_only_the_parts_that_are_needed_are_read(run, monkeypatch):
    directory, layouts = run
    opened, real = Counter(), strategy_module.read_mindspore
    counted = lambda path, keep: opened.update([path.parent.name]) or real(path, keep)  # noqa: E731
    monkeypatch.setattr(strategy_module, "read_mindspore", counted)
    merge_slices(find_rank_files(directory), layouts, keep="table".__eq__)
    assert opened == {"rank_0": 1, "rank_1": 1}
    tensor = merge_slices(find_rank_files(directory), layouts)["up.weight"]
    window = (slice(0, 4), slice(5, 16))
    tensor.window(window).array()  # the first time the smallest tensors of all are compared, to find copies
    (directory / "rank_3" / "net-1_2.ckpt").write_bytes(b"")  # holds rows 4..8 of columns 8..16
    assert tensor.window(window).array().tobytes() == values()["up.weight"][window].tobytes()
    with pytest.raises(UserError, match=r"rank_3.*changed or removed"):
        tensor.array()


def pipeline(directory: Path) -> Path:
    """Two stages of one device pair each: `first` on stage 0, `last` on stage 1, `tied` on both."""
    matrix = np.arange(16, dtype=np.float32).reshape(4, 4)
    arrays = {name: matrix + k for k, name in enumerate(("first", "last", "tied"))}
    for stage, names in enumerate((("first", "tied"), ("last", "tied"))):
        proto(directory / f"stage_{stage}.ckpt", {name: ((2,), (0, -1), 0, 0) for name in names}, stage)
        for number in range(2):
            held = {name: from_array(np.split(arrays[name], 2)[number]) for name in names}
            write_mindspore(directory / f"rank_{2 * stage + number}" / "net.ckpt", held)
    return arrays


def proto(path, layouts, stage=0):
    """A strategy file by MindSpore's own protocol buffer: name -> (device matrix, tensor map, shards, step)."""
    message = ParallelStrategyMap()
    message.current_stage = 1
    operator = message.parallel_strategy_item.add()
    operator.node_name, operator.parallel_strategys.stage = "MatMul", stage
    operator.parallel_strategys.parallel_strategy.add().dim.append(2)
    for name, (devices, axes, shards, step) in layouts.items():
        item = message.parallel_layout_item.add()
        item.param_name = name
        layout = item.parallel_layouts
        layout.dev_matrix.add().dim.extend(devices)
        for each in axes if axes and isinstance(axes[0], tuple) else (axes,):
            layout.tensor_map.add().dim.extend(each)
        layout.param_split_shape.add()
        layout.indices_offset.add()
        layout.field, layout.opt_weight_shard_size, layout.opt_weight_shard_step = 0, shards, step
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(message.SerializeToString())
    return path


@pytest.mark.parametrize("merged", [False, True])
def test_pipeline_stages(tmp_path, merged):
    arrays = pipeline(tmp_path)
    paths = [tmp_path / f"stage_{stage}.ckpt" for stage in range(2)]
    if merged:
        (tmp_path / "s").mkdir()
        for path in paths:
            path.rename(tmp_path / "s" / path.name)
        ms.merge_pipeline_strategys(str(tmp_path / "s"), str(tmp_path / "merged_strategy.ckpt"))
        paths = [tmp_path / "merged_strategy.ckpt"]
    files = find_rank_files(tmp_path)
    check(merge_slices(files, read_strategy(paths)), arrays)
    del files[1]  # the tied table is whole on stage 1
    found = merge_slices(files, read_strategy(paths), keep="tied".__eq__)
    check(found, {"tied": arrays["tied"]})
    with pytest.raises(UserError, match=r"no file holds a part of first; give the checkpoint of rank 1 too"):
        merge_slices(files, read_strategy(paths))


@st.composite
def layouts(draw):
    """A device matrix, a tensor map and optimizer shards that MindSpore's transformation accepts."""
    devices = draw(st.lists(st.sampled_from([2, 2, 3, 4]), min_size=1, max_size=3).filter(lambda d: math.prod(d) <= 16))
    free = list(range(len(devices)))
    axes = []
    for _ in range(draw(st.integers(1, 3))):
        axis = draw(st.sampled_from([-1, *free]))
        axes.append(axis)
        free = [a for a in free if a != axis]
    order = sorted(len(devices) - 1 - a for a in free)  # the grid axes of the replicas
    shards = step = 0
    # where the replicas are the first grid axis, MindSpore's transformation takes the cuts in the order of the tensor's
    # axes, whatever the tensor map says (_construct_tensor_layout_for_opt_shard)
    cut = [axis for axis in axes if axis != -1]
    if order and (order != [0] or cut == sorted(cut, reverse=True)) and draw(st.booleans()):
        shards, step = math.prod(devices[k] for k in order), math.prod(devices[order[-1] + 1 :])
    return tuple(devices), tuple(axes), shards, step


@settings(max_examples=25)
@given(layouts())
def test_any_layout_that_mindspore_transforms(tmp_path_factory, layout):
    directory = tmp_path_factory.mktemp("layout")
    devices, axes, shards, _ = layout
    pieces = [1 if axis == -1 else devices[len(devices) - 1 - axis] for axis in axes]
    shape = [2 * piece for piece in pieces]
    shape[0] *= max(1, shards)
    whole = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    (directory / "whole" / "rank_0").mkdir(parents=True)
    ms.save_checkpoint([{"name": "w", "data": ms.Tensor(whole)}], str(directory / "whole/rank_0/w.ckpt"))
    path = proto(directory / "strategy.ckpt", {"w": layout})
    ms.transform_checkpoints(str(directory / "whole"), str(directory / "cut"), "w", None, str(path))
    files = find_rank_files(directory / "cut")
    assert list(files) == list(range(math.prod(devices)))
    assert read_mindspore(files[0])["w"].size * math.prod(pieces) * max(1, shards) == whole.size
    check(merge_slices(files, read_strategy(path)), {"w": whole})


def test_one_axis_cut_by_two_device_axes(tmp_path):
    whole = np.arange(16, dtype=np.int8).reshape(8, 2)
    path = proto(tmp_path / "strategy.ckpt", {"w": ((2, 2), ((0, 1), (-1,)), 0, 0)})
    for rank, part in enumerate((0, 2, 1, 3)):  # device axis 0 of the map is the last of the matrix, and comes first
        write_mindspore(tmp_path / f"rank_{rank}.ckpt", {"w": from_array(np.split(whole, 4)[part])})
    check(merge_slices(find_rank_files(tmp_path), read_strategy(path)), {"w": whole})


def test_strategy_files_that_do_not_belong_together(tmp_path):
    first = proto(tmp_path / "a.ckpt", {"w": ((2, 2), (0, -1), 0, 0)})
    other = proto(tmp_path / "b.ckpt", {"w": ((2, 2), (1, -1), 0, 0)})
    with pytest.raises(UserError, match=r"b\.ckpt: parameter w of stage 0 is sharded in another way"):
        read_strategy([first, other])


def rewrite(path, change):
    """A rank's file with other tensors; `change` maps the old ones to the new."""
    tensors = {name: from_array(np.array(t.array()), t.dtype) for name, t in read_mindspore(path).items()}
    write_mindspore(path, change(tensors))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: {k: v for k, v in t.items() if k != "norm"}, r"net-1_2\.ckpt: tensor norm is missing"),
        (lambda t: t | {"a.new": t["norm"]}, "the strategy does not mention tensor a.new"),
        (lambda t: t | {"norm": from_array(np.zeros((2, 4), np.float32))}, r"shape \[2, 4\].*one of 1 axes"),
        (lambda t: t | {"table": from_array(np.zeros((6, 8), "f4"))}, "table is float32 .*, in .* it is float32"),
        (lambda t: t | {"table": from_array(np.zeros((8, 8), "f2"))}, "table is float(16|32) .*, in .* it is float"),
    ],
)
def test_slices_of_another_run(run, change, text):
    directory, layouts = run
    rewrite(directory / "rank_0" / "net-1_2.ckpt", change)
    with pytest.raises(UserError, match=text):
        merge_slices(find_rank_files(directory), layouts)


def test_slices_that_are_equally_wrong(run):
    directory, _ = run
    for rank in range(4):
        rewrite(directory / f"rank_{rank}" / "net-1_2.ckpt", lambda t: t | {"table": from_array(np.zeros((2, 8), "f"))})
    with pytest.raises(UserError, match=r"one of \[2, 1\] parts of \[4, 8\], but .* records \[16, 8\]"):
        merge_slices(find_rank_files(directory), read_strategy(directory / "strategy_0.json"))


def test_nothing_to_merge(run):
    directory, layouts = run
    with pytest.raises(UserError, match="no checkpoint of a rank is given"):
        merge_slices({}, layouts)
    with pytest.raises(UserError, match="the strategy lists no weights"):
        merge_slices(find_rank_files(directory), layouts, keep="absent".__eq__)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["13B0-50", "13B1-50", "13B10-50"], {0: "13B0-50", 1: "13B1-50", 10: "13B10-50"}),
        (["13B0_1-5_2", "13B1-5_2", "strategy"], {0: "13B0_1-5_2", 1: "13B1-5_2"}),
        (["rank_0/a-5", "rank_1/a-5"], {0: "rank_0/a-5", 1: "rank_1/a-5"}),
        (["rank_0/x0", "rank_1/x1", "rank_0/src_strategy_0"], {0: "rank_0/x0", 1: "rank_1/x1"}),
        (["rank_1", "net_rank_0", "x", "y-3_4", "._rank_1"], {0: "net_rank_0", 1: "rank_1"}),
        ([f"rank_{r}/a-{s}" for r in "01" for s in ("9_2", "10_2", "2_30")], {0: "rank_0/a-10_2", 1: "rank_1/a-10_2"}),
    ],
)
def test_files_by_name(tmp_path, names, expected):
    touch(tmp_path, names)
    found = find_rank_files(tmp_path)
    assert found == {rank: tmp_path / f"{name}.ckpt" for rank, name in expected.items()}
    assert list(found) == sorted(found)


def touch(directory, names):
    for name in names:
        path = directory / f"{name}.ckpt"
        path.parent.mkdir(exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], "no checkpoint of a rank"),
        (["model", "strategy_0"], "no checkpoint of a rank"),
        (["a0-5", "a1-6"], r"several steps \(5, 6\)"),
        (["rank_0/a-5_2", "rank_1/a-5_2", "rank_0/a-10_2"], r"several steps \(5_2, 10_2\)"),
        (["rank_0", "a0-5"], r"several steps \(none, 5\)"),
        (["a0-5", "b0-5"], r"a0-5\.ckpt and b0-5\.ckpt are both of rank 0"),
        (["rank_0/a-5", "rank_0/a_1-5"], r"a-5\.ckpt and a_1-5\.ckpt are both of rank 0"),
    ],
)
def test_files_that_leave_a_choice(tmp_path, names, text):
    touch(tmp_path, names)
    with pytest.raises(UserError, match=text):
        find_rank_files(tmp_path)


def test_slices_of_tensor_parallel_ranks_are_those_of_mindspore(runs):
    """What `convert` does without a strategy file, both ways."""
    files = [read_mindspore(path, is_weight) for path in find_rank_files(runs("tp2")).values()]
    axes = dict.fromkeys(SHAPES) | {"table": 0, "up.weight": 1, "up.bias": 0, "down.weight": 0}
    check(merge(files, axes, ["rank 0", "rank 1"]))
    for rank, theirs in enumerate(files):
        ours = {name: shard(from_array(array), axes[name], rank, 2) for name, array in values().items()}
        check(ours, {name: tensor.array() for name, tensor in theirs.items()})


# --- tensor-parallel ranks: a window reads only what it meets ---


@given(st.data())
def test_cut_and_merged_is_the_whole(data):
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    ranks, axis = data.draw(st.integers(1, 4)), data.draw(st.integers(0, len(shape) - 1))
    shape[axis] *= ranks
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    parts = [{"x": shard(from_array(array), axis, rank, ranks)} for rank in range(ranks)]
    assert all(np.array_equal(p["x"].array(), s) for p, s in zip(parts, np.split(array, ranks, axis), strict=True))
    whole = merge(parts, {"x": axis}, ["here"] * ranks)["x"]
    assert whole.array().tobytes() == array.tobytes()
    window = tuple(slice(*sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))) for n in shape)
    assert np.array_equal(whole.window(window).array(), array[window])


def test_a_window_reads_only_the_ranks_it_meets():
    read = []

    def slice_of(rank):
        def load():
            read.append(rank)
            return np.full((2, 3), rank, np.float32)

        return {"x": LazyTensor("float32", (2, 3), load)}

    whole = merge([slice_of(rank) for rank in range(4)], {"x": 0}, list("abcd"))["x"]
    again = shard(whole, 0, 1, 4)
    assert not read and np.array_equal(again.array(), np.ones((2, 3)))
    assert sorted(read) == [0, 1, 1, 2, 3]  # the first time every rank's smallest tensor, to find copies
    read.clear()
    assert np.array_equal(again.array(), np.ones((2, 3))) and read == [1]


def ranks_of(bias, weight):
    """Ranks with these slices of a bias and of a weight."""
    return [{"bias": from_array(b), "weight": from_array(w)} for b, w in zip(bias, weight, strict=True)]


def test_a_copy_of_another_ranks_slices_is_found():
    zeros, weights = [np.zeros(2, np.float32)] * 3, list(np.arange(12, dtype=np.float32).reshape(3, 2, 2))
    axes = {"bias": 0, "weight": 0}
    whole = merge(ranks_of(zeros, weights), axes, "abc")  # equal biases are not copies
    assert np.array_equal(whole["weight"].array(), np.arange(12).reshape(6, 2))
    ones = [np.ones((2, 2), np.float32)] * 3  # nor is a network of constants
    assert merge(ranks_of(zeros, ones), axes, "abc")["weight"].array().sum() == 12
    copied = merge(ranks_of(zeros, [weights[0], weights[1], weights[0]]), axes, "abc")
    for name in axes:
        with pytest.raises(UserError, match="c: holds the same slices as a, so one of them is a copy of the other"):
            copied[name].window(tuple(slice(0, 1) for _ in copied[name].shape)).array()


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (np.ones(3, np.float16), r"b: tensor x is float16 \[3\], in a it is float32 \[3\]"),
        (np.ones(2, np.float32), r"b: tensor x is float32 \[2\]"),
        (np.array([1, 1, 2], np.float32), "b: tensor x differs from that in a"),
    ],
)
def test_copies_that_differ_are_named(second, message):
    with pytest.raises(UserError, match=message):
        merge([{"x": from_array(np.ones(3, np.float32))}, {"x": from_array(second)}], {"x": None}, "ab")["x"].array()


def test_one_rank_is_the_whole():
    tensor = from_array(np.ones(3))
    assert merge([{"x": tensor}], {}, ["a"])["x"] is tensor and shard(tensor, None, 1, 2) is tensor
