"""Untrusted and damaged files, in one table for all readers: each is refused in one short line that says what
is wrong, nothing in it runs, and no change of any byte ends in a traceback."""

import argparse
import copy
import decimal
import json
import os
import pickle
import random
import struct
import zipfile

import numpy as np
import pytest
from hostile_pickles import RAW, Call, archive
from safetensors import SafetensorError
from safetensors.numpy import load
from test_mindspore_checkpoint import message
from test_strategy import proto

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats import torch_pickle, torch_zip
from ms_codegeex.formats.files import nested_tensors
from ms_codegeex.formats.mindspore_checkpoint import TRAILER_BYTES, read_mindspore, write_mindspore
from ms_codegeex.formats.safetensors_file import SafetensorsFile, write_safetensors
from ms_codegeex.formats.strategy import read_strategy
from ms_codegeex.formats.tensors import LazyTensor, from_array
from ms_codegeex.formats.torch_zip import read_torch, write_torch

torch = pytest.importorskip("torch")
READERS = {
    ".pt": lambda path: dict(nested_tensors(read_torch(path))),
    ".ckpt": read_mindspore,
    ".safetensors": lambda path: SafetensorsFile(path).tensors,
    ".strategy": read_strategy,
    ".json": read_strategy,
}
WRITERS = {
    ".pt": write_torch,
    ".ckpt": write_mindspore,
    ".safetensors": lambda path, tensors: write_safetensors(path, tensors, {}, checksums=True),
}


def zipped(pickled, *records, **options):
    return lambda path: archive(path, pickled, records, **options)


def saved(tree, **options):
    return lambda path: torch.save(tree, path, **options)


def written(change):
    """Our own file of four numbers, with other bytes."""

    def write(path):
        write_torch(path, {"a": from_array(np.arange(4, dtype=np.int8))})
        path.write_bytes(change(path.read_bytes()))

    return write


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def lists():
    """A kilobyte that says 40 ** 12 values, inside the depth that is allowed."""
    nested = []
    for _ in range(12):
        nested = [nested] * 40
    return pickle.dumps({"module": nested}, protocol=2)


def endless_key():
    """A dictionary whose key, tuples that contain one another, is hashed in 2 ** 100 steps."""
    key = ()
    for _ in range(100):
        key = (key, key)
    return b"\x80\x02}" + pickle.dumps(key, protocol=2)[2:-1] + b"K\x01s."


def elsewhere(record, offset):
    """The directory says that a record begins there."""

    def write(path):
        write_torch(path, {"a": from_array(np.arange(4, dtype=np.float32))})
        with zipfile.ZipFile(path, "a") as changed:
            changed.getinfo(f"{path.stem}/{record}").header_offset = offset
            changed.writestr(f"{path.stem}/more", b"")  # so that the directory is written anew

    return write


def shared_bytes(path):
    """Many names of one place, each of which would be read for its checksum."""
    with zipfile.ZipFile(archive(path, b"\x80\x02}.", [("data/0", bytes(1000))]), "a") as changed:
        for name in range(1, 5):
            info = copy.copy(changed.getinfo("m/data/0"))
            info.filename = f"m/data/{name}"
            changed.filelist.append(info)
        changed.writestr("m/more", b"")


def same_names(path):
    with pytest.warns(UserWarning, match="Duplicate"):
        archive(path, b"\x80\x02}.", [("data/0", b"a"), ("data/0", b"b")])


def encrypted(data):
    data = bytearray(data)
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag in the directory's first entry, data.pkl
    return data


