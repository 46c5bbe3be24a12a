"""Our `.pt` files against the real torch, in both directions, and what a hostile or damaged file does."""

import decimal
import os
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.tensors import LazyTensor, from_array
from ms_codegeex.formats.torch_zip import read_torch, write_torch

torch = pytest.importorskip("torch")
ARRAYS = {
    "float32": np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 7,
    "float16": np.ones((3, 5), np.float16) / 3,
    "float64": np.array(2.5),
    "int64": np.array([1 << 40, -3]),
    "int32": np.arange(-3, 3, dtype=np.int32),
    "int16": np.array([-7], np.int16),
    "int8": np.array([[-128], [127]], np.int8),
    "uint8": np.arange(200, dtype=np.uint8),
    "bool": np.array([True, False]),
    "empty": np.zeros((0, 4), np.float32),
}


def written(tmp_path, tree, name="model.pt"):
    write_torch(tmp_path / name, tree)
    return tmp_path / name


@pytest.mark.parametrize("mmap", [False, True])
def test_torch_reads_our_file(tmp_path, mmap):
    tree = {
        "module": {"a.b": {name: from_array(array) for name, array in ARRAYS.items()}},
        "step": 1 << 40,
        "small": -2,
        "rate": 0.1,
        "done": True,
        "nothing": None,
        "name": "ü",
        "sizes": [1, (2, 3)],
    }
    loaded = torch.load(written(tmp_path, tree), weights_only=True, mmap=mmap)
    for name, array in ARRAYS.items():
        tensor = loaded["module"]["a.b"][name]
        assert tensor.numpy().dtype == array.dtype and tuple(tensor.shape) == array.shape
        assert tensor.numpy().tobytes() == array.tobytes()
    assert {key: loaded[key] for key in tree if key != "module"} == {k: v for k, v in tree.items() if k != "module"}


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


def test_one_tensor_in_memory_at_a_time(tmp_path):
    alive, maximum = [0], [0]

    class Counted(np.ndarray):
        def __del__(self):
            alive[0] -= self.base is None

    def load():
        alive[0] += 1
        maximum[0] = max(maximum[0], alive[0])
        return np.ndarray.__new__(Counted, (4,), np.float32)

    write_torch(tmp_path / "m.pt", {str(i): LazyTensor("float32", (4,), load) for i in range(6)})
    assert maximum[0] <= 2  # the next one is loaded before the last name is rebound


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = written(tmp_path, {"x": from_array(ARRAYS["int8"])})
    before = path.read_bytes()

    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_torch(path, {"x": from_array(ARRAYS["int8"]), "y": LazyTensor("float32", (2,), fail)})
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["model.pt"]


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
    }
    torch.save(tree, tmp_path / "t.pt")
    ours = read_torch(tmp_path / "t.pt")
    assert ours["step"] == 7 and ours["nested"]["a"][0].array().tolist() == [1, 1]
    for name, tensor in tree.items():
        if isinstance(tensor, torch.Tensor):
            plain = tensor.detach().contiguous()
            expected = plain.view(torch.int16).numpy().view(np.uint16) if name == "brain" else plain.numpy()
            assert ours[name].dtype == str(plain.dtype).removeprefix("torch.")
            np.testing.assert_array_equal(ours[name].array(), expected)


def test_we_read_a_module_state_dict(tmp_path):
    state = torch.nn.Linear(3, 2).state_dict()  # an OrderedDict with the attribute _metadata
    torch.save(state, tmp_path / "t.pt")
    assert read_torch(tmp_path / "t.pt")["weight"].array().tobytes() == state["weight"].numpy().tobytes()


class Hostile:
    def __init__(self, call, *arguments):
        self.reduced = call, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (lambda mark: Hostile(os.system, f"touch {mark}"), "system"),
        (lambda mark: Hostile(eval, f"open({str(mark)!r}, 'w')"), "builtins.eval|__builtin__.eval"),
        (lambda mark: decimal.Decimal(2), "decimal.Decimal"),
    ],
)
def test_a_file_that_would_run_code_is_refused(tmp_path, payload, named):
    path, mark = tmp_path / "evil.pt", tmp_path / "mark"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps({"module": payload(mark)}, protocol=2))
        archive.writestr("evil/version", "3\n")
    with pytest.raises(UserError, match=f"refused.*({named})"):
        read_torch(path)
    assert not mark.exists()


