"""Faults injected into checkpoints of several ranks: the read of the part concerned finds every one of them."""

import json
import math

import numpy as np
import pytest
from checkpoint_faults import FAULTS, ROWS, silent_faults, write_pair

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats import checkpoint_writing as module
from ms_codegeex.formats import chunks, safetensors_file
from ms_codegeex.formats.checkpoint import Checkpoint, manifest_digest
from ms_codegeex.formats.checkpoint_writing import write_checkpoint
from ms_codegeex.formats.sources import checkpoint_adapters, open_source
from ms_codegeex.runs.resharding import open_contents


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
