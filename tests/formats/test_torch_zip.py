"""Our `.pt` files against the real torch, in both directions, and what a hostile or damaged file does."""

import argparse
import collections
import datetime
import io
import random
import signal
import struct
import tracemalloc
import types
import typing
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hostile_pickles import archive
from small_models import ARRAYS_OF_TYPES

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats import torch_pickle
from ms_codegeex.formats.files import nested_tensors
from ms_codegeex.formats.sources import open_source
from ms_codegeex.formats.tensors import from_array, map_bytes, read_bytes
from ms_codegeex.formats.torch_zip import read_torch, write_torch

torch = pytest.importorskip("torch")
ARRAYS = ARRAYS_OF_TYPES | {"float64": np.array(2.5), "empty": np.zeros((0, 4), np.float32)}


def written(tmp_path, tree, name="model.pt"):
    write_torch(tmp_path / name, tree)
    return tmp_path / name


@pytest.mark.parametrize("mmap", [False, True])
def test_torch_reads_our_file(tmp_path, mmap):
    more = {"step": 1 << 40, "small": -2, "rate": 0.1, "done": True, "nothing": None, "name": "ü", "sizes": [1, (2, 3)]}
    tree = {"module": {"a.b": {name: from_array(array) for name, array in ARRAYS.items()}}, **more}
    loaded = torch.load(written(tmp_path, tree), weights_only=True, mmap=mmap)
    for name, array in ARRAYS.items():
        tensor = loaded["module"]["a.b"][name]
        assert tensor.numpy().dtype == array.dtype and tuple(tensor.shape) == array.shape
        assert tensor.numpy().tobytes() == array.tobytes()
    assert {key: loaded[key] for key in more} == more and len(loaded) == len(tree)


def test_torch_reads_our_bfloat16(tmp_path):
    bits = np.array([0x3F80, 0xC000, 0x7F80], np.uint16)
    loaded = torch.load(written(tmp_path, {"x": from_array(bits, "bfloat16")}), weights_only=True)
    assert loaded["x"].dtype == torch.bfloat16 and loaded["x"].tolist() == [1.0, -2.0, float("inf")]


def test_records_are_aligned_and_checksums_right(tmp_path):
    path = written(tmp_path, {name: from_array(array) for name, array in ARRAYS.items()})
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            archive.fp.seek(info.header_offset + 26)
            assert (info.header_offset + 30 + sum(np.frombuffer(archive.fp.read(4), "<u2"))) % 64 == 0
            assert info.compress_type == zipfile.ZIP_STORED and info.filename.startswith("model/")


@pytest.mark.parametrize("mmap", [False, True])
def test_a_file_beyond_4_gb_is_zip64(tmp_path, monkeypatch, mmap):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)  # so that every size and offset takes the long form
    path = written(tmp_path, {"x": from_array(ARRAYS["uint8"]), "y": from_array(ARRAYS["float32"])})
    loaded = torch.load(path, weights_only=True, mmap=mmap)
    assert loaded["x"].numpy().tobytes() == ARRAYS["uint8"].tobytes()
    assert loaded["y"].numpy().tobytes() == ARRAYS["float32"].tobytes()
    assert read_torch(path)["y"].array().tobytes() == ARRAYS["float32"].tobytes()


def test_we_read_what_torch_saves(tmp_path):
    base = torch.arange(60, dtype=torch.float32)
    tree = {
        "w": torch.nn.Parameter(torch.randn(3, 4)),
        "half": torch.randn(5).half(),
        "brain": torch.randn(7).bfloat16(),
        "window": base[10:30].view(4, 5),
        "same": base,
        "turned": base.view(6, 10).t(),
        "wide": base[:3].expand(2, 3),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 2),
        "flags": torch.tensor([True]),
        "nested": OrderedDict(a=[torch.ones(2, dtype=torch.int8)]),
        "step": 7,
        "module": torch.nn.Linear(3, 2).state_dict(),  # an OrderedDict with the attribute _metadata
    }
    torch.save(tree, tmp_path / "t.pt")
    ours = read_torch(tmp_path / "t.pt")
    assert ours["step"] == 7 and ours["nested"]["a"][0].array().tolist() == [1, 1]
    assert ours["module"]["weight"].array().tobytes() == tree["module"]["weight"].numpy().tobytes()
    for name, tensor in tree.items():
        if isinstance(tensor, torch.Tensor):
            plain = tensor.detach().contiguous()
            expected = plain.view(torch.int16).numpy().view(np.uint16) if name == "brain" else plain.numpy()
            assert ours[name].dtype == str(plain.dtype).removeprefix("torch.")
            np.testing.assert_array_equal(ours[name].array(), expected)


def test_a_pickle_cannot_alter_a_tensor(tmp_path):
    """BUILD would put what the file likes in place of the function that loads the numbers."""
    body, _ = torch_pickle.dump(from_array(np.zeros(3, np.float32)))
    state = b"(X\x07\x00\x00\x00float32)ccollections\nOrderedDict\nNl"
    with pytest.raises(UserError, match="cannot be altered"):
        torch_pickle.load(body[:-1] + state + b"b.", lambda *_: from_array(np.zeros(3, np.float32)), "a.pt")


