"""Q8_0 and Q4_0 are the bytes of the `gguf` package's `quantize`, from every type that a model is stored in."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import quantize

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.exchange.gguf_files import quantising
from ms_codegeex.formats.rounding import cast
from ms_codegeex.formats.tensors import from_array


def numbers():
    """Rows of ordinary numbers, and of those at which a rounding or a choice may go wrong."""
    draw = np.random.default_rng(3)
    rows = draw.normal(0, 0.02, (40, 256)).astype(np.float32)
    rows[3], rows[4] = 0, -0.0
    rows[5], rows[6] = [0.5, -0.5] * 128, [-0.5, 0.5] * 128  # of equal magnitudes the first counts
    rows[7] = draw.integers(-127, 128, 256) / 2  # halves
    rows[8] = np.arange(256) % 255 * 0.5 - 63.5
    rows[9] = np.round(rows[9] * 64) / 64
    rows[10] *= 1e-4
    rows[11, ::5] = 6e4
    rows[12] = np.nextafter(rows[7], np.float32(0))
    return rows


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_bytes_are_the_packages(monkeypatch, dtype, kind):
    monkeypatch.setattr(quantising, "_CACHED", 1 << 10)  # several parts, the last one smaller
    stored, kind = cast("x", from_array(numbers()[:39]), dtype), GGMLQuantizationType[kind]
    expected = quantize(stored.float32(), kind)
    before = stored.array().copy()
    found = quantising.quantised(stored.array(), dtype, kind)
    assert np.array_equal(found.reshape(expected.shape), expected)
    assert np.array_equal(stored.array(), before)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the package's own
def test_scales_without_an_inverse_are_the_packages_affair(kind):
    rows, kind = numbers() * np.float32(1e-38), GGMLQuantizationType[kind]
    assert np.array_equal(quantising.quantised(rows, "float32", kind), quantize(rows, kind).reshape(-1))


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_numbers_that_are_not_finite(dtype, kind, value):
    rows = numbers()
    rows[30, 77] = value
    with pytest.raises(UserError, match="not finite"):
        quantising.quantised(cast("x", from_array(rows), dtype).array(), dtype, GGMLQuantizationType[kind])
