"""Our `.ckpt` files against the real MindSpore, in both directions, and what a damaged file does."""

import os
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import ARRAYS_OF_TYPES

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats import chunks, mindspore_checkpoint
from ms_codegeex.formats.mindspore_checkpoint import TRAILER_BYTES, is_weight, read_mindspore, write_mindspore
from ms_codegeex.formats.tensors import MINDSPORE_TYPES, NUMPY_DTYPES, LazyTensor, from_array

ARRAYS = ARRAYS_OF_TYPES | {"float64": np.array([2.5, -1e300]), "scalar": np.array(3, np.int32)}
ARRAYS["rows.of.nothing"] = np.zeros((0, 4), np.float32)
BRAIN = np.array([0x3F80, 0xC000, 0x7F80], np.uint16)  # 1, -2, inf
LOADED = {kind: getattr(ms, "bool_" if kind == "bool" else kind) for kind in MINDSPORE_TYPES}


def tensors():
    return {name: from_array(array) for name, array in ARRAYS.items()} | {"brain": from_array(BRAIN, "bfloat16")}


def saved(path, entries, **options):
    """A file made by MindSpore itself."""
    ms.save_checkpoint([{"name": n, "data": ms.Tensor(v)} for n, v in entries.items()], str(path), **options)
    os.chmod(path, 0o644)
    return path


def message(*entries):
    """A file made of (name, dims, type, content) by MindSpore's own protocol buffer."""
    from mindspore.train.checkpoint_pb2 import Checkpoint

    checkpoint = Checkpoint()
    for name, dims, kind, content in entries:
        value = checkpoint.value.add()
        value.tag = name
        value.tensor.dims.extend(dims)
        value.tensor.tensor_type = kind
        value.tensor.tensor_content = content
    return checkpoint.SerializeToString()


@pytest.mark.parametrize("crc_check", [True, False])
def test_mindspore_reads_our_file(tmp_path, crc_check):
    write_mindspore(tmp_path / "ours.ckpt", tensors())
    loaded = ms.load_checkpoint(str(tmp_path / "ours.ckpt"), crc_check=crc_check)
    assert list(loaded) == [*ARRAYS, "brain"]
    for name, array in ARRAYS.items():
        assert loaded[name].dtype == LOADED[array.dtype.name] and loaded[name].shape == array.shape
        assert loaded[name].asnumpy().tobytes() == array.tobytes()
    assert loaded["brain"].dtype == ms.bfloat16
    assert loaded["brain"].float().asnumpy().tolist() == [1, -2, np.inf]


@pytest.mark.parametrize("crc_check", [True, False])
def test_we_read_what_mindspore_saves(tmp_path, crc_check):
    present = {name: array for name, array in ARRAYS.items() if array.size}  # it leaves empty ones out
    path = tmp_path / "theirs.ckpt"
    info = {"epoch_num": 3, "step_num": 1 << 40, "rate": 0.5, "done": True, "text": "ü"}
    saved(path, {**present, "brain": ms.Tensor([1, -2, np.inf], ms.bfloat16)}, append_dict=info, crc_check=crc_check)
    found = read_mindspore(path)
    assert list(found) == [*present, "brain", "epoch_num", "step_num", "rate", "done"]
    for name, array in present.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype.name, array.shape)
        assert found[name].array().tobytes() == array.tobytes()
    assert found["brain"].dtype == "bfloat16" and found["brain"].array().tolist() == BRAIN.tolist()
    for name in ("epoch_num", "step_num", "rate", "done"):
        assert found[name].shape == () and found[name].array().item() == info[name]


def test_we_read_a_network_with_its_optimizer(tmp_path):
    net = ms.nn.Dense(3, 2)
    step = ms.nn.TrainOneStepCell(net, ms.nn.AdamWeightDecay(net.trainable_params()))
    ms.save_checkpoint(step, str(tmp_path / "step.ckpt"), append_dict={"epoch_num": 1, "step_num": 2})
    found = read_mindspore(tmp_path / "step.ckpt", keep=is_weight)
    assert set(found) == {"weight", "bias"} and len(read_mindspore(tmp_path / "step.ckpt")) > 6
    assert found["weight"].array().tobytes() == net.weight.asnumpy().tobytes()


@pytest.mark.parametrize("ours", [True, False])
def test_a_large_tensor_is_in_pieces(tmp_path, monkeypatch, ours):
    large = np.arange(1000, dtype=np.float32).reshape(10, 100)
    monkeypatch.setattr(mindspore_checkpoint, "PIECE_BYTES", 1024)
    monkeypatch.setattr("mindspore.train.serialization.SLICE_SIZE", 1)  # KiB
    path = tmp_path / "large.ckpt"
    if ours:
        write_mindspore(path, {"large": from_array(large), "small": from_array(BRAIN, "bfloat16")})
    else:
        saved(path, {"large": large, "small": ms.Tensor([1, -2, np.inf], ms.bfloat16)})
    assert path.read_bytes().count(b"large") == 4
    assert ms.load_checkpoint(str(path))["large"].asnumpy().tobytes() == large.tobytes()
    found = read_mindspore(path)
    assert found["large"].array().tobytes() == large.tobytes() and found["small"].array().tolist() == BRAIN.tolist()