def beyond_its_storage(path):
    write_torch(path, {"x": from_array(np.arange(4, dtype=np.int8))})
    pickled, shape = zipfile.ZipFile(path).read(f"{path.stem}/data.pkl"), b"(J\x04\x00\x00\x00t"
    assert pickled.count(shape) == 1
    archive(path, pickled.replace(shape, b"(J\x05\x00\x00\x00t"), [("data/0", bytes(4))])


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORED = b"(X\x07\x00\x00\x00storagectorch\nCharStorage\nX\x01\x00\x00\x000NK\x01tQq\x00"
ALTERED = STORED[:-2].replace(b"NK\x01", text("cpu") + b"K\x04") + b"](" + text("int8") + b"J\xff\xff\xff\x7feb."
COPIED = b"h\x01h\x00\x85R" * 40  # calls of the second object of the memo with the first one
TYPED = b"ctorch._tensor\n_rebuild_from_type_v2\n"
COUNTED = b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(1000))
MORE = "more copies, or more"
REPEATED = [  # the memo repeats a long operand, or operands collide
    (b"(]q\x00(" + b"N" * 1000 + b"ectorch\nSize\nq\x01" + COPIED + b"t", MORE),
    (b"((" + b"N" * 1000 + b"tq\x00cbuiltins\nset\nq\x01" + COPIED + b"t", MORE),
    (b"(]q\x00(" + b"K\x01N\x86" * 1000 + b"eccollections\nOrderedDict\nq\x01" + COPIED + b"t", MORE),
    (b"((" + b"K\x01" * 9 + b"tq\x00}(h\x00Nut", "a longer key"),
    (b"}(" + (text("a" * 5000) + b"N") * 2 + b"u", "a longer key"),
    (b"}(" + b"".join(number(i * ((1 << 61) - 1)) + b"N" for i in range(1, 100)) + b"u", MORE),
    (b"}(" + b"".join(b"G" + struct.pack(">d", i) + b"N" for i in range(1, 100)) + b"u", MORE),
    (b"(}q\x00(" + COUNTED + b"uccollections\nCounter\nq\x01" + COPIED + b"t", MORE),
    (b"(" + STORED + TYPED + b"(" + REBUILD + b"N(h\x00K\x00))" + b"N" * 20 + b"tNtRt", "24 arguments"),
    (b"(" + STORED + REBUILD + b"(h\x00K\x00))" + b"N" * 20 + b"tRt", "24 arguments"),
    (b"(" + STORED + b"(h\x00K\x00))\x89Ntq\x01" + REBUILD + b"q\x02" + b"h\x02h\x01R" * 2000 + b"t", MORE),
    (b"(" + text("megatron") + text("x" * 300) + b"\x93t", "a name of"),
    (STORED.replace(text("0"), text("0" * 300)), "key of 300"),
]
SENSELESS = (
    *(b"\x80\x02(i__main__\nA\n.", b"\x80\x05\x96" + struct.pack("<Q", 1 << 31) + b"."),  # INST, a bytearray of 2 GiB
    *(b"\x80\x02" + operation + b"." for operation in (b"N0", b"e", b"s", b"Q", b"h\x07", b"NNR", b"\x87")),
    *(b"\x80\x02", b".", b""),
)
# Python's own unpickler would follow the points in a name.
NAMES = "numpy core.multiarray.scalar, numpy.core multiarray.scalar, torch x.device, builtins getattr, io open, "
NAMES += "pathlib Path.unlink, signal raise_signal, functools partial, collections abc, "
NAMES += "transformers.dynamic_module_utils get_class_from_dynamic_module"


def tensor(offsets, shape=(4,), dtype="U8"):
    return {"dtype": dtype, "shape": [*shape], "data_offsets": offsets}


FORBIDDEN = [  # by the format, with the library's agreement: header, bytes behind it, what is said
    ({"a": tensor([0, 4]), "b": tensor([2, 4], (2,))}, 4, "b: begins at byte 2, inside"),
    ({"a": tensor([0, 4]), "b": tensor([0, 4])}, 4, "b: begins at byte 0, inside"),
    ({"a": tensor([0, 4]), "b": tensor([6, 8], (2,))}, 8, "b: begins at byte 6, 2 bytes"),
    ({"a": tensor([1, 5])}, 5, "a: begins at byte 1, 1 bytes after"),
    ({"a": tensor([0, 4.0])}, 4, r"does not fit bytes 0\.\.4\.0"),
    ({"a": tensor([0.0, 4])}, 4, r"does not fit bytes 0\.0\.\.4"),
    ({"a": tensor([False, 4])}, 4, "does not fit"),
    ({"a": tensor(["0", "4"])}, 4, "does not fit"),
    ({"a": tensor([0, 4, 8])}, 4, "too many values"),
    ({"a": tensor([0, 4], [4.0])}, 4, r"no array can have the shape of tensor a: \[4\.0\]"),
]
NO_ARRAY = "no array can have the shape of tensor a: "


