"""Model directories: what we write the safetensors library reads, and every kind of damage is named."""

import json
import struct
from functools import partial

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load, load_file, save_file

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.tokenizer.copying import copy_data
from ms_codegeex.formats.model_directory import BIN_INDEX, INDEX, SINGLE, ModelDirectory, write_model_directory
from ms_codegeex.formats.safetensors_file import SafetensorsFile, write_safetensors
from ms_codegeex.formats.tensors import LazyTensor, from_array

ARRAYS = {
    "flags": np.array([True, False, True]),
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a.bias": np.ones(3, np.float16),
    "scalar": np.array(2.5),
    "none": np.zeros((0, 3), np.float32),
}
CONFIG = {"model_type": "codegeex", "name": "ü"}


def lazy(arrays):
    return {name: from_array(array) for name, array in arrays.items()}


def sharded(tmp_path, dtype=np.float32):
    arrays = {f"t{i}": np.full((4, 8), i, dtype) for i in range(5)}
    write_model_directory(tmp_path / "m", CONFIG, lazy(arrays), max_shard_bytes=2 * arrays["t0"].nbytes)
    return tmp_path / "m", arrays


def test_the_library_reads_one_file(tmp_path):
    write_model_directory(tmp_path / "m", CONFIG, lazy(ARRAYS))
    assert sorted(file.name for file in (tmp_path / "m").iterdir()) == ["config.json", SINGLE]
    loaded, directory = load_file(tmp_path / "m" / SINGLE), ModelDirectory(tmp_path / "m")
    assert directory.config == CONFIG and directory.tensors.keys() == loaded.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert loaded[name].dtype == array.dtype and loaded[name].shape == directory.tensors[name].shape == array.shape
        assert loaded[name].tobytes() == directory.tensors[name].array().tobytes() == array.tobytes()


def test_torch_reads_our_bfloat16(tmp_path):
    torch = pytest.importorskip("torch")
    write_safetensors(tmp_path / "b", {"x": from_array(np.array([0x3F80, 0xC000], np.uint16), "bfloat16")})
    with safe_open(tmp_path / "b", "pt") as file:
        assert file.get_tensor("x").dtype == torch.bfloat16 and file.get_tensor("x").tolist() == [1, -2]


def test_the_data_is_aligned(tmp_path):
    write_safetensors(tmp_path / "f", lazy(ARRAYS))
    data = (tmp_path / "f").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    assert (8 + length) % 64 == 0
    for name, entry in json.loads(data[8 : 8 + length]).items():
        assert entry["data_offsets"][0] % ARRAYS[name].itemsize == 0


def test_arrays_that_are_not_contiguous(tmp_path):
    array = np.arange(20, dtype=np.float32).reshape(4, 5)
    write_safetensors(tmp_path / "f", lazy({"t": array.T, "s": array[:, 1:3], "big": array.astype(">f4")}))
    loaded = load_file(tmp_path / "f")
    np.testing.assert_array_equal(loaded["t"], array.T)
    np.testing.assert_array_equal(loaded["s"], array[:, 1:3])
    np.testing.assert_array_equal(loaded["big"], array)


def test_shards_with_an_index(tmp_path):
    path, arrays = sharded(tmp_path)
    names = sorted(file.name for file in path.glob("*.safetensors"))
    assert names == [f"model-0000{k}-of-00003.safetensors" for k in (1, 2, 3)]
    index = json.loads((path / INDEX).read_text())
    assert index["metadata"]["total_size"] == 5 * 128
    for name, file in index["weight_map"].items():
        with safe_open(path / file, "np") as shard:
            assert shard.get_tensor(name).tobytes() == arrays[name].tobytes()
    directory = ModelDirectory(path)
    assert list(directory.tensors) == list(arrays)
    assert all(directory.tensors[name].array().tobytes() == array.tobytes() for name, array in arrays.items())


def test_a_tensor_larger_than_a_shard_has_its_own(tmp_path):
    arrays = {"a": np.ones(4), "b": np.ones(400), "c": np.ones(4)}
    write_model_directory(tmp_path / "m", CONFIG, lazy(arrays), max_shard_bytes=100)
    assert len(list((tmp_path / "m").glob("model-*"))) == 3
    assert ModelDirectory(tmp_path / "m").tensors["b"].array().sum() == 400


def test_the_tokenizer_is_saved_or_copied(tmp_path):
    write_model_directory(tmp_path / "a", CONFIG, lazy(ARRAYS), tokenizer=lambda d: (d / "vocab.json").write_text("{}"))
    (tmp_path / "a" / "old.bin").write_text("weights")
    write_model_directory(tmp_path / "b", CONFIG, lazy(ARRAYS), tokenizer=partial(copy_data, tmp_path / "a"))
    assert sorted(file.name for file in (tmp_path / "b").iterdir()) == ["config.json", SINGLE, "vocab.json"]


def test_a_failed_write_leaves_nothing(tmp_path):
    def fail():
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        write_model_directory(tmp_path / "m", CONFIG, {"x": LazyTensor("float32", (2,), fail)})
    assert list(tmp_path.iterdir()) == []


SHARD = "model-00002-of-00003.safetensors"


