"""Any mesh's checkpoint to any mesh's, bit for bit; the slices are compared with NumPy's own indexing."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_models import FAMILIES, FIELDS, config

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.mesh import Mesh
from ms_codegeex.cli import main
from ms_codegeex.config.model import model_config
from ms_codegeex.config.sections import LoraConfig
from ms_codegeex.extras.exchange.auditing import difference
from ms_codegeex.formats.checkpoint import Checkpoint
from ms_codegeex.formats.checkpoint_writing import Slice, write_checkpoint, write_ranks
from ms_codegeex.formats.mindspore_checkpoint import read_mindspore, write_mindspore
from ms_codegeex.formats.tensors import from_array
from ms_codegeex.parallel.sharding import layouts_on
from ms_codegeex.runs.resharding import Contents, rank_slices

AXES = ("data", "tensor", "pipeline", "optimizer_shard")


def random_mesh(generator):
    data, tensor, pipeline = (int(generator.choice(sizes)) for sizes in ((1, 2, 4), (1, 2, 4), (1, 2)))
    shards = [n for n in (1, 2, 4) if data % n == 0]
    return Mesh(data, tensor, pipeline, int(generator.choice(shards)))


def in_memory(path, name, generator, lora):
    """Random weights and moments of a family, as a checkpoint of one rank would hold them."""
    settings = LoraConfig(rank=2, targets=("attention",)) if lora else LoraConfig()
    layouts = [layout for layout in layouts_on(Mesh(), config(name), settings) if layout.trained and not layout.copy_of]
    arrays = {
        prefix + layout.name: generator.standard_normal(layout.shape).astype(np.float32)
        for layout in layouts
        for prefix in ("", "optimizer.m.", "optimizer.v.")
    }
    model = {"family": name, "preset": None, **FIELDS[name]}
    state = {"samples": 7, "config": {"model": model, "lora": {"rank": settings.rank, "targets": ["attention"]}}}
    tensors = {key: from_array(array) for key, array in arrays.items()}
    return arrays, Contents(path, tensors, model_config(model), settings, 4, state)


def check_pair(tmp_path, name, generator, lora=False):
    """Write a checkpoint on one random mesh and reshard it to another; None if a mesh cannot hold the model."""
    first, second = random_mesh(generator), random_mesh(generator)
    arrays, contents = in_memory(tmp_path, name, generator, lora)
    source, target = tmp_path / "first", tmp_path / "second"
    try:
        for mesh in (first, second):
            list(rank_slices(contents, mesh))
    except UserError as error:
        assert "does not divide" in str(error)
        return None
    write_ranks(source, 4, contents.state, rank_slices(contents, first))
    options = [f"--{axis.replace('_', '-')}={getattr(second, axis)}" for axis in AXES]
    assert main(["checkpoint", "reshard", str(source), "--output", str(target), *options]) == 0
    before, after = Checkpoint(source), Checkpoint(target)
    assert (after.step, after.state, set(after.names)) == (4, before.state, set(arrays))
    after.verify()
    for layout in layouts_on(second, config(name), contents.lora):
        for rank in range(second.world):
            if layout.copy_of or layout.stage != second.coordinates(rank)[0] or layout.name not in arrays:
                continue
            window = layout.window(second, rank)
            for key in (layout.name, f"optimizer.v.{layout.name}"):
                expected = arrays[key][window]
                for checkpoint in (before, after):  # what a rank of the second mesh reads when it resumes
                    assert checkpoint.tensor(key, window).tobytes() == expected.tobytes(), (first, second, key)
    for file in after.files:  # each rank's file holds what that rank of the second mesh has
        rank = int(file.removeprefix("rank_").removesuffix(".safetensors"))
        layouts = layouts_on(second, config(name), contents.lora)
        windows = {layout.name: layout.window(second, rank) for layout in layouts}
        for key, array in load_file(target / file).items():
            window = windows[key.removeprefix("optimizer.m.").removeprefix("optimizer.v.")]
            assert array.tobytes() == arrays[key][window].tobytes(), (first, second, key)
    return first, second


def check_pairs(tmp_path_factory, name, count, seed):
    generator, found = np.random.default_rng(seed), set()
    while len(found) < count:
        pair = check_pair(tmp_path_factory.mktemp("pair"), name, generator, lora=len(found) % 4 == 3)
        found |= {pair} - {None}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_checkpoint_of_one_random_mesh_for_another(tmp_path_factory, name):
    check_pairs(tmp_path_factory, name, 2, 5)


@pytest.mark.slow  # 100 pairs of each family: a minute or two
@pytest.mark.parametrize("name", FAMILIES)
def test_a_hundred_random_pairs_of_meshes_are_bit_equal(tmp_path_factory, name):
    check_pairs(tmp_path_factory, name, 100, 6)


def test_a_checkpoint_does_not_depend_on_virtual_stages(tmp_path):
    """Every rank finds its parts by their names, whichever stages wrote them."""
    arrays, contents = in_memory(tmp_path, "codegeex", np.random.default_rng(9), lora=False)
    meshes = [Mesh(tensor=2, pipeline=2, virtual_stages=number) for number in (1, 2)]
    for number, mesh in enumerate(meshes):
        write_ranks(tmp_path / str(number), 4, contents.state, rank_slices(contents, mesh))
    written = [Checkpoint(tmp_path / str(number)) for number in (0, 1)]
    layouts = [layouts_on(mesh, contents.model.sizes, contents.lora) for mesh in meshes]
    assert [x.stage for x in layouts[0]] != [x.stage for x in layouts[1]]
    for mesh, of_mesh in zip(meshes, layouts, strict=True):
        for layout in of_mesh:
            for rank in (rank for rank in range(mesh.world) if layout.stage == mesh.coordinates(rank)[0]):
                window = layout.window(mesh, rank)
                for checkpoint in () if layout.copy_of else written:
                    np.testing.assert_array_equal(checkpoint.tensor(layout.name, window), arrays[layout.name][window])


@pytest.mark.parametrize("vocabulary", [True, False])
def test_a_vocabulary_that_the_run_does_not_share_stays_whole(tmp_path, vocabulary):
    _, contents = in_memory(tmp_path, "codegeex", np.random.default_rng(7), lora=False)
    contents.state["config"]["parallel"] = {"vocabulary": vocabulary}
    name = "embedding.word.weight"
    rows = contents.tensors[name].shape[0]
    found = [part[name].array.shape[0] for part in rank_slices(contents, Mesh(tensor=2)) if name in part]
    assert found == ([rows // 2] * 2 if vocabulary else [rows])


def small_run(path, seed=0, step=4):
    arrays, contents = in_memory(path, "codegeex", np.random.default_rng(seed), lora=False)
    slices = {name: Slice(array.shape, (0,) * array.ndim, array) for name, array in arrays.items()}
    return arrays, write_checkpoint(path, step, slices, contents.state)


def test_merge_writes_whole_tensors_into_one_file(tmp_path, capsys):
    arrays, whole = small_run(tmp_path / "checkpoints")
    sharded, merged = str(tmp_path / "sharded"), str(tmp_path / "merged")
    mesh = ["--data=2", "--tensor=2", "--optimizer-shard=2"]
    assert main(["checkpoint", "reshard", str(tmp_path), "--output", sharded, *mesh]) == 0
    assert len(Checkpoint(tmp_path / "sharded").files) == 4
    assert main(["checkpoint", "merge", sharded, "--output", merged, "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["sound"], report["files"], report["step"], report["tensors"]) == (True, 1, 4, len(arrays))
    assert (tmp_path / "merged/rank_00000.safetensors").read_bytes() == (whole / "rank_00000.safetensors").read_bytes()
    assert main(["checkpoint", "diff", sharded, str(whole)]) == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--tensor", "3"], "--tensor 3: does not divide"),
        (["--pipeline", "9"], "--pipeline 9: more than 3 layers"),
        (["--data", "2", "--optimizer-shard", "4"], "--optimizer-shard 4: does not divide --data 2"),
        (["--data", "0"], "--data: 0 is out of range; give 1 or more"),
        (["--output", "checkpoints"], "exists already"),
        (["--output", "step-00000009"], "another step's checkpoint"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, capsys, monkeypatch, options, text):
    monkeypatch.chdir(tmp_path)
    small_run(tmp_path / "checkpoints")
    assert main(["checkpoint", "reshard", str(tmp_path), "--output", "out", *options]) == 2
    assert text in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints"]


def test_damage_ends_a_reshard_and_leaves_nothing(tmp_path, capsys):
    _, path = small_run(tmp_path)
    file = path / "rank_00000.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    assert main(["checkpoint", "merge", str(path), "--output", str(tmp_path / "out")]) == 2
    assert "is damaged" in capsys.readouterr().err
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [path.name]


def test_rows_are_counted_from_the_start_of_a_large_tensor(monkeypatch):
    monkeypatch.setattr(difference, "BLOCK_BYTES", 64)
    left = np.arange(60, dtype=np.float32).reshape(15, 4)
    (right := left.copy())[13, 2] += 1
    (found,) = difference.differences({"x": from_array(left)}, {"x": from_array(right)}, lambda size: None)
    assert found.count == 1 and found.first == [([13, 2], 54.0, 55.0)]


def test_diff_says_which_numbers_differ(tmp_path, capsys):
    arrays, left = small_run(tmp_path / "a")
    changed, contents = in_memory(tmp_path, "codegeex", np.random.default_rng(0), lora=False)
    changed["embedding.word.weight"][3, 2] += 0.5
    changed["embedding.word.weight"][5, 0] -= 2.0
    changed["optimizer.m.final_norm.bias"][:] = np.nan
    del changed["final_norm.weight"]
    slices = {name: Slice(array.shape, (0,) * array.ndim, array) for name, array in changed.items()}
    right = write_checkpoint(tmp_path / "b", 4, slices, {**contents.state, "samples": 9})
    assert main(["checkpoint", "diff", str(left), str(right), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    found = {each.pop("name"): each for each in report["tensors"]}
    assert report["state"] == {"samples": [7, 9]}
    assert found.keys() == {"embedding.word.weight", "optimizer.m.final_norm.bias", "final_norm.weight"}
    assert found["final_norm.weight"] == {"what": "only in the first"}
    assert found["optimizer.m.final_norm.bias"]["largest"] is None
    word = found["embedding.word.weight"]
    assert word["count"] == 2 and word["largest"] == pytest.approx(2.0)
    assert [place for place, *_ in word["first"]] == [[3, 2], [5, 0]]
    before = float(arrays["embedding.word.weight"][3, 2])
    assert word["first"][0][1:] == [before, float(np.float32(before + 0.5))]
    assert main(["checkpoint", "diff", str(left), str(right)]) == 1
    output = capsys.readouterr().out
    assert "embedding.word.weight: 2 numbers differ, at most by 2; first [3, 2] " in output
    assert "some are not finite" in output and "state samples: 7 and 9" in output
    assert main(["checkpoint", "diff", str(left), str(left)]) == 0


def test_files_that_do_not_record_the_heads_are_compared_by_the_names_in_them(tmp_path, capsys):
    arrays, run = small_run(tmp_path / "a")
    files = [tmp_path / f"{number}.safetensors" for number in range(3)]
    weights = {name: array for name, array in arrays.items() if not name.startswith("optimizer.")}
    for path in files[:2]:
        save_file(weights, path)
        weights["embedding.word.weight"] = weights["embedding.word.weight"] + 1
    save_file({f"transformer.{name}": array for name, array in weights.items()}, files[2])
    assert main(["checkpoint", "diff", *map(str, files[:2])]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("embedding.word.weight: ") and lines[-1].startswith("1 tensors differ, ")
    write_mindspore(tmp_path / "0.ckpt", read_mindspore(files[0]))  # MindSpore's two formats of one network
    assert main(["checkpoint", "diff", str(files[0]), str(tmp_path / "0.ckpt")]) == 0
    for other in (files[2], run):  # of which other names are known, or none
        assert main(["checkpoint", "diff", str(files[0]), str(other)]) == 2
        assert "--set num_heads=N" in capsys.readouterr().err


# VmHWM is of this process; ru_maxrss also has the peak of the process that started it.
MEASURED = """
import re, sys
from ms_codegeex.cli import main
status = main(sys.argv[1:])
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024)
sys.exit(status)
"""


@pytest.mark.slow  # writes 1.3 GB
def test_memory_is_twice_the_largest_tensor_at_most(tmp_path):
    fields = {"vocab_size": 50_000, "hidden_size": 512, "num_layers": 6, "intermediate_size": 2048}
    model = {"family": "codegeex", "preset": None, **FIELDS["codegeex"], **fields}
    layouts = layouts_on(Mesh(), model_config(model).sizes, LoraConfig())
    slices = {
        prefix + layout.name: Slice(layout.shape, (0,) * len(layout.shape), np.full(layout.shape, 0, np.float32))
        for layout in layouts
        for prefix in ("", "optimizer.m.", "optimizer.v.")
        if not layout.copy_of
    }
    largest, total = (f(4 * math.prod(part.global_shape) for part in slices.values()) for f in (max, sum))
    assert total > 2 * largest + 300e6
    path = write_checkpoint(tmp_path, 1, slices, {"config": {"model": model}})
    del slices
    for options in (["reshard", "--tensor=2", "--data=2", "--optimizer-shard=2"], ["merge"]):
        command = ["checkpoint", options[0], str(path), "--output", str(tmp_path / options[0]), *options[1:]]
        done = subprocess.run([sys.executable, "-c", MEASURED, *command], check=True, capture_output=True, text=True)
        assert int(done.stdout.split()[-1]) <= 2 * largest + 300e6
