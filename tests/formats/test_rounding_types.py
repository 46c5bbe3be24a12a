"""Conversion between floating-point types, against NumPy's and PyTorch's, and tensors read some rows at a time."""

import numpy as np
import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats import checkpoint, chunks
from ms_codegeex.formats.checkpoint_writing import write_checkpoint
from ms_codegeex.formats.rounding import cast
from ms_codegeex.formats.safetensors_file import SafetensorsFile, write_safetensors
from ms_codegeex.formats.tensors import LazyTensor, from_array, pieces
from ms_codegeex.formats.torch_zip import read_torch, write_torch

ALL_16 = np.arange(1 << 16, dtype=np.uint16)
FINITE = ALL_16[(ALL_16 & 0x7C00) != 0x7C00].view(np.float16)


def same(one, other):
    return np.array_equal(np.ascontiguousarray(one).view(np.uint8), np.ascontiguousarray(other).view(np.uint8))


def between():
    """FP32 numbers at, and next to, each number of FP16 and each half way between two of them, of both signs."""
    exact = np.sort(FINITE[FINITE >= 0].astype(np.float32))
    half = (exact[1:] + exact[:-1]) / 2
    around = [np.nextafter(half, np.float32(to)) for to in (0, 1e9)]
    numbers = np.concatenate([exact, half, *around, np.float32([1e-30, 65519.99])])
    return np.concatenate([numbers, -numbers])


@pytest.mark.parametrize("array", [ALL_16.view(np.float16), FINITE, FINITE[:0], FINITE[:63488].reshape(2, -1)[:, ::3]])
def test_fp16_becomes_what_numpy_makes_of_it(array):
    assert same(from_array(array).float32(), array.astype(np.float32))
    assert same(cast("x", from_array(array), "float32").array(), array.astype(np.float32))


def test_fp32_becomes_what_numpy_makes_of_it_in_fp16():
    numbers = between()
    assert same(cast("x", from_array(numbers), "float16").array(), numbers.astype(np.float16))
    wider = np.append(numbers, np.float32([np.inf, -np.inf, np.nan]))
    assert same(cast("x", from_array(wider), "float16").array(), wider.astype(np.float16))
    for value in (65520, -65520, 1e9):
        with pytest.raises(UserError, match=r"x: holds 6\.?552|x: holds 65520|x: holds 1e\+09"):
            cast("x", from_array(np.append(numbers, np.float32(value))), "float16").array()
    assert cast("i", from_array(np.array([1])), "float16").dtype == "int64"


def test_bfloat16_becomes_what_pytorch_makes_of_it():
    torch = pytest.importorskip("torch")
    drawn = np.random.default_rng(5).integers(0, 2**32, 50_000, np.uint32).view(np.float32)
    numbers = np.concatenate([between(), drawn])
    numbers = numbers[np.isfinite(numbers) & (np.abs(numbers) < 3e38)]
    expected = torch.from_numpy(numbers).bfloat16().view(torch.int16).numpy().view(np.uint16)
    found = cast("x", from_array(numbers), "bfloat16")
    back = (expected.astype(np.uint32) << 16).view(np.float32)
    assert same(found.array(), expected) and same(found.float32(), back)
    assert same(cast("x", from_array(expected, "bfloat16"), "float32").array(), back)


def joined(tensor, nbytes):
    found = list(pieces(tensor, nbytes))
    assert max(piece.nbytes for piece in found) <= max(nbytes, tensor.nbytes // tensor.shape[0])
    return np.concatenate(found)


@pytest.mark.parametrize("nbytes", [1, 100, 1 << 20])
def test_pieces_are_the_tensor(tmp_path, nbytes):
    array = np.random.default_rng(1).standard_normal((37, 5)).astype(np.float32)
    write_safetensors(tmp_path / "f", {"x": from_array(array), "y": from_array(array[:, 0].copy())}, checksums=True)
    found = SafetensorsFile(tmp_path / "f").tensors
    assert np.array_equal(joined(found["x"], nbytes), array) and np.array_equal(joined(found["y"], nbytes), array[:, 0])
    assert np.array_equal(joined(from_array(array), nbytes), array)


def test_the_last_piece_reports_damage(tmp_path):
    write_safetensors(tmp_path / "f", {"x": from_array(np.ones((30, 8), np.float32))}, checksums=True)
    data = bytearray((tmp_path / "f").read_bytes())
    data[-400] ^= 1
    (tmp_path / "f").write_bytes(data)
    for _ in range(2):
        with pytest.raises(UserError, match="tensor x is damaged"):
            list(pieces(SafetensorsFile(tmp_path / "f").tensors["x"], 64))


def test_a_window_at_a_time_where_reading_a_part_is_cheaper():
    array = np.arange(6 << 20, dtype=np.int32).reshape(-1, 1 << 10)
    read = []

    def part(index):
        read.append(array[index].nbytes)
        return array[index]

    tensor = LazyTensor("int32", array.shape, lambda: pytest.fail("all of it"), part)
    assert np.array_equal(joined(tensor, 1 << 20), array) and read == [16 << 20, 8 << 20]


def test_pieces_of_a_pytorch_file_are_checked_too(tmp_path):
    array = np.random.default_rng(1).standard_normal((37, 5)).astype(np.float16)
    write_torch(tmp_path / "f.pt", {"x": from_array(array)})
    tensor = read_torch(tmp_path / "f.pt")["x"]
    assert tensor.rows is not None and np.array_equal(joined(tensor, 64), array)
    data = (tmp_path / "f.pt").read_bytes()
    assert data.count(array.tobytes()) == 1
    (tmp_path / "f.pt").write_bytes(data.replace(array.tobytes(), array.tobytes()[:-1] + b"?"))
    with pytest.raises(UserError, match=r"record .* is damaged"):
        list(pieces(read_torch(tmp_path / "f.pt")["x"], 64))


def test_pieces_of_a_checkpoint_read_a_chunk_once(tmp_path, monkeypatch):
    array = np.random.default_rng(1).standard_normal((3 << 10, 1 << 10)).astype(np.float32)  # chunks of 8 MB
    path, read = write_checkpoint(tmp_path, 1, {"x": array}, {"optimizer_step": 1}), []
    whole = chunks.read_bytes
    monkeypatch.setattr(chunks, "read_bytes", lambda *given: read.append(given[2].nbytes) or whole(*given))
    tensor = checkpoint.Checkpoint(path).lazy("x")
    assert np.array_equal(joined(tensor, 1 << 20), array) and read == [8 << 20, 4 << 20]
