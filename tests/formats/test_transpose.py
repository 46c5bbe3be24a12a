"""The fast transpose against NumPy's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_codegeex.formats.layout import transposed
from ms_codegeex.formats.tensors import NUMPY_DTYPES


@settings(max_examples=100)
@given(st.sampled_from(sorted(NUMPY_DTYPES)), st.integers(0, 200), st.integers(0, 9))
def test_it_is_the_transpose(dtype, rows, columns):
    kind = NUMPY_DTYPES[dtype]
    data = np.random.default_rng(rows).integers(
        0, 2 if dtype == "bool" else 256, rows * columns * kind.itemsize, np.uint8
    )
    array = data.view(kind).reshape(rows, columns)
    result = transposed(array)
    assert result.dtype == kind and result.shape == (columns, rows) and result.flags.c_contiguous
    assert result.tobytes() == array.T.tobytes()


@pytest.mark.parametrize("kind", ["view", "columns", "unaligned", "read-only"])
def test_of_what_a_file_gives(kind):
    array = np.arange(64 * 12, dtype=np.float32).reshape(64, 12)
    if kind == "view":
        array = array.T
    elif kind == "columns":
        array = array[:, ::2]
    elif kind == "unaligned":
        array = np.frombuffer(b"x" + array.tobytes(), np.uint8)[1:].view(np.float32).reshape(64, 12)
    else:
        array.flags.writeable = False
    result = transposed(array)
    assert result.tobytes() == array.T.tobytes() and not np.shares_memory(result, array)