def test_a_tensor_outside_its_storage_is_refused(tmp_path):
    path = written(tmp_path, {"x": from_array(np.arange(4, dtype=np.int8))})
    pickled = zipfile.ZipFile(path).read("model/data.pkl")
    size = b"(J\x04\x00\x00\x00t"  # the shape (4,)
    assert pickled.count(size) == 1
    with zipfile.ZipFile(tmp_path / "big.pt", "w") as archive:
        archive.writestr("model/data.pkl", pickled.replace(size, b"(J\x05\x00\x00\x00t"))
        archive.writestr("model/data/0", bytes(4))
    with pytest.raises(UserError, match="leave a storage of 4"):
        read_torch(tmp_path / "big.pt")


@pytest.mark.parametrize("keep", [0, 10, 300, -1])
def test_a_cut_off_file_is_refused(tmp_path, keep):
    path = written(tmp_path, {"x": from_array(ARRAYS["uint8"])})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"model\.pt: damaged"):
        read_torch(path)


def test_a_flipped_bit_is_found_when_the_tensor_is_read(tmp_path):
    path = written(tmp_path, {"x": from_array(ARRAYS["uint8"]), "y": from_array(ARRAYS["int8"])})
    data = bytearray(path.read_bytes())
    data[data.index(ARRAYS["uint8"].tobytes()) + 77] ^= 4
    path.write_bytes(data)
    tree = read_torch(path)
    assert tree["y"].array().tolist() == ARRAYS["int8"].tolist()
    with pytest.raises(UserError, match="data/0 is damaged"):
        tree["x"].array()


def test_a_compressed_pickle_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", pickle.dumps({"x": "0" * 100_000}))
    with pytest.raises(UserError, match="compressed"):
        read_torch(tmp_path / "bomb.pt")


def test_an_encrypted_record_is_refused(tmp_path):
    path = written(tmp_path, {"x": from_array(ARRAYS["int8"])})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag in the directory's first entry, data.pkl
    path.write_bytes(data)
    with pytest.raises(UserError, match="encrypted"):
        read_torch(path)


def test_not_a_torch_file(tmp_path):
    torch.save({"x": torch.ones(1)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"PyTorch 1\.6"):
        read_torch(tmp_path / "old.pt")
    with pytest.raises(UserError, match="No such file"):
        read_torch(tmp_path / "absent.pt")
    with zipfile.ZipFile(tmp_path / "plain.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(UserError, match=r"data\.pkl"):
        read_torch(tmp_path / "plain.zip")


def test_a_tensor_that_stands_for_other_numbers_is_refused(tmp_path):
    """A negative view: the storage holds the numbers without the sign."""
    torch.save({"a": torch._neg_view(torch.ones(3))}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="stands for other numbers"):
        read_torch(tmp_path / "a.pt")


def test_a_tensor_expanded_beyond_the_file_is_refused(tmp_path):
    torch.save({"a": torch.ones(1).expand(1 << 40)}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="repeats a storage of 1"):
        read_torch(tmp_path / "a.pt")


def test_a_pickle_cannot_alter_a_tensor(tmp_path):
    """BUILD would put what the file likes in the place of the function that loads the numbers."""
    from ms_codegeex.formats import torch_pickle

    body, _ = torch_pickle.dump(from_array(np.zeros(3, np.float32)))
    state = b"(X\x07\x00\x00\x00float32)ccollections\nOrderedDict\nNl"
    with pytest.raises(UserError, match="cannot be altered"):
        torch_pickle.load(body[:-1] + state + b"b.", lambda *_: from_array(np.zeros(3, np.float32)), "a.pt")
