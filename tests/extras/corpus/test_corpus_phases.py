"""Files of phases: whole or not there, in parts that are ranges of keys."""

import io
import resource

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.corpus.phases import KeyedRows, by_range, save_array
from ms_codegeex.extras.corpus.selection import SUM

KEYS = st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([0, 2**32, 2**63, 2**64 - 1]), max_size=50)


@pytest.mark.parametrize(
    "array",
    [np.arange(7, dtype=np.int8), np.zeros(3, SUM), np.empty(0, SUM), np.ones((0, 2), np.int64), np.ones((2, 3)).T],
)
def test_arrays_as_numpy_saves_them(tmp_path, array):
    save_array(tmp_path / "array", array)
    expected = io.BytesIO()
    np.save(expected, np.ascontiguousarray(array))
    assert (tmp_path / "array").read_bytes() == expected.getvalue()


@pytest.mark.parametrize("room", [0, 100, 128, 500, 4096, 5000])
def test_an_array_without_its_end_is_not_kept(tmp_path, room):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(UserError, match=r"could not be written \(File too large\)"):
            save_array(tmp_path / "array", np.zeros(max(room - 127, 1), np.int8))  # a byte too much
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


@given(KEYS, st.integers(1, 2000))
def test_parts_are_ranges_of_keys(keys, parts):
    keys = np.sort(np.array(keys, np.uint64))
    found = by_range(keys, parts).tolist()
    assert found == [key * parts >> 64 for key in (keys >> np.uint64(32) << np.uint64(32)).tolist()]
    assert found == sorted(found) and all(0 <= part < parts for part in found)


def test_parts_are_about_as_large_as_each_other():
    keys = np.random.default_rng(3).integers(0, 2**64, 10_000, np.uint64)
    sizes = np.bincount(by_range(keys, 10), minlength=10)
    assert sizes.size == 10 and 800 < sizes.min() <= sizes.max() < 1200


def test_rows_are_read_by_part_in_the_order_of_the_files(tmp_path):
    kind, paths = np.dtype([("key", "<u8"), ("number", "<i8")]), [tmp_path / f"rows-00000{n}" for n in range(2)]
    keyed = KeyedRows(tmp_path, "rows", 2, kind, 3)
    generator, found, written = np.random.default_rng(5), [], []
    for start, path in zip((0, 20), paths, strict=True):
        rows = np.empty(20, kind)
        rows["key"], rows["number"] = generator.integers(0, 2**64, 20, np.uint64), np.arange(start, start + 20)
        keyed.write(path, rows)
        written += rows.tolist()
    for part in range(3):
        rows = keyed.read(part).tolist()
        assert rows == [row for row in written if row[0] * 3 >> 64 == part]
        found += rows
    assert sorted(found) == sorted(written)
    paths[1].write_bytes(paths[1].read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{paths[1]}: shorter than when it was written"):
        keyed.read(2)