def headed(header, size):
    content = json.dumps(header).encode() if isinstance(header, dict) else header
    return struct.pack("<Q", len(content)) + content + bytes(range(size))


def shaped(*shape, size=4, dtype="U8"):
    return headed({"a": tensor([0, size], shape, dtype)}, abs(size))


LAYOUT = {"dev_matrix": [2, 2], "tensor_map": [0, -1], "tensor_shape": [4, 4]}
LAYOUT |= {"field": 0, "opt_weight_shard_size": 0, "opt_weight_shard_step": 0}


def layout(*stages, **change):
    """A strategy file in JSON with another layout; without a `change` of what is there, it is sound."""
    its = {key: value for key, value in (LAYOUT | change).items() if value != "absent"}
    items = {f"op{number}": {"stage": stage} for number, stage in enumerate(stages)}
    return json.dumps({"parallel_strategy_item": items, "parallel_layout_item": {"w": its}}).encode()


DAMAGED, REFUSED, HEADER = r"data\.pkl is damaged", "refused, because loading it would call", "its header"
W2 = ("w", [2], "Int8", b"a")
CASES: dict[str, list] = {
    ".pt": [
        (zipped(lists()), "refused, because it holds more than 1000000 values"),
        (zipped(endless_key()), "keys are neither texts nor numbers"),
        (zipped(b"\x80\x02\x8b" + struct.pack("<I", 100_000) + b"\x01" * 100_000 + b"."), r"a number of \d+ bits"),
        (zipped(b"\x80\x02](" + b"K\x01" * 20_000 + b"e."), "more than 10000 operations"),
        (zipped(b"N" * 150_000 + b"."), r"its data\.pkl has 150001 bytes, not at most 120000"),
        *((zipped(b"\x80\x02" + data + b".", ("data/0", b"1")), said) for data, said in REPEATED),
        # the byte order, a word, as a megabyte of compressed zeros that would make a gigabyte
        (zipped(b"\x80\x02}.", ("byteorder", bytes(1 << 24)), method=zipfile.ZIP_DEFLATED), "byteorder is compressed"),
        (zipped(b"\x80\x02}.", ("byteorder", bytes(1 << 24))), "its byteorder has 16777216 bytes"),
        (zipped(pickle.dumps({"x": "0" * 10_000}), pickle_method=zipfile.ZIP_DEFLATED), "compressed"),
        (same_names, "two of its records have the same name"),
        (shared_bytes, "its records overlap"),
        *(
            (elsewhere(record, offset), said)
            for record, said in (
                ("data/0", "data/0 lies beyond the end of the file"),
                ("data.pkl", "damaged, cut off|could not be read"),
            )
            for offset in (10**6, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
        ),
        # its size was checked; another one afterwards would read beyond the file
        (zipped(b"\x80\x02" + ALTERED, ("data/0", bytes(4))), "a Storage cannot be altered"),
        (beyond_its_storage, "leave a storage of 4"),
        (saved({f"t{i}": [torch.zeros(250_000)] * 50 for i in (1,)}), "repeat the same numbers to more than 4 times"),
        (saved({"a": torch.ones(1).expand(1 << 40)}), "repeats a storage of 1"),
        (saved({"a": torch._neg_view(torch.ones(3))}), "stands for other numbers"),  # the numbers without the sign
        (zipped(b"\x80\x04\x8c\x02os\x8c\x08sys\ntem\x1b\x93."), "sys.*tem"),
        *((zipped(data), f"{DAMAGED}|refused.*system") for data in RAW.values()),
        (zipped(pickle.dumps([Call(eval, "open('this_ran', 'w')")], 2)), r"refused.*(builtins|__builtin__)\.eval"),
        (zipped(pickle.dumps(decimal.Decimal(2), 2)), r"refused.*decimal\.Decimal"),
        *((zipped(data), DAMAGED) for data in SENSELESS),
        *((zipped(f"\x80\x02c{name}\n.".replace(" ", "\n").encode("latin-1")), REFUSED) for name in NAMES.split(", ")),
        *((written(lambda data, keep=keep: data[:keep]), ": damaged") for keep in (0, 10, 300, -1)),
        (written(encrypted), "encrypted"),
        (saved({"x": torch.ones(1)}, _use_new_zipfile_serialization=False), r"PyTorch 1\.6"),
        (lambda path: zipfile.ZipFile(path, "w").close(), r"data\.pkl"),
    ],
    ".ckpt": [
        *(
            (message(*entries), said)
            for entries, said in (
                ([("w", [4], "Int8", b"ab"), ("v", [1], "Int8", b"x")], r"tensor w has 2 bytes, int8 \[4\] takes 4"),
                ([(name, [1], "Int8", b"a") for name in "wvw"], "tensor w occurs twice"),
                ([("w", [1], "Int8", b"a")] * 2, "tensor w has 2 bytes"),
                ([W2, ("w", [2], "UInt8", b"a")], r"tensor w is Int8 \[2\] in its first piece and UInt8"),
                ([W2, ("w", [3], "Int8", b"a")], r"tensor w is Int8 \[2\] in its first piece and Int8 \[3\]"),
                ([("w", [size] * 10_000, "Int8", b"a") for size in (1, 2)], "tensor w is Int8"),
                ([("w", [-1, -2], "Int8", b"ab")], r"no array can have the shape of tensor w: \[-1, -2\]"),
                ([("w", [1], "Complex128", bytes(16))], "tensor w has type Complex128"),
                ([], "holds no tensors"),
                ([("text", [0], "str", "hi".encode("utf-32-le"))], "holds no tensors"),
                *(
                    ([("w", dims, "Int8", b"")], "no array can have the shape of tensor w")
                    for dims in ([2**62] * 240, [2**62] * 20, [1] * 65, [0, 2**62, 2**62])
                ),
            )
        ),
        (b"PK\x03\x04 a zip file", "damaged.*(an unknown field|leave what ends)"),
        (b"\x08\x01", "damaged.*(the number 1 in place of a message|a number)"),
        (b"\x0a\x02\x08\x01", "damaged.*(the number 1|the name of a tensor|in place of a text)"),
        (b"\x0a\x03\x0a\x01w", "damaged.*the tensor of w occurs 0 times"),
        (b"\x0a\x06\x0a\x01w\x0a\x01v", "damaged.*the name of a tensor occurs 2 times"),
        (b"\x0a\x05\x0a\x01w\x12\x00", "damaged.*the type of w occurs 0 times"),
        (b"\x0a\x09\x0a\x01w\x12\x04\x12\x02\xff\xff", "damaged.*no text at byte"),
        (b"\x0a\x0b\x0a\x01w\x12\x06\x12\x04Int8", "damaged.*the content of w occurs 0 times"),
        (b"\x0a\x0d\x0a\x01w\x12\x08\x12\x04Int8\x18\x01", "damaged.*a number as content of w"),
        (b"\x0b\x0c", "damaged.*a field of kind 3"),
        (b"\x0a" + b"\xff" * 10, "damaged.*no number at byte 1"),
        (b"\x12\x00", "damaged.*an unknown field 2"),
        (b"\x0a\x84\x80\x08\x0a\x80\x80\x08" + bytes(1 << 17), "a text of 131072 bytes"),  # a name without end
        (b"\x0a\x05\x0a\x01w\x1a\x00", "w is a hash table"),
        *((message(("x", [200], "UInt8", bytes(200)))[:keep], ": damaged, cut off") for keep in (1, 7, 40, -1, -20)),
    ],
    ".safetensors": [
        *((headed(header, size), rf"its header is not safetensors \(.*{said}") for header, size, said in FORBIDDEN),
        *(
            (content, rf"its header is not safetensors \({NO_ARRAY}")
            for content in (
                *(shaped(*[10**98] * 20_000), shaped(*[10**98] * 32), shaped(*[1] * 65)),
                *(shaped(0, 2**62, 2**62, size=0), shaped(0, 10**98, size=0)),
            )
        ),
        (headed({"a" * 100_000: tensor([0, 5])}, 5), "its header is not safetensors"),
        *((content, HEADER) for content in (shaped(2, dtype="F32"), shaped(1, dtype="Q"), shaped(-1, size=-4))),
        *((headed(header, 4), HEADER) for header in (b"[]", b"\xff", b'{"x":1}')),
        (headed(b"{%s}" % b",".join([b'"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}'] * 2), 4), HEADER),
    ],
    ".strategy": [
        *(
            (lambda path, its=its: proto(path, {"w": its}), f"not a strategy file.*{said}")
            for its, said in (
                *((((2, 2), map_, 0, 0), "does not fit devices") for map_ in ((2, -1), (0, 0), (-2, -1))),
                (((2, 2), (0, -1), 3, 2), "2 replicas of w cannot have 3 optimizer shards"),
                (((2, 2), (0, -1), -2, 2), "2 replicas of w cannot have -2 optimizer shards"),
                (((2, 2), (0, -1), 2, 1), "optimizer shards of w are 1 ranks apart"),
                (((2, 2), (), 4, 1), "w is a single number"),
                *(((devices, (0, -1), 0, 0), "w is on a grid") for devices in ((0, 2), (1 << 20, 2), (1,) * 40)),
                (((2, 2), (-1,) * 40, 0, 0), "w has 40 axes, expected at most 32"),
            )
        ),
        (b"", "no parameter's layout"),
    ],
    ".json": [
        *(
            (content, f"not a strategy file.*{said}")
            for content, said in (
                (layout(param_split_shape=[3, 5]), "w is split into unequal parts"),
                (layout(indices_offset=[3]), "w is split into unequal parts"),
                (layout(field=2), "w is split into unequal parts"),
                (layout(dev_matrix="22"), "something other than numbers"),
                (layout(dev_matrix=[2.0, 2]), "something other than numbers"),
                (layout(opt_weight_shard_size=True), "something other than numbers"),
                (layout(tensor_map=None), "not iterable"),
                (layout(dev_matrix=[10**98] * 20_000), "w is on a grid"),
                (layout(tensor_shape=[10**98] * 20_000), "no array can have the shape of tensor w"),
                (layout(tensor_shape=[4, -4]), "no array can have the shape of tensor w"),
                (layout(dev_matrix="absent", field="absent"), "dev_matrix"),
                (b"[1]", ""),
                *((layout(stage), "") for stage in ("x", None, 0.5, True, -1, [])),
                (layout(0, 1), "w does not say which of the stages"),
            )
        ),
    ],
}
ROWS = [(suffix, number) for suffix, cases in CASES.items() for number in range(len(cases))]


def test_the_table_changes_sound_files(tmp_path):
    (tmp_path / "a.json").write_bytes(layout())
    assert read_strategy(tmp_path / "a.json")["w"][0].shape == (4, 4)
    (tmp_path / "a.safetensors").write_bytes(shaped(4))
    assert SafetensorsFile(tmp_path / "a.safetensors").tensors["a"].shape == (4,)
    written(bytes)(tmp_path / "a.pt")
    assert read_torch(tmp_path / "a.pt")["a"].shape == (4,)


@pytest.mark.parametrize(("suffix", "row"), ROWS, ids=lambda value: str(value))
def test_a_hostile_file_is_refused_in_a_line(tmp_path, monkeypatch, suffix, row):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch_pickle, "ROOM", 20_000)
    monkeypatch.setattr(torch_pickle, "MAX_OPERATIONS", 10_000)
    monkeypatch.setattr(torch_zip, "MAX_PICKLE", 120_000)
    content, said = CASES[suffix][row]
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content) if isinstance(content, bytes) else content(path)
    with pytest.raises(UserError, match=said) as caught:
        READERS[suffix](path)
    line = str(caught.value)
    assert line.isprintable() and str(path) in line and len(line) < 400 + len(str(path))
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(("header", "size", "said"), FORBIDDEN, ids=range(len(FORBIDDEN)))
def test_the_library_refuses_what_the_format_forbids(header, size, said):
    with pytest.raises(SafetensorError):
        load(headed(header, size))


