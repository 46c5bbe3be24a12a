"""Safetensors files that other programs made: what the format forbids is refused, and edited is not damaged."""

import json
import random
import struct

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, load_file, save_file

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.safetensors_file import SafetensorsFile, write_safetensors
from ms_codegeex.formats.tensors import from_array

A, B = {"dtype": "U8", "shape": [4]}, {"dtype": "U8", "shape": [2]}


def file_of(path, header, size):
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(range(size)))
    return path


@pytest.mark.parametrize(
    ("header", "size", "message"),
    [
        ({"a": A | {"data_offsets": [0, 4]}, "b": B | {"data_offsets": [2, 4]}}, 4, "b: begins at byte 2, inside"),
        ({"a": A | {"data_offsets": [0, 4]}, "b": A | {"data_offsets": [0, 4]}}, 4, "b: begins at byte 0, inside"),
        ({"a": A | {"data_offsets": [0, 4]}, "b": B | {"data_offsets": [6, 8]}}, 8, "b: begins at byte 6, 2 bytes"),
        ({"a": A | {"data_offsets": [1, 5]}}, 5, "a: begins at byte 1, 1 bytes after"),
        ({"a": A | {"data_offsets": [0, 4.0]}}, 4, r"does not fit bytes 0\.\.4\.0"),
        ({"a": A | {"data_offsets": [0.0, 4]}}, 4, r"does not fit bytes 0\.0\.\.4"),
        ({"a": A | {"data_offsets": [False, 4]}}, 4, "does not fit"),
        ({"a": A | {"data_offsets": ["0", "4"]}}, 4, "does not fit"),
        ({"a": A | {"data_offsets": [0, 4, 8]}}, 4, "too many values"),
        (
            {"a": A | {"data_offsets": [0, 4], "shape": [4.0]}},
            4,
            r"no array can have the shape of tensor a: \[4\.0\]",
        ),
    ],
    ids=["overlap", "twice", "hole", "hole in front", "float end", "float begin", "bool", "text", "three", "shape"],
)
def test_places_that_the_format_forbids(tmp_path, header, size, message):
    path = file_of(tmp_path / "f", header, size)
    with pytest.raises(SafetensorError):
        load(path.read_bytes())  # the library agrees
    with pytest.raises(UserError, match=rf"f: its header is not safetensors \(.*{message}"):
        SafetensorsFile(path)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ([10**98] * 20_000, 4),
        ([10**98] * 32, 4),
        ([1] * 65, 4),
        ([0, 2**62, 2**62], 0),
        ([0, 10**98], 0),
    ],
    ids=["many huge", "huge", "many", "empty", "empty and huge"],
)
def test_shapes_that_no_array_has(tmp_path, shape, size):
    path = file_of(tmp_path / "f", {"a": {"dtype": "U8", "shape": shape, "data_offsets": [0, size]}}, size)
    with pytest.raises(
        UserError, match=r"f: its header is not safetensors \(no array can have the shape of tensor a: "
    ) as error:
        SafetensorsFile(path)
    assert len(str(error.value)) < 400 + len(str(path))


def test_a_quoted_reason_is_short(tmp_path):
    path = file_of(tmp_path / "f", {"a" * 100_000: A | {"data_offsets": [0, 5]}}, 5)
    with pytest.raises(UserError, match="f: its header is not safetensors") as error:
        SafetensorsFile(path)
    assert len(str(error.value)) < 400 + len(str(path))


def test_tensors_in_another_order_than_their_bytes(tmp_path):
    header = {
        "b": B | {"data_offsets": [4, 6]},
        "none": {"dtype": "F32", "shape": [0], "data_offsets": [4, 4]},
        "a": A | {"data_offsets": [0, 4]},
    }
    path = file_of(tmp_path / "f", header, 6)
    file, expected = SafetensorsFile(path), load(path.read_bytes())
    assert set(file.tensors) == set(expected)
    assert all(file.tensors[name].array().tobytes() == array.tobytes() for name, array in expected.items())


@pytest.fixture
def ours(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float32), "b": np.ones(3, np.float16)}
    path = tmp_path / "ours.safetensors"
    write_safetensors(path, {name: from_array(a) for name, a in arrays.items()}, {"format": "pt"}, checksums=True)
    return path, arrays


def test_a_tensor_that_another_program_edited(ours):
    path, arrays = ours
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    save_file(arrays, path, metadata)  # saved again, nothing changed
    assert SafetensorsFile(path).tensors["a"].array().tobytes() == arrays["a"].tobytes()
    save_file(arrays | {"a": arrays["a"] * 2}, path, metadata)
    file = SafetensorsFile(path)
    assert file.tensors["b"].array().tobytes() == arrays["b"].tobytes()
    with pytest.raises(UserError, match=r"tensor a was edited: another program saved .* save it without the metadata"):
        file.tensors["a"].array()
    save_file(arrays | {"a": arrays["a"] * 2}, path, {"format": "pt"})  # the remedy
    assert (
        SafetensorsFile(path).tensors["a"].array().tobytes()
        == (arrays["a"] * 2).tobytes()
        == load_file(path)["a"].tobytes()
    )


def test_a_changed_byte_is_damage(ours):
    path, _ = ours
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="tensor b is damaged, or edited in place"):
        SafetensorsFile(path).tensors["b"].array()


def test_mutated_headers_end_in_one_line(ours):
    """Whatever is read is what the library reads, too, and anything else is a `UserError` of one line."""
    path, _ = ours
    original, generator = path.read_bytes(), random.Random(7)
    length = 8 + struct.unpack("<Q", original[:8])[0]
    read = 0
    for _ in range(1500):
        data = bytearray(original)
        for _ in range(generator.randint(1, 3)):
            data[generator.randrange(length)] = generator.choice(b'0123456789[]{}",:.-eE\n\x00\xff AFU')
        path.write_bytes(data)
        try:
            file = SafetensorsFile(path)
            found = {name: file.tensors[name].array() for name in file.tensors}
        except UserError as error:
            assert "\n" not in str(error)
            continue
        read += 1
        expected = load(bytes(data))
        assert {name: array.tobytes() for name, array in found.items()} == {n: a.tobytes() for n, a in expected.items()}
    assert read
