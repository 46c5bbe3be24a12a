"""Products with frozen matrices of 16, 8 and 4 bits, against NumPy in float64 on the rounded numbers."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from ms_codegeex.formats.rounding import halves, quantise
from ms_codegeex.kernels.compiling import library_path
from ms_codegeex.models import quantised
from ms_codegeex.models.compiled import CompiledHalfProduct
from ms_codegeex.models.layers import Linear, WidenedProduct
from ms_codegeex.models.quantised import hold_linear, quantise_linear

pytestmark = pytest.mark.usefixtures("graph_mode_throughout")


class Twice(nn.Cell):
    """Products of what is trained with two frozen matrices, [n, k] and [k, n]."""

    def __init__(self, bits, n, k, rows, library):
        super().__init__()
        self.start = ms.Parameter(Tensor(np.zeros((rows, k), np.float32)), name="start")
        self.up, self.down = (Linear(*size, 0.1, ms.float32, bias=False) for size in ((k, n), (n, k)))
        for linear in (self.up, self.down):
            hold_linear(linear, ms.float16, library) if bits == 16 else quantise_linear(linear, bits, library)

    def construct(self, factor):
        return (self.down(self.up(self.start)) * factor).sum()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("bits", [16, 8, 4])
def test_value_and_gradient_are_those_of_the_rounded_matrix(bits, compiled, monkeypatch):
    monkeypatch.setattr(quantised, "TILE", 2500)
    generator = np.random.default_rng(bits)
    library = str(library_path() or pytest.skip("no compiler")) if compiled else ""
    n, k, rows = 38, 132 if compiled else 131, 9  # a group that is not full; composed: an odd row of half bytes
    x, factor = (generator.normal(size=(rows, k)).astype(np.float32) for _ in range(2))
    cell, wide = Twice(bits, n, k, rows, library), []
    cell.start.set_data(Tensor(x))
    for linear in (cell.up, cell.down):
        given = generator.normal(size=linear.shape).astype(np.float32)
        if bits == 16:
            given[0, :3] = 6e-6, -5e-8, 65504  # the first two are not normal numbers
            linear.weight.set_data(Tensor(given.astype(np.float16)))
            wide.append(given.astype(np.float16).astype(np.float64))
            assert isinstance(linear.widened, CompiledHalfProduct if compiled else WidenedProduct)
            continue
        rounded = quantise(given, bits)
        linear.weight.set_data(Tensor(rounded.values if bits == 8 else halves(rounded.values)))
        linear.scales.set_data(Tensor(rounded.scales))
        scales = rounded.scales.astype(np.float64)
        scales = scales[:, None] if bits == 8 else scales.repeat(64, 1)[:, : linear.shape[1]]
        wide.append(rounded.values * scales)
    assert compiled or bits == 16 or cell.up.widened.heights == (19, 19)
    value, (gradient,) = ms.ops.value_and_grad(cell, None, [cell.start])(Tensor(factor))
    expected = factor @ wide[1] @ wide[0]
    np.testing.assert_allclose(value.asnumpy(), (x * expected).sum(), rtol=1e-5)
    assert np.abs(gradient.asnumpy() - expected).max() < 1e-6 * np.abs(expected).max()
