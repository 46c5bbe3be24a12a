"""Faults injected into checkpoints of several ranks: the read of the part concerned finds every one of them."""

import json
import math
import shutil

import numpy as np
import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats import checkpoint_writing as module
from ms_codegeex.formats import chunks, safetensors_file
from ms_codegeex.formats.checkpoint import Checkpoint, manifest_digest
from ms_codegeex.formats.checkpoint_writing import Slice, write_checkpoint, write_ranks
from ms_codegeex.formats.sources import checkpoint_adapters, open_source
from ms_codegeex.runs.resharding import open_contents

SHAPES = {"table": (24, 16), "matrix": (16, 24), "bias": (24,), "scale": (), "optimizer.m.table": (24, 16)}
ROWS = 5  # of a chunk, so that small tensors have several


def random_ranks(generator, values):
    """The slices of 1 to 4 ranks: each tensor along a random axis, or whole on one rank."""
    world = int(generator.choice([1, 2, 4]))
    ranks = [{} for _ in range(world)]
    for name, array in values.items():
        axis = int(generator.integers(-1, array.ndim)) if array.ndim else -1
        if axis < 0:
            ranks[int(generator.integers(world))][name] = Slice(array.shape, (0,) * array.ndim, array)
            continue
        for number, part in enumerate(np.split(array, world, axis)):
            offset = [0] * array.ndim
            offset[axis] = number * part.shape[axis]
            ranks[number][name] = Slice(array.shape, tuple(offset), np.ascontiguousarray(part))
    return ranks


def write_pair(root, generator):
    """Two checkpoints of the same mesh, of steps 1 and 2, in `root`; returns their values and slices."""
    values = [{name: generator.standard_normal(shape).astype("f4") for name, shape in SHAPES.items()} for _ in range(2)]
    state = generator.bit_generator.state
    for step, arrays in enumerate(values, 1):
        generator.bit_generator.state = state  # the same mesh
        write_ranks(root / f"step-{step:08d}", step, {"samples": step}, random_ranks(generator, arrays))
    return values


def _files(path):
    return sorted(path.glob("*.safetensors"))


def flip(path, other, generator, file=None):
    """One bit of a file of tensors."""
    file = file or generator.choice(_files(path))
    data = bytearray(file.read_bytes())
    data[int(generator.integers(len(data)))] ^= 1 << int(generator.integers(8))
    file.write_bytes(data)


def flip_manifest(path, other, generator):
    """One bit of the manifest."""
    flip(path, other, generator, path / "manifest.json")


def truncate(path, other, generator):
    """The end of a file, or of the manifest, is missing."""
    file = generator.choice([*_files(path), path / "manifest.json"])
    content = file.read_bytes().rstrip()  # without the manifest's last line break it is still whole
    file.write_bytes(content[: int(generator.integers(len(content)))])


def missing(path, other, generator):
    """A file is gone."""
    generator.choice([*_files(path), path / "manifest.json"]).unlink()


def stale(path, other, generator):
    """A file is that of another step."""
    file = generator.choice(_files(path))
    shutil.copyfile(other / file.name, file)


def zeroed(path, other, generator):
    """A part of a file was never written, as after a crash of the machine."""
    file = generator.choice(_files(path))
    data = np.frombuffer(file.read_bytes(), np.uint8).copy()
    begin = int(generator.integers(len(data)))
    part = data[begin : begin + int(generator.integers(1, 400))]
    if not part.any():
        return flip(path, other, generator)
    part[:] = 0
    return file.write_bytes(data.tobytes())


def reordered(path, other, generator):
    """The files of two ranks are exchanged."""
    files = _files(path)
    if len(files) < 2:
        return stale(path, other, generator)
    one, two = generator.choice(files, 2, replace=False)
    one.rename(path / "kept")
    two.rename(one)
    return (path / "kept").rename(two)


def renamed(path, other, generator):
    """The directory has the name of another step."""
    shutil.rmtree(other)
    path.rename(other)


