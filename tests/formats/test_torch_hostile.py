"""Small `.pt` files that would cost any amount of time or memory, or alter what reads them; and what is plain data."""

import argparse
import collections
import copy
import datetime
import io
import pickle
import random
import signal
import struct
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats import torch_pickle, torch_zip
from ms_codegeex.formats.files import nested_tensors
from ms_codegeex.formats.sources import open_source
from ms_codegeex.formats.tensors import from_array, map_bytes, read_bytes
from ms_codegeex.formats.torch_zip import read_torch, write_torch

torch = pytest.importorskip("torch")


def archive(path, pickled, records=(), method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("m/data.pkl", pickled)
        for name, data in records:
            target.writestr(f"m/{name}", data, method)
    return path


def test_lists_that_contain_one_another(tmp_path):
    """A kilobyte that says 40 ** 12 values, inside the depth that is allowed."""
    lists = [[]]
    for _ in range(12):
        lists.append([lists[-1]] * 40)
    path = archive(tmp_path / "a.pt", pickle.dumps({"module": lists[-1]}, protocol=2))
    assert path.stat().st_size < 4000
    with pytest.raises(UserError, match=r"a\.pt: refused, because it holds more than 1000000 values"):
        open_source(path)


def test_a_dictionary_with_an_endless_key(tmp_path):
    """The hash of tuples that contain one another takes 2 ** 100 steps."""
    key = ()
    for _ in range(100):
        key = (key, key)
    body = pickle.dumps(key, protocol=2)[:-1]
    with pytest.raises(UserError, match="keys are neither texts nor numbers"):
        read_torch(archive(tmp_path / "a.pt", b"\x80\x02}" + body[2:] + b"K\x01s."))


def test_a_memo_of_any_size(tmp_path):
    """An unpickler with an array for its memo would take 2 GB for this index."""
    import tracemalloc

    path = archive(tmp_path / "a.pt", b"\x80\x02}r" + struct.pack("<I", 1 << 27) + b".")
    tracemalloc.start()
    try:
        assert read_torch(path) == {}
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_operations_and_numbers_are_limited(tmp_path, monkeypatch):
    number = b"\x80\x02\x8b" + struct.pack("<I", 100_000) + b"\x01" * 100_000 + b"."
    with pytest.raises(UserError, match=r"a number of \d+ bits"):
        read_torch(archive(tmp_path / "a.pt", number))
    monkeypatch.setattr(torch_pickle, "MAX_OPERATIONS", 100)
    with pytest.raises(UserError, match="more than 100 operations"):
        read_torch(archive(tmp_path / "b.pt", b"\x80\x02](" + b"K\x01" * 200 + b"e."))
    monkeypatch.setattr(torch_zip, "LARGEST_PICKLE", 100)
    with pytest.raises(UserError, match=r"its data\.pkl has 205 bytes, expected at most 100"):
        read_torch(archive(tmp_path / "b.pt", b"N" * 204 + b"."))


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORED = b"(X\x07\x00\x00\x00storagectorch\nCharStorage\nX\x01\x00\x00\x000NK\x01tQq\x00"
COPIED = b"h\x01h\x00\x85R" * 40  # calls of the second object of the memo with the first one
TYPED = b"ctorch._tensor\n_rebuild_from_type_v2\n"
REPEATED = {  # the memo repeats a long operand, or operands collide
    "copies of a list": b"(]q\x00(" + b"N" * 1000 + b"ectorch\nSize\nq\x01" + COPIED + b"t",
    "copies of a tuple": b"((" + b"N" * 1000 + b"tq\x00cbuiltins\nset\nq\x01" + COPIED + b"t",
    "copies of pairs": b"(]q\x00(" + b"K\x01N\x86" * 1000 + b"eccollections\nOrderedDict\nq\x01" + COPIED + b"t",
    "tuples as keys": b"((" + b"K\x01" * 9 + b"tq\x00}(h\x00Nut",
    "texts as keys": b"}(" + (text("a" * 5000) + b"N") * 2 + b"u",
    "numbers that collide": b"}(" + b"".join(number(i * ((1 << 61) - 1)) + b"N" for i in range(1, 100)) + b"u",
    "fractions": b"}(" + b"".join(b"G" + struct.pack(">d", i) + b"N" for i in range(1, 100)) + b"u",
    "a dictionary again": b"(}q\x00("
    + b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(1000))
    + b"uccollections\nCounter\nq\x01"
    + COPIED
    + b"t",
    "arguments of arguments": b"(" + STORED + TYPED + b"(" + REBUILD + b"N(h\x00K\x00))" + b"N" * 20 + b"tNtRt",
    "arguments": b"(" + STORED + REBUILD + b"(h\x00K\x00))" + b"N" * 20 + b"tRt",
    "tensors": b"(" + STORED + b"(h\x00K\x00))\x89Ntq\x01" + REBUILD + b"q\x02" + b"h\x02h\x01R" * 2000 + b"t",
    "a long name": b"(" + text("megatron") + text("x" * 300) + b"\x93t",
    "a long key of a storage": STORED.replace(text("0"), text("0" * 300)),
}


