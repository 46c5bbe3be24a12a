"""Frozen weights are not copied: they are pages of the model's files."""

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor
from safetensors.numpy import save_file

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.safetensors_file import SafetensorsFile
from ms_codegeex.training.rank_state import _held_as_stored


def frozen(shape):
    return Parameter(Tensor(np.zeros(shape, np.float32)), name="w", requires_grad=False)


def mapped_file(address):
    """The file that is mapped at an address of this process; none for other memory."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(number, 16) for number in line.split()[0].split("-"))
        if begin <= address < end:
            return Path(line.split(maxsplit=5)[5]) if len(line.split()) > 5 else None
    return None


def stored(folder, **tensors):
    """The tensor `w` of a file that holds these."""
    save_file(tensors, folder / "model.safetensors")
    return SafetensorsFile(folder / "model.safetensors").tensors["w"]


def test_a_frozen_weight_is_the_file_itself(tmp_path):
    values = np.arange(12_000, dtype=np.float32).reshape(60, 200)
    parameter = frozen(values.shape)
    assert _held_as_stored(parameter, stored(tmp_path, other=values + 1, w=values))
    assert mapped_file(parameter.data_ptr()) == tmp_path / "model.safetensors"
    product = ms.ops.matmul(parameter, Tensor(np.ones((200, 1), np.float32))).asnumpy()
    np.testing.assert_allclose(product, values.sum(1, keepdims=True), rtol=1e-6)


def test_what_is_not_stored_as_it_is_needed_is_converted(tmp_path):
    for tensor in (stored(tmp_path, w=np.ones((4, 4), np.float16)), None):
        assert not _held_as_stored(frozen((4, 4)), tensor)


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(UserError, match="tensor w holds numbers that are not finite"):
        _held_as_stored(frozen((2, 2)), stored(tmp_path, w=np.full((2, 2), np.nan, np.float32)))