def point_outside(path):
    index = json.loads((path / INDEX).read_text())
    index["weight_map"]["t0"] = "../secret.safetensors"
    (path / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / SHARD).unlink(), f"{SHARD}: missing"),
        (lambda path: (path / SHARD).write_bytes((path / SHARD).read_bytes()[:-1]), f"{SHARD}: has .* bytes"),
        (lambda path: (path / SHARD).write_bytes(b"abc"), f"{SHARD}: not a safetensors"),
        (lambda path: save_file({"t2": np.ones(2)}, path / SHARD), f"{SHARD}: missing tensor t3"),
        (point_outside, "weight_map"),
        (lambda path: (path / INDEX).write_text("[]"), "weight_map"),
        (lambda path: (path / "config.json").write_text("{"), "config.json"),
        (lambda path: [(path / name).unlink() for name in (INDEX, SHARD)], "2 of 3 shards are there, and no index"),
        (lambda path: (path / "config.json").unlink(), "not a model directory"),
    ],
)
def test_damage_is_named(tmp_path, damage, message):
    path, _ = sharded(tmp_path)
    damage(path)
    with pytest.raises(UserError, match=message):
        ModelDirectory(path)


def pickled(tmp_path):
    """The older kind of directory: PyTorch pickles in shards."""
    torch = pytest.importorskip("torch")
    arrays, folder = {f"t{i}": np.full((2, 3), i, np.float32) for i in range(4)}, tmp_path / "p"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    files = {f"pytorch_model-0000{k}-of-00002.bin": [f"t{2 * k - 2}", f"t{2 * k - 1}"] for k in (1, 2)}
    for file, names in files.items():
        torch.save({name: torch.from_numpy(arrays[name]) for name in names}, folder / file)
    weight_map = {name: file for file, names in files.items() for name in names}
    (folder / BIN_INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return folder, arrays


def test_pickles_in_shards(tmp_path):
    path, arrays = pickled(tmp_path)
    directory = ModelDirectory(path)
    assert list(directory.tensors) == list(arrays) and directory.files["t2"] == "pytorch_model-00002-of-00002.bin"
    assert all(directory.tensors[name].array().tobytes() == array.tobytes() for name, array in arrays.items())
    write_model_directory(path, CONFIG, lazy({"t0": np.zeros(1)}))  # replaces the directory whole
    assert ModelDirectory(path).tensors["t0"].shape == (1,) and not (path / BIN_INDEX).exists()


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (lambda torch: {"t2": torch.ones(1)}, "00002-of-00002.bin: missing tensor t3"),
        (lambda torch: {"t2": {"t3": torch.ones(1)}}, "00002-of-00002.bin: expected a plain dictionary of tensors"),
        (lambda torch: [1], "00002-of-00002.bin: expected a plain dictionary of tensors"),
        (None, "00002-of-00002.bin: missing"),
    ],
)
def test_damaged_pickles_are_named(tmp_path, saved, message):
    torch, file = pytest.importorskip("torch"), "pytorch_model-00002-of-00002.bin"
    path, _ = pickled(tmp_path)
    torch.save(saved(torch), path / file) if saved else (path / file).unlink()
    with pytest.raises(UserError, match=message):
        ModelDirectory(path)


def test_the_tokenizers_configuration_is_no_models(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("config.json", "tokenizer_config.json", "generation_config.json", "tokenizer.model", "old.bin", ".x"):
        (tmp_path / "a" / name).write_text("{}")
    write_model_directory(tmp_path / "b", CONFIG, lazy(ARRAYS), tokenizer=partial(copy_data, tmp_path / "a"))
    found = sorted(file.name for file in (tmp_path / "b").iterdir())
    tokenizer = ["tokenization_chatglm.py", "tokenizer.model", "tokenizer_config.json"]
    assert found == ["config.json", "generation_config.json", SINGLE, *tokenizer]


# -- safetensors files that other programs made: edited is not damaged


def test_tensors_in_another_order_than_their_bytes(tmp_path):
    places = {"b": ("U8", [2], [4, 6]), "none": ("F32", [0], [4, 4]), "a": ("U8", [4], [0, 4])}
    header = {name: dict(zip(("dtype", "shape", "data_offsets"), its, strict=True)) for name, its in places.items()}
    content, path = json.dumps(header).encode(), tmp_path / "f"
    path.write_bytes(struct.pack("<Q", len(content)) + content + bytes(range(6)))
    found, expected = SafetensorsFile(path).tensors, load(path.read_bytes())
    assert {n: each.array().tobytes() for n, each in found.items()} == {n: a.tobytes() for n, a in expected.items()}


def test_a_tensor_that_another_program_edited(tmp_path):
    arrays, path = {"a": np.arange(6, dtype=np.float32), "b": np.ones(3, np.float16)}, tmp_path / "ours"
    write_safetensors(path, {name: from_array(a) for name, a in arrays.items()}, {"format": "pt"}, checksums=True)
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    save_file(arrays, path, metadata)  # saved again, nothing changed
    assert SafetensorsFile(path).tensors["a"].array().tobytes() == arrays["a"].tobytes()
    edited = arrays | {"a": arrays["a"] * 2}
    save_file(edited, path, metadata)
    found = SafetensorsFile(path).tensors
    assert found["b"].array().tobytes() == arrays["b"].tobytes()
    with pytest.raises(UserError, match=r"tensor a was edited: another program saved .* save it without the metadata"):
        found["a"].array()
    save_file(edited, path, {"format": "pt"})  # the remedy
    assert SafetensorsFile(path).tensors["a"].array().tobytes() == edited["a"].tobytes()