@pytest.mark.parametrize("name", REPEATED)
def test_operands_that_the_memo_repeats(tmp_path, monkeypatch, name):
    monkeypatch.setattr(torch_pickle, "ROOM", 20_000)
    path = archive(tmp_path / "a.pt", b"\x80\x02" + REPEATED[name] + b".", [("data/0", b"1")])
    with pytest.raises(UserError, match=r"more copies, or more|a longer key|a name of|key of 300|24 arguments"):
        read_torch(path)


@pytest.mark.parametrize("key", [int, lambda number: (f"a{number}", "b"), lambda number: (number // 256, number % 256)])
def test_many_keys_that_cannot_collide_on_purpose_are_read(tmp_path, key):
    torch.save({"names": {key(number): "x" for number in range(50_000)}}, tmp_path / "a.pt")
    assert len(read_torch(tmp_path / "a.pt")["names"]) == 50_000


def test_a_record_that_swells(tmp_path):
    """The byte order, a word, as a megabyte of compressed zeros that would make a gigabyte."""
    path = archive(tmp_path / "a.pt", b"\x80\x02}.", [("byteorder", bytes(1 << 24))], zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match="its byteorder is compressed"):
        read_torch(path)
    path = archive(tmp_path / "b.pt", b"\x80\x02}.", [("byteorder", bytes(1 << 24))])
    with pytest.raises(UserError, match="its byteorder has 16777216 bytes"):
        read_torch(path)


def test_two_records_of_one_name(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        path = archive(tmp_path / "a.pt", b"\x80\x02}.", [("data/0", b"a"), ("data/0", b"b")])
    with pytest.raises(UserError, match="two of its records have the same name"):
        read_torch(path)


@pytest.mark.parametrize("offset", [10**6, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("name", ["data/0", "data.pkl"])
def test_a_record_beyond_the_file(tmp_path, name, offset):
    write_torch(tmp_path / "a.pt", {"a": from_array(np.arange(4, dtype=np.float32))})
    with zipfile.ZipFile(tmp_path / "a.pt", "a") as changed:
        changed.getinfo(f"a/{name}").header_offset = offset
        changed.writestr("a/more", b"")  # so that the directory is written anew
    expected = {"data/0": "data/0 lies beyond the end of the file", "data.pkl": "damaged, cut off|could not be read"}
    with pytest.raises(UserError, match=expected[name]):
        read_torch(tmp_path / "a.pt")


def test_records_that_share_their_bytes(tmp_path):
    """Many names of one place, each of which would be read for its checksum."""
    path = archive(tmp_path / "a.pt", b"\x80\x02}.", [("data/0", bytes(1000))])
    with zipfile.ZipFile(path, "a") as changed:
        for number in range(1, 5):
            info = copy.copy(changed.getinfo("m/data/0"))
            info.filename = f"m/data/{number}"
            changed.filelist.append(info)
        changed.writestr("m/more", b"")
    with pytest.raises(UserError, match="its records overlap"):
        read_torch(path)


@pytest.mark.parametrize("start", [(1 << 63) - 1, 1 << 64])
def test_bytes_beyond_any_file(tmp_path, start):
    (tmp_path / "a").write_bytes(bytes(8))
    with pytest.raises(UserError, match="was changed or removed"):
        map_bytes(tmp_path / "a", start, 4)
    with pytest.raises(UserError, match="was changed or removed"):
        list(read_bytes(tmp_path / "a", start, np.empty(4, np.uint8)))


@pytest.mark.parametrize("name", ["items", "get", "values", "__class__"])
def test_a_dictionary_whose_methods_were_overwritten(tmp_path, name):
    """An OrderedDict has attributes, and a pickle may set them; ours has none."""
    state = b"}X" + struct.pack("<I", len(name)) + name.encode() + b"X\x01\x00\x00\x00xs"
    pickled = b"\x80\x02ccollections\nOrderedDict\n)R" + state + b"b."
    tree = read_torch(archive(tmp_path / "a.pt", pickled))
    assert type(tree) is dict and list(nested_tensors(tree)) == [] and tree.get("config") is None


def test_a_storage_cannot_be_altered(tmp_path):
    """Its size was checked; another one afterwards would read beyond the file."""
    stored = b"(X\x07\x00\x00\x00storagectorch\nCharStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
    state = b"](X\x04\x00\x00\x00int8X\x01\x00\x00\x000J\xff\xff\xff\x7fe"
    with pytest.raises(UserError, match="a Storage cannot be altered"):
        read_torch(archive(tmp_path / "a.pt", b"\x80\x02" + stored + state + b"b.", [("data/0", bytes(4))]))


def test_few_numbers_under_many_names(tmp_path):
    """A disk could be filled from a small file."""
    tensor = torch.arange(250_000, dtype=torch.float32)
    torch.save({f"t{i}": tensor for i in range(3)}, tmp_path / "tied.pt")
    assert len(read_torch(tmp_path / "tied.pt")) == 3
    torch.save({f"t{i}": tensor for i in range(50)}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="repeat the same numbers to more than 4 times the size of the file"):
        read_torch(tmp_path / "a.pt")


def test_names_in_messages_stay_in_one_line(tmp_path):
    pickled = b"\x80\x04\x8c\x02os\x8c\x08sys\ntem\x1b\x93."
    with pytest.raises(UserError) as caught:
        read_torch(archive(tmp_path / "a.pt", pickled))
    assert str(caught.value).isprintable() and "sys" in str(caught.value)


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02(i__main__\nA\n.",  # INST
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 31) + b".",  # a bytearray of 2 GiB
        b"\x80\x02N0.",  # POP
        b"\x80\x02e.",
        b"\x80\x02s.",
        b"\x80\x02Q.",
        b"\x80\x02h\x07.",
        b"\x80\x02NNR.",
        b"\x80\x02\x87.",
        b"\x80\x02",
        b".",
        b"",
    ],
    ids=[str(i) for i in range(12)],
)
def test_operations_that_make_no_sense(tmp_path, pickled):
    with pytest.raises(UserError, match=r"data\.pkl is damaged"):
        read_torch(archive(tmp_path / "a.pt", pickled))


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
        hidden=b"bytes",
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
    for protocol in (2, 4):
        torch.save(state, tmp_path / "a.pt", pickle_protocol=protocol)
        tree = read_torch(tmp_path / "a.pt")
        assert torch_pickle.namespace(tree["args"])["num_attention_heads"] == 4
        assert torch_pickle.namespace(tree["args"])["shape"] == [2] and torch_pickle.namespace(tree["module"]) is None
        assert tree["random_rng_state"] == random.Random(1).getstate()
        assert tree["shapes"] == [{"a": [3]}, {"a": [1]}, {"a": 1, "b": 1}, [1]]
        assert [name for name, _ in nested_tensors(tree)] == [("module", "x"), ("module", "y")]


def test_mutated_pickles_and_archives_end_in_one_line(tmp_path):
    """Anything but a tree of tensors or a `UserError` of one line is a mistake of ours."""
    tree = {"module": {"a": from_array(np.ones((2, 3), np.float32)), "b": from_array(np.arange(4))}, "config": {"n": 2}}
    write_torch(tmp_path / "a.pt", tree)
    buffer = io.BytesIO()
    torch.save({"module": torch.nn.Linear(2, 2).state_dict(), "args": argparse.Namespace(a=1)}, buffer)
    generator = random.Random(5)
    for original in ((tmp_path / "a.pt").read_bytes(), buffer.getvalue()):
        for _ in range(400):
            data = bytearray(original)
            for _ in range(generator.randint(1, 4)):
                data[generator.randrange(len(data))] = generator.randrange(256)
            (tmp_path / "m.pt").write_bytes(data)
            try:
                for _, tensor in nested_tensors(read_torch(tmp_path / "m.pt")):
                    tensor.array()
            except UserError as error:
                assert "\n" not in str(error)


def test_a_file_that_is_no_dictionary(tmp_path):
    torch.save(torch.ones(2), tmp_path / "a.pt")
    with pytest.raises(UserError, match="holds no dictionary of tensors"):
        open_source(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *(("numpy", "core.multiarray.scalar"), ("numpy.core", "multiarray.scalar"), ("torch", "x.device")),
        *(("builtins", "getattr"), ("pathlib", "Path.unlink"), ("signal", "raise_signal"), ("functools", "partial")),
        *(
            ("transformers.dynamic_module_utils", "get_class_from_dynamic_module"),
            ("io", "open"),
            ("collections", "abc"),
        ),
    ],
)
def test_a_name_of_another_module_is_refused(tmp_path, module, name):
    """Python's own unpickler would follow the points in a name."""
    path = archive(tmp_path / "a.pt", f"\x80\x02c{module}\n{name}\n.".encode("latin-1"))
    with pytest.raises(UserError, match="refused, because loading it would call"):
        read_torch(path)