def test_a_memo_of_any_size(tmp_path):
    """An unpickler with an array for its memo would take 2 GB for this index."""
    path = archive(tmp_path / "a.pt", b"\x80\x02}r" + struct.pack("<I", 1 << 27) + b".")
    tracemalloc.start()
    try:
        assert read_torch(path) == {}
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("key", [int, lambda number: (f"a{number}", "b"), lambda number: (number // 256, number % 256)])
def test_many_keys_that_cannot_collide_on_purpose_are_read(tmp_path, key):
    torch.save({"names": {key(number): "x" for number in range(50_000)}}, tmp_path / "a.pt")
    assert len(read_torch(tmp_path / "a.pt")["names"]) == 50_000


@pytest.mark.parametrize("start", [(1 << 63) - 1, 1 << 64])
def test_bytes_beyond_any_file(tmp_path, start):
    (tmp_path / "a").write_bytes(bytes(8))
    for read in (map_bytes, lambda path, start, size: [*read_bytes(path, start, np.empty(size, np.uint8))]):
        with pytest.raises(UserError, match="was changed or removed"):
            read(tmp_path / "a", start, 4)


@pytest.mark.parametrize("name", ["items", "get", "values", "__class__"])
def test_a_dictionary_whose_methods_were_overwritten(tmp_path, name):
    """An OrderedDict has attributes, and a pickle may set them; ours has none."""
    state = b"}X" + struct.pack("<I", len(name)) + name.encode() + b"X\x01\x00\x00\x00xs"
    pickled = b"\x80\x02ccollections\nOrderedDict\n)R" + state + b"b."
    tree = read_torch(archive(tmp_path / "a.pt", pickled))
    assert type(tree) is dict and list(nested_tensors(tree)) == [] and tree.get("config") is None


def test_few_numbers_under_many_names(tmp_path):
    """A disk could be filled from a small file."""
    tensor = torch.arange(250_000, dtype=torch.float32)
    torch.save({f"t{i}": tensor for i in range(3)}, tmp_path / "tied.pt")
    assert len(read_torch(tmp_path / "tied.pt")) == 3  # of 50 lists it is refused: test_tensor_files.py


def test_what_training_programs_put_beside_the_weights(tmp_path):
    """Megatron's own checkpoints hold their arguments and the states of random generators."""
    arguments = argparse.Namespace(
        num_attention_heads=4,
        params_dtype=torch.float16,
        device=torch.device("cpu"),
        shape=torch.Size([2]),
        names={"a"},
        load=Path("/a"),
        exit_signal=signal.SIGTERM,
        more=types.SimpleNamespace(a=1),
        begun=datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc),
        hidden=(b"bytes", bytearray(b"x"), str, typing.Any),  # the last as OmegaConf
        stream=io.BytesIO(b"x"),
        numbers=(np.float32(2), np.arange(3), np.dtype("float16"), np.random.default_rng(1)),
        version=torch.torch_version.TorchVersion("2.0"),
        limits=(slice(1), frozenset([1])),
    )
    counts = collections.defaultdict(list, a=[1])
    tensor, parameter = torch.ones(2), torch.nn.Parameter(torch.ones(3))
    tensor.shared = parameter.tensor_model_parallel = True
    state = {
        "args": arguments,
        "random_rng_state": random.Random(1).getstate(),
        "np_rng_state": np.random.RandomState(1).get_state(),
        "shapes": [OrderedDict(a=torch.Size([3])), counts, collections.Counter("ab"), collections.deque([1], 2)],
        "module": {"x": tensor, "y": parameter},
    }
    for protocol in (2, 4, 5):
        torch.save(state, tmp_path / "a.pt", pickle_protocol=protocol)
        tree = read_torch(tmp_path / "a.pt")
        assert torch_pickle.namespace(tree["args"])["num_attention_heads"] == 4
        assert torch_pickle.namespace(tree["args"])["shape"] == [2] and torch_pickle.namespace(tree["module"]) is None
        assert tree["random_rng_state"] == random.Random(1).getstate()
        assert tree["shapes"] == [{"a": [3]}, {"a": [1]}, {"a": 1, "b": 1}, [1]]
        assert [name for name, _ in nested_tensors(tree)] == [("module", "x"), ("module", "y")]


def test_members_that_python_3_11_2_pickles_by_name(tmp_path):
    """Debian's Python writes `signal.SIGTERM` where others write `signal.Signals(15)`."""
    names = [member.name for kind in (signal.Signals, signal.Handlers, signal.Sigmasks) for member in kind]
    pickled = b"".join(f"X{chr(len(name))}\0\0\0{name}csignal\n{name}\n".encode() for name in names)
    tree = read_torch(archive(tmp_path / "a.pt", b"\x80\x02}(" + pickled + b"u."))
    assert [*tree] == names and not [*nested_tensors(tree)]


def test_a_file_that_is_no_dictionary(tmp_path):
    torch.save(torch.ones(2), tmp_path / "a.pt")
    with pytest.raises(UserError, match="holds no dictionary of tensors"):
        open_source(tmp_path / "a.pt")
