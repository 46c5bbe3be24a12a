"""Safetensors files that other programs made: what the format forbids is refused, and edited is not damaged."""

import json
import struct

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load, load_file, save_file

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.safetensors_file import SafetensorsFile, write_safetensors
from ms_codegeex.formats.tensors import from_array

A, B = {"dtype": "U8", "shape": [4]}, {"dtype": "U8", "shape": [2]}


def file_of(path, header, size):
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(range(size)))
    return path


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
