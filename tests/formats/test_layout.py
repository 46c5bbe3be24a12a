"""The correspondence of layouts: fused tensors of other families, and every tensor accounted for."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.layout import expand, to_foreign, to_ours, transposed
from ms_codegeex.formats.tensors import NUMPY_DTYPES, from_array
from ms_codegeex.models.foreign import HALVES, TRANSPOSE, Entry, Packing
from ms_codegeex.models.registry import family

SIZES = family("codegen").config.build_config("tiny", {"num_layers": 2})
PATTERNS = (
    Entry(("word",), "wte"),
    Entry(("l.{i}.q", "l.{i}.v", "l.{i}.k"), "h.{i}.qkv", Packing("group", 4)),
    Entry(("l.{i}.out",), "h.{i}.out", TRANSPOSE),
    Entry(("norm",), ("top", "norm")),
)
SHAPES = {"word": (5, 8), "norm": (8,)} | {
    f"l.{i}.{name}": (8, 8) if name != "out" else (8, 2) for i in range(2) for name in ("q", "v", "k", "out")
}


def ours():
    return {
        name: from_array(np.random.default_rng(k).standard_normal(shape).astype(np.float32))
        for k, (name, shape) in enumerate(SHAPES.items())
    }


def test_patterns_are_repeated_layer_by_layer():
    expected = ["wte", "h.0.qkv", "h.0.out", "h.1.qkv", "h.1.out", ("top", "norm")]
    assert [entry.foreign for entry in expand(PATTERNS, SIZES)] == expected


def test_channels_of_heads_are_renumbered():
    """Four heads of 32 channels, of which 16 turn: pairs (0, 1) there are (0, 8) here."""
    (entry,) = expand([Entry(("q",), "theirs", HALVES)], SIZES)
    mine = {"q": from_array(np.arange(4 * 32 * 3, dtype=np.float32).reshape(128, 3))}
    theirs = to_foreign([entry], mine)
    found = theirs["theirs"].array()[:, 0].reshape(4, 32) // 3
    np.testing.assert_array_equal(found[1] - 32, [*range(0, 16, 2), *range(1, 16, 2), *range(16, 32)])
    back = to_ours([entry], theirs, {"q": (128, 3)}, "here")
    assert back["q"].array().tobytes() == mine["q"].array().tobytes()


def test_fused_tensors_go_there_and_back():
    entries, mine = expand(PATTERNS, SIZES), ours()
    foreign = to_foreign(entries, mine)
    fused = foreign["h.1.qkv"].array()
    assert foreign["h.1.qkv"].shape == (24, 8) and foreign["h.0.out"].shape == (2, 8)
    np.testing.assert_array_equal(fused[6:8], mine["l.1.q"].array()[2:4])  # group 1 begins with its queries
    back = to_ours(entries, foreign, SHAPES, "here")
    assert back.keys() == mine.keys()
    assert all(back[name].array().tobytes() == mine[name].array().tobytes() for name in mine)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("h.1.qkv"), "here: missing tensor h.1.qkv"),
        (lambda t: t.update(extra=t["wte"]), "here: unexpected tensor extra"),
        (lambda t: t.update({("top", "norm"): from_array(np.ones(7))}), r"tensor top -> norm has shape \[7\].*\[8\]"),
        (lambda t: t.update(wte=from_array(np.ones((5, 8), np.int8))), "tensor wte has dtype int8"),
    ],
)
def test_every_tensor_is_accounted_for(change, message):
    entries = expand(PATTERNS, SIZES)
    tensors = to_foreign(entries, ours())
    change(tensors)
    with pytest.raises(UserError, match=message):
        to_ours(entries, tensors, SHAPES, "here")


class Watched(str):
    """A name that runs `then` each time something looks it up or compares it, as another thread might."""

    then = staticmethod(lambda: None)

    def __hash__(self):
        self.then()
        return super().__hash__()

    def __eq__(self, other):
        self.then()
        return str(self) == str(other)

    def __ne__(self, other):  # else that of `str`
        return not self == other


def test_another_thread_loads_another_fused_tensor_meanwhile(monkeypatch):
    """A conversion compares what it has written while it reads ahead."""
    names, packing = (Watched("a"), Watched("b")), Packing("stack")
    entries = [Entry((f"{name}.0", f"{name}.1"), name, packing) for name in names]
    foreign = {name: from_array(np.full((2, 2), number, np.float32)) for number, name in enumerate(names)}
    shapes = {part: (1, 2) for entry in entries for part in entry.ours}
    for moment in range(4):
        monkeypatch.setattr(names[0], "then", lambda: None)
        ours, calls = to_ours(entries, foreign, shapes, "a file"), itertools.count()
        other = lambda ours=ours, calls=calls, moment=moment: next(calls) == moment and ours["b.0"].array()  # noqa: E731
        monkeypatch.setattr(names[0], "then", other)
        assert (ours["a.1"].array() == 0).all() and (ours["b.1"].array() == 1).all()


def test_parts_of_one_tensor_share_a_dtype():
    mine = ours() | {"l.0.k": from_array(np.ones((8, 8), np.float16))}
    with pytest.raises(UserError, match=r"l\.0\.q, l\.0\.v, l\.0\.k make one tensor"):
        to_foreign(expand(PATTERNS, SIZES), mine)


@settings(max_examples=100)
@given(st.sampled_from(sorted(NUMPY_DTYPES)), st.integers(0, 200), st.integers(0, 9))
def test_the_fast_transpose_is_that_of_numpy(dtype, rows, columns):
    kind = NUMPY_DTYPES[dtype]
    size, values = rows * columns * kind.itemsize, 2 if dtype == "bool" else 256
    array = np.random.default_rng(rows).integers(0, values, size, np.uint8).view(kind).reshape(rows, columns)
    result = transposed(array)
    assert result.dtype == kind and result.shape == (columns, rows) and result.flags.c_contiguous
    assert result.tobytes() == array.T.tobytes()


@pytest.mark.parametrize("kind", ["view", "columns", "unaligned", "read-only"])
def test_the_transpose_of_what_a_file_gives(kind):
    array = np.arange(64 * 12, dtype=np.float32).reshape(64, 12)
    if kind == "unaligned":
        array = np.frombuffer(b"x" + array.tobytes(), np.uint8)[1:].view(np.float32).reshape(64, 12)
    array = {"view": array.T, "columns": array[:, ::2]}.get(kind, array)
    array.flags.writeable = False
    result = transposed(array)
    assert result.tobytes() == array.T.tobytes() and not np.shares_memory(result, array)
