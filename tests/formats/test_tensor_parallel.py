"""Slices of tensor-parallel ranks: split and merged again they are the whole, and a window reads only what it meets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.strategy import merge, shard
from ms_codegeex.formats.tensors import LazyTensor, from_array


@given(st.data())
def test_cut_and_merged_is_the_whole(data):
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    ranks, axis = data.draw(st.integers(1, 4)), data.draw(st.integers(0, len(shape) - 1))
    shape[axis] *= ranks
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    parts = [{"x": shard(from_array(array), axis, rank, ranks)} for rank in range(ranks)]
    assert all(np.array_equal(p["x"].array(), s) for p, s in zip(parts, np.split(array, ranks, axis), strict=True))
    whole = merge(parts, {"x": axis}, ["here"] * ranks)["x"]
    assert whole.array().tobytes() == array.tobytes()
    window = tuple(slice(*sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))) for n in shape)
    assert np.array_equal(whole.window(window).array(), array[window])


def test_a_window_reads_only_the_ranks_it_meets():
    read = []

    def slice_of(rank):
        def load():
            read.append(rank)
            return np.full((2, 3), rank, np.float32)

        return {"x": LazyTensor("float32", (2, 3), load)}

    whole = merge([slice_of(rank) for rank in range(4)], {"x": 0}, list("abcd"))["x"]
    again = shard(whole, 0, 1, 4)
    assert not read and np.array_equal(again.array(), np.ones((2, 3)))
    assert sorted(read) == [0, 1, 1, 2, 3]  # the first time every rank's smallest tensor, to find copies
    read.clear()
    assert np.array_equal(again.array(), np.ones((2, 3))) and read == [1]


def ranks_of(bias, weight):
    """Ranks with these slices of a bias and of a weight."""
    return [{"bias": from_array(b), "weight": from_array(w)} for b, w in zip(bias, weight, strict=True)]


def test_a_copy_of_another_ranks_slices_is_found():
    zeros, weights = [np.zeros(2, np.float32)] * 3, list(np.arange(12, dtype=np.float32).reshape(3, 2, 2))
    axes = {"bias": 0, "weight": 0}
    whole = merge(ranks_of(zeros, weights), axes, "abc")  # equal biases are no copy
    assert np.array_equal(whole["weight"].array(), np.arange(12).reshape(6, 2))
    ones = [np.ones((2, 2), np.float32)] * 3  # nor is a network of constants
    assert merge(ranks_of(zeros, ones), axes, "abc")["weight"].array().sum() == 12
    copied = merge(ranks_of(zeros, [weights[0], weights[1], weights[0]]), axes, "abc")
    for name in axes:
        with pytest.raises(UserError, match="c: holds the same slices as a, so one of them is a copy of the other"):
            copied[name].window(tuple(slice(0, 1) for _ in copied[name].shape)).array()


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (np.ones(3, np.float16), r"b: tensor x is float16 \[3\], in a it is float32 \[3\]"),
        (np.ones(2, np.float32), r"b: tensor x is float32 \[2\]"),
        (np.array([1, 1, 2], np.float32), "b: tensor x differs from that in a"),
    ],
)
def test_copies_that_differ_are_named(second, message):
    with pytest.raises(UserError, match=message):
        merge([{"x": from_array(np.ones(3, np.float32))}, {"x": from_array(second)}], {"x": None}, "ab")["x"].array()


def test_one_rank_is_the_whole():
    tensor = from_array(np.ones(3))
    assert merge([{"x": tensor}], {}, ["a"])["x"] is tensor and shard(tensor, None, 1, 2) is tensor