@pytest.mark.parametrize("suffix", READERS)
def test_a_file_that_is_not_there(tmp_path, suffix):
    with pytest.raises(UserError, match=r"x\.\w+: (could not be read \(No such file|no such file)"):
        READERS[suffix](tmp_path / f"x{suffix}")


TENSORS = {"a": from_array(np.array([[-128], [127]], np.int8)), "b": from_array(np.array([-7], np.int16))}


def without_checksum(path):
    write_mindspore(path, TENSORS)
    path.write_bytes(path.read_bytes()[:-TRAILER_BYTES])


SOUND = {
    "nested": (".pt", lambda path: write_torch(path, {"module": TENSORS, "config": {"n": 2}})),
    "with arguments": (".pt", saved({"module": torch.nn.Linear(2, 2).state_dict(), "args": argparse.Namespace(a=1)})),
    "without checksum": (".ckpt", without_checksum),
    "with checksums": (".safetensors", lambda path: WRITERS[".safetensors"](path, TENSORS)),
    "two layouts": (".strategy", lambda path: proto(path, {"w": ((2, 2), (0, -1), 2, 2), "v": ((4,), (), 0, 0)})),
}


@pytest.mark.parametrize(("suffix", "make"), SOUND.values(), ids=SOUND)
def test_changed_and_missing_bytes_end_in_one_line(tmp_path, suffix, make):
    """A message, or (where there is no checksum) other numbers, never a traceback. What is read of a safetensors file
    is what the library reads."""
    path, draw, read = tmp_path / f"x{suffix}", random.Random(7), 0
    make(path)
    original = path.read_bytes()
    length = 8 + struct.unpack("<Q", original[:8])[0] if suffix == ".safetensors" else len(original)
    for turn in range(1500 if suffix == ".safetensors" else 500):
        data = bytearray(original)
        for _ in range(draw.randint(1, 4)):
            place, letters = draw.randrange(length), b'0123456789[]{}",:.-eE\n\x00\xff AFU'
            data[place] = draw.choice(letters) if suffix == ".safetensors" else draw.randrange(256)
        data = data[: draw.randrange(len(data))] if turn % 8 == 7 else data
        path.write_bytes(data)
        try:
            found = READERS[suffix](path)
            arrays = {} if suffix == ".strategy" else {name: each.array() for name, each in found.items()}
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            continue
        read += 1
        if suffix == ".safetensors":
            assert {n: a.tobytes() for n, a in arrays.items()} == {n: a.tobytes() for n, a in load(bytes(data)).items()}
    assert read


