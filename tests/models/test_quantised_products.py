"""Products with frozen matrices of 8 and 4 bits, against NumPy in float64 on the rounded numbers."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from ms_codegeex.formats.rounded import halves, quantise
from ms_codegeex.kernels.compiling import library_path
from ms_codegeex.models import quantised
from ms_codegeex.models.layers import Linear
from ms_codegeex.models.quantised import quantise_linear

pytestmark = pytest.mark.usefixtures("graph_mode_throughout")


class Once(nn.Cell):
    """A product of what is trained with a frozen matrix."""

    def __init__(self, bits, n, k, rows, library):
        super().__init__()
        self.start = ms.Parameter(Tensor(np.zeros((rows, k), np.float32)), name="start")
        self.linear = Linear(k, n, 0.1, ms.float32, bias=False)
        quantise_linear(self.linear, bits, library)

    def construct(self, factor):
        return (self.linear(self.start) * factor).sum()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("bits", [8, 4])
def test_value_and_gradient_are_those_of_the_rounded_matrix(bits, compiled, monkeypatch):
    monkeypatch.setattr(quantised, "TILE", 2000)  # three tiles
    generator = np.random.default_rng(bits)
    n, k, rows = 37, 131, 9  # an odd row of half bytes, and a group that is not full
    rounded = quantise(generator.normal(size=(n, k)).astype(np.float32), bits)
    x, factor = (generator.normal(size=shape).astype(np.float32) for shape in ((rows, k), (rows, n)))
    library = str(library_path() or pytest.skip("no compiler")) if compiled else ""
    cell = Once(bits, n, k, rows, library)
    cell.start.set_data(Tensor(x))
    cell.linear.weight.set_data(Tensor(rounded.values if bits == 8 else halves(rounded.values)))
    cell.linear.scales.set_data(Tensor(rounded.scales))
    assert compiled or cell.linear.widened.heights == (15, 15, 7)
    value, (gradient,) = ms.ops.value_and_grad(cell, None, [cell.start])(Tensor(factor))
    wide = rounded.values.astype(np.float64)
    wide *= rounded.scales[:, None] if bits == 8 else rounded.scales.repeat(64, 1)[:, :k].astype(np.float64)
    np.testing.assert_allclose(value.asnumpy(), (x @ wide.T * factor).sum(), rtol=1e-5)
    np.testing.assert_allclose(gradient.asnumpy(), factor @ wide, rtol=1e-5, atol=1e-5)