def swapped_manifest(path, other, generator):
    """The manifest is that of another step, or one that says it is of this step."""
    manifest = json.loads((other / "manifest.json").read_text())
    if generator.integers(2):
        manifest["step"] = 1
        manifest["sha256"] = manifest_digest(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def edited_manifest(path, other, generator):
    """A value of the manifest is another one."""
    manifest = json.loads((path / "manifest.json").read_text())
    name = str(generator.choice(list(manifest["tensors"])))
    change = int(generator.integers(4))
    if change == 0:
        manifest["samples"] += 1
    elif change == 1:
        del manifest["tensors"][name]
    elif change == 2:
        manifest["tensors"][name]["slices"][0]["chunks"][0] = "0" * 32
    else:
        manifest["files"][next(iter(manifest["files"]))] += 8
    (path / "manifest.json").write_text(json.dumps(manifest))


FAULTS = [flip, flip_manifest, truncate, missing, stale, zeroed, reordered, renamed, swapped_manifest, edited_manifest]


def read_everything(path, values):
    """Read every tensor, whole and by random windows; True if all is as it was written."""
    checkpoint = Checkpoint(path)
    generator = np.random.default_rng(0)
    equal = [set(checkpoint.names) == set(values), checkpoint.step == 1, checkpoint.state == {"samples": 1}]
    for name, array in values.items():
        window = [tuple(sorted(generator.integers(0, size + 1, 2).tolist())) for size in array.shape]
        inside = array[tuple(slice(*part) for part in window)]
        equal.append(checkpoint.tensor(name, window).tobytes() == inside.tobytes())
        equal.append(checkpoint.tensor(name).tobytes() == array.tobytes())
    return all(equal)


def silent_faults(root, generator, rounds):
    """Inject each kind of fault `rounds` times; returns those that reading everything did not find, and how many sound
    checkpoints were refused."""
    missed, refused = [], 0
    for _ in range(rounds):
        values, _ = write_pair(root / "sound", generator)
        for fault in FAULTS:
            folder = shutil.copytree(root / "sound", root / "faulty")
            path = folder / "step-00000001"
            try:
                refused += not read_everything(path, values)
            except UserError:
                refused += 1
            fault(path, folder / "step-00000002", generator)
            try:
                read_everything(path if path.exists() else folder / "step-00000002", values)
                missed.append(fault.__name__)
            except UserError:
                pass
            shutil.rmtree(folder)
        shutil.rmtree(root / "sound")
    return missed, refused


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of a few rows, so that small tensors have several; nothing is synced, which takes most of the time."""
    for owner in (module, safetensors_file):
        monkeypatch.setattr(owner, "rows_per_chunk", lambda shape, itemsize: ROWS)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def test_faults_are_detected_and_sound_checkpoints_load(tmp_path, small_chunks):
    assert silent_faults(tmp_path, np.random.default_rng(1), rounds=25) == ([], 0)


@pytest.mark.slow  # a minute or two
def test_of_five_thousand_faults_none_is_read(tmp_path, small_chunks):
    assert silent_faults(tmp_path, np.random.default_rng(2), rounds=5000 // len(FAULTS)) == ([], 0)


def test_only_a_read_of_the_damaged_chunk_fails(tmp_path, small_chunks):
    generator = np.random.default_rng(3)
    first, _ = write_pair(tmp_path, generator)
    path = tmp_path / "step-00000001"
    record = next(part for part in Checkpoint(path).slices("table") if part["shape"][0] > ROWS)
    file, (rows, columns) = path / record["file"], record["shape"]
    start, left = record["offset"]
    data = bytearray(file.read_bytes())
    place = data.index(np.ascontiguousarray(first["table"][start : start + rows, left : left + columns]).tobytes())
    data[place + ((ROWS + 1) * columns) * 4 + 2] ^= 16
    file.write_bytes(data)
    for number in range(rows):
        window = [(start + number, start + number + 1), (left, left + columns)]
        if ROWS <= number < 2 * ROWS:
            with pytest.raises(UserError, match=f"{file.name}: tensor table at offset .* is damaged"):
                Checkpoint(path).tensor("table", window)
        else:
            Checkpoint(path).tensor("table", window)
    with pytest.raises(UserError, match="is damaged"):
        Checkpoint(path).verify()


def test_chunks_are_whole_rows_of_about_eight_mebibytes():
    rows = chunks.rows_per_chunk((52_224, 5120), 4)
    assert rows * 5120 * 4 <= 8 << 20 < (rows + 1) * 5120 * 4
    assert chunks.rows_per_chunk((), 4) * 4 <= 8 << 20 and chunks.rows_per_chunk((3, 1 << 24), 4) == 1
    assert [chunks.count_chunks(shape, 5) for shape in ((), (0, 3), (3, 0), (5,), (6,))] == [1, 0, 0, 1, 2]


DELETED = object()
ODD = [  # a place in the manifest, and what is there
    (("format",), True),
    (("step",), "x"),
    (("step",), -1),
    (("step",), DELETED),
    (("headers",), {}),
    (("files",), DELETED),
    (("files",), ["a"]),
    (("files",), {"../../secret": 1}),
    (("files", "rank_00000.safetensors"), "x"),
    (("tensors",), []),
    (("tensors", "w"), []),
    (("tensors", "w", "dtype"), "float8"),
    (("tensors", "w", "dtype"), ["float32"]),
    (("tensors", "w", "shape"), [1.5, 4]),
    (("tensors", "empty", "shape"), [0, 10**40]),
    (("tensors", "w", "shape"), [10**98] * 20_000),
    (("tensors", "w", "slices", 0, "shape"), [10**98] * 20_000),
    (("tensors", "w", "slices"), {"a": 1}),
    (("tensors", "w", "slices", 0), "x"),
    (("tensors", "w", "slices", 0, "key"), DELETED),
    (("tensors", "w", "slices", 0, "key"), [1]),
    (("tensors", "w", "slices", 0, "file"), {}),
    (("tensors", "w", "slices", 0, "file"), "../../secret"),
    (("tensors", "w", "slices", 0, "shape"), [10**6, 10**6]),  # larger than its file
    (("tensors", "w", "slices", 0, "offset"), None),
    (("tensors", "w", "slices", 0, "chunks"), "x"),
    (("tensors", "w", "slices", 0, "chunks"), [1]),
    (("tensors", "w", "slices", 0, "chunks"), []),
    (("tensors", "w", "slices", 0, "rows"), 0),
    (("tensors", "w", "slices", 0, "rows"), 1.0),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A checkpoint with an empty tensor, and the text of its manifest."""
    tensors = {"w": np.ones((3, 4), np.float32), "empty": np.zeros((0, 3), np.float32)}
    path = write_checkpoint(tmp_path_factory.mktemp("odd"), 1, tensors, {"config": {"model": {"family": "codegeex"}}})
    return path, (path / "manifest.json").read_text()


def rewrite(whole, place, value):
    path, text = whole
    manifest = inside = json.loads(text)
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    if value is DELETED:
        del inside[place[-1]]
    manifest["sha256"] = manifest_digest(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


@pytest.mark.parametrize("place,value", ODD)
def test_a_manifest_with_a_fitting_hash_and_a_wrong_type_is_a_user_error(whole, place, value):
    with pytest.raises(UserError, match=r"manifest\.json: not a checkpoint manifest") as error:
        Checkpoint(rewrite(whole, place, value))
    assert len(str(error.value)) < 400 + len(str(whole[0]))


def test_a_tensor_larger_than_its_slices_is_refused_before_memory_is_taken(whole):
    with pytest.raises(UserError, match="is held 0 times"):
        Checkpoint(rewrite(whole, ("tensors", "w", "shape"), [10**6, 10**6]))


@pytest.mark.parametrize(
    "value", [5, {"model": 5}, {"model": {"family": "codegeex"}, "lora": [1]}, {"model": {"a": 1}, "parallel": 5}]
)
def test_a_configuration_of_a_wrong_type_is_a_user_error(whole, value):
    with pytest.raises(UserError, match="does not say of which model it is"):
        open_contents(rewrite(whole, ("config",), value))


@pytest.mark.parametrize("config", [None, [], "x", 5, {}, {"model": {"family": 5}}], ids=str)
def test_a_configuration_without_a_model_is_named(whole, config):
    path = rewrite(whole, ("config",), config)
    for read in (open_source, lambda path: checkpoint_adapters(Checkpoint(path))):
        with pytest.raises(UserError, match=r"manifest\.json: config\.model\.family is missing"):
            read(path)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ("x", ": found 'x', expected an object"),
        (5, ": found 5, expected an object"),
        (True, ": found True, expected an object"),
        ([], r": found \[\], expected an object"),
        ({"rank": 2}, r"\.alpha: .*field required"),
        ({"rank": 2.5, "alpha": 2}, r"\.rank: found 2\.5"),
        ({"rank": -1, "alpha": 2}, r"\.rank: found -1"),
        ({"rank": 2, "alpha": math.inf}, r"\.alpha: found inf"),
        ({"rank": 2, "alpha": 1e300}, ": alpha / rank is 5e\\+299, which FP32 does not hold"),
        ({"rank": 2, "alpha": 2, "dropout": "x"}, r"\.dropout: found 'x'"),
    ],
    ids=str,
)
def test_adapters_whose_description_is_of_a_wrong_type_are_named(whole, lora, message):
    path = rewrite(whole, ("config", "lora"), lora)
    for read in (open_source, lambda path: checkpoint_adapters(Checkpoint(path))):
        with pytest.raises(UserError, match=rf"manifest\.json: config\.lora{message}"):
            read(path)