DAMAGES = {".pt": "data/0 is damaged", ".ckpt": r"x\.ckpt: damaged \(checksum", ".safetensors": "a is damaged, or"}


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_flipped_bit_is_found_when_the_tensor_is_read(tmp_path, suffix):
    path, large = tmp_path / f"x{suffix}", np.arange(200, dtype=np.uint8)
    WRITERS[suffix](path, {"a": from_array(large), "b": from_array(np.arange(3))})
    data = bytearray(path.read_bytes())
    data[data.index(large.tobytes()) + 77] ^= 4
    path.write_bytes(data)
    found = READERS[suffix](path)
    for _ in range(2):
        with pytest.raises(UserError, match=DAMAGES[suffix]):
            found["a"].array()
    if suffix != ".ckpt":  # which has one checksum for all
        assert found["b"].array().tolist() == [0, 1, 2]


@pytest.mark.parametrize("suffix", [".pt", ".ckpt"])
def test_a_file_that_changes_meanwhile(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    WRITERS[suffix](path, {"a": from_array(np.arange(200, dtype=np.uint8))})
    found = READERS[suffix](path)["a"]
    for change in (lambda: path.write_bytes(b"short"), path.unlink):
        change()
        with pytest.raises(UserError, match=r"x\.\w+: was changed or removed"):
            found.array()


@pytest.mark.parametrize("suffix", [".pt", ".ckpt"])
def test_an_interrupted_write_leaves_the_old_file(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    WRITERS[suffix](path, TENSORS)
    before = path.read_bytes()

    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        WRITERS[suffix](path, {**TENSORS, "y": LazyTensor("float32", (2,), fail)})
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", WRITERS)
def test_one_tensor_in_memory_at_a_time(tmp_path, suffix):
    alive, maximum = [0], [0]

    class Counted(np.ndarray):
        def __del__(self):
            alive[0] -= self.base is None

    def loaded():
        alive[0] += 1
        maximum[0] = max(maximum[0], alive[0])
        return np.ndarray.__new__(Counted, (4,), np.float32)

    WRITERS[suffix](tmp_path / "m", {str(i): LazyTensor("float32", (4,), loaded) for i in range(6)})
    assert maximum[0] <= 2  # the next one may be loaded before the name of the last is bound anew