def test_we_write_the_bytes_that_mindspore_writes(tmp_path):
    present = {name: array for name, array in ARRAYS.items() if array.size}
    saved(tmp_path / "theirs.ckpt", present, crc_check=True)
    write_mindspore(tmp_path / "ours.ckpt", {name: from_array(array) for name, array in present.items()})
    assert (tmp_path / "ours.ckpt").read_bytes() == (tmp_path / "theirs.ckpt").read_bytes()


def test_a_number_of_an_old_version(tmp_path):
    (tmp_path / "old.ckpt").write_bytes(message(("step_num", [0], "Int32", b"\7\0\0\0")))
    assert read_mindspore(tmp_path / "old.ckpt")["step_num"].array() == np.array(7, np.int32)


SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple).filter(lambda shape: shape != (0,))


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300),
        st.tuples(st.sampled_from(sorted(MINDSPORE_TYPES)), SHAPES, st.binary(min_size=8, max_size=8)),
        min_size=1,
        max_size=40,
    ),
    st.booleans(),
    st.integers(1, 40),
)
def test_round_trip(tmp_path_factory, entries, checksum, piece):
    def array(kind, shape, seed):
        count = int(np.prod(shape)) * NUMPY_DTYPES[kind].itemsize
        data = np.resize(np.frombuffer(seed, np.uint8), count)
        return (data & 1 if kind == "bool" else data).view(NUMPY_DTYPES[kind]).reshape(shape)

    path = tmp_path_factory.mktemp("wire") / "x.ckpt"
    whole = {name: LazyTensor(*entry[:2], lambda entry=entry: array(*entry)) for name, entry in entries.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mindspore_checkpoint, "PIECE_BYTES", piece)
        write_mindspore(path, whole)
    if not checksum:  # as programs write it that do not know it
        path.write_bytes(path.read_bytes()[:-TRAILER_BYTES])
    found = read_mindspore(path)
    assert list(found) == list(whole)
    for name, tensor in whole.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert found[name].array().tobytes() == tensor.array().tobytes()


def test_the_checksum_is_computed_once(tmp_path, monkeypatch):
    write_mindspore(tmp_path / "x.ckpt", tensors())
    seen = []
    judge = chunks.Checksum.judge
    monkeypatch.setattr(chunks.Checksum, "judge", lambda *given: seen.append(1) or judge(*given))
    for tensor in read_mindspore(tmp_path / "x.ckpt").values():
        tensor.array()
    assert len(seen) == 1


@pytest.mark.parametrize("piece", [1 << 29, 16])
def test_a_window_of_a_tensor(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(mindspore_checkpoint, "PIECE_BYTES", piece)
    write_mindspore(tmp_path / "x.ckpt", tensors())
    index = (slice(1, 2), slice(0, 2), slice(1, 4))
    window = read_mindspore(tmp_path / "x.ckpt")["float32"].window(index)
    assert window.array().tobytes() == ARRAYS["float32"][index].tobytes()


def test_an_empty_vector_is_refused(tmp_path):
    with pytest.raises(UserError, match="tensor x has no elements"):
        write_mindspore(tmp_path / "x.ckpt", {"x": from_array(np.zeros(0, np.float32))})
    assert not list(tmp_path.iterdir())


def test_a_scan_reads_no_content(tmp_path, monkeypatch):
    large = {"x": from_array(np.zeros(1 << 22, np.uint8)), "y": from_array(BRAIN, "bfloat16")}
    write_mindspore(tmp_path / "x.ckpt", large)
    sizes, real = [], mindspore_checkpoint.WireReader

    def counting(stream):
        counted = SimpleNamespace(seek=stream.seek, read=lambda size: sizes.append(size) or stream.read(size))
        return real(counted)

    monkeypatch.setattr(mindspore_checkpoint, "WireReader", counting)
    assert list(read_mindspore(tmp_path / "x.ckpt")) == ["x", "y"] and 0 < sum(sizes) < 1000


WEIGHTS = ("backbone.blocks.0.attention.dense1.weight", "backbone.embedding.word_embedding.embedding_table")
STATE = ("adam_m.backbone.layernorm.gamma", "moments.weight", "global_step", "optimizer.learning_rate", "scale_sense")
STATE += ("exp_avg_sq_row_backbone.layernorm.gamma", "exp_avg_insta_col_backbone.layernorm.gamma", "epoch_num")


@pytest.mark.parametrize("name", [*WEIGHTS, *STATE, "backbone.blocks.0.attention.key_past"])
def test_what_is_a_weight(name):
    assert is_weight(name) == (name in WEIGHTS)
