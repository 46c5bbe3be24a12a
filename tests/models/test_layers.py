import mindspore as ms
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Tensor
from twins import codegeex_numpy as twin

from ms_codegeex.models.layers import AttentionCore, CausalMask, Dropout, Embedding, FastGelu, Heads, LayerNorm, Linear


@pytest.fixture
def generator():
    return np.random.default_rng(3)


def array(cell, *inputs):
    return cell(*(Tensor(x) for x in inputs)).asnumpy()


def test_linear_is_x_times_weight_transposed_plus_bias(generator):
    layer, x = Linear(5, 3, 0.5, ms.float32), generator.normal(size=(4, 5)).astype(np.float32)
    layer.bias.set_data(Tensor(np.array([1, 2, 3], np.float32)))
    np.testing.assert_allclose(array(layer, x), x @ layer.weight.asnumpy().T + [1, 2, 3], rtol=1e-5, atol=1e-6)


def test_linear_initial_standard_deviation():
    weight = Linear(400, 500, 0.01, ms.float32).weight.asnumpy()
    assert weight.std() == pytest.approx(0.01, rel=0.02)
    assert abs(weight.mean()) < 1e-4


@pytest.mark.parametrize("dtype,tolerance", [(ms.float32, 1e-5), (ms.float16, 2e-3)])
def test_layer_norm_in_fp32_even_for_fp16_input(generator, dtype, tolerance):
    x = (generator.normal(size=(6, 64)) * 300 + 1000).astype(np.float32)  # squares overflow FP16
    layer = LayerNorm(64, 1e-5, dtype)
    gamma, beta = generator.normal(size=64).astype(np.float32), generator.normal(size=64).astype(np.float32)
    layer.weight.set_data(Tensor(gamma))
    layer.bias.set_data(Tensor(beta))
    given_x = Tensor(x).astype(dtype)
    result = layer(given_x)
    assert result.dtype == dtype
    expected = twin.layer_norm(given_x.asnumpy().astype(np.float64), gamma, beta, 1e-5)
    np.testing.assert_allclose(result.asnumpy().astype(np.float64), expected, atol=tolerance * 10)


def test_fast_gelu_is_the_two_exponential_form():
    x = np.linspace(-20, 20, 1001).astype(np.float32)
    np.testing.assert_allclose(array(FastGelu(), x), twin.fast_gelu(x.astype(np.float64)), atol=2e-6)


def test_embedding_picks_rows():
    table = Embedding(7, 4, 1.0)
    np.testing.assert_array_equal(array(table, np.array([[3, 0]], np.int32)), table.weight.asnumpy()[[[3, 0]]])


MASKS = {reset: CausalMask(12, 5, reset) for reset in (True, False)}  # compiled once for all examples


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from([1, 2, 5]), min_size=12, max_size=12), min_size=2, max_size=2), st.booleans())
def test_mask_and_positions_follow_the_rule_eos_by_eos(rows, reset):
    ids = np.array(rows, np.int32)
    mask, positions = MASKS[reset](Tensor(ids))
    mask = np.broadcast_to(mask.asnumpy(), (2, 1, 12, 12))
    for row in range(2):
        expected_positions, visible = twin.positions_and_visibility(ids[row], 5, reset)
        np.testing.assert_array_equal(mask[row, 0], np.where(visible, 0.0, -10000.0))
        np.testing.assert_array_equal(positions.asnumpy()[row], expected_positions)


def test_attention_core_equals_the_formula_and_fp16_stays_finite(generator):
    batch, n, heads, d = 2, 6, 3, 4
    q, k, v = (generator.normal(size=(batch * n, heads * d)).astype(np.float32) * 3 for _ in range(3))
    mask = np.where(np.tril(np.ones((n, n))), 0, -10000.0).astype(np.float32)[None, None]
    expected = np.empty((batch * n, heads * d))
    for b in range(batch):
        rows = slice(b * n, (b + 1) * n)
        for h in range(heads):
            columns = slice(h * d, (h + 1) * d)
            scores = q[rows, columns].astype(np.float64) @ k[rows, columns].T / np.sqrt(d) + mask[0, 0]
            expected[rows, columns] = twin.softmax(scores) @ v[rows, columns]
    samples = np.zeros(batch, np.int32)
    off = Dropout(0.0, heads * n * n, 0, 0)
    core = AttentionCore(Heads(heads, d, heads), ms.float32, ms.float32, off)
    np.testing.assert_allclose(array(core, q, k, v, mask, samples), expected, atol=1e-5)
    half = AttentionCore(Heads(heads, d, heads), ms.float16, ms.float32, off)
    big = [(x * 40).astype(np.float16) for x in (q, k, v)]  # the plain product q·k would overflow FP16
    assert np.isfinite(array(half, *big, mask, samples)).all()


class TestDropout:
    ELEMENTS = 40_000

    def dropped(self, probability=0.3, site=1, seed=5, samples=(0, 1), train=True):
        cell = Dropout(probability, self.ELEMENTS, site, seed)
        cell.set_train(train)
        return array(cell, np.ones((len(samples), self.ELEMENTS), np.float32), np.array(samples, np.int32))

    def test_share_and_scale(self):
        y = self.dropped()
        assert (y == 0).mean() == pytest.approx(0.3, abs=0.01)
        np.testing.assert_allclose(y[y != 0], 1 / 0.7, rtol=1e-6)

    def test_is_a_function_of_seed_site_and_sample_only(self):
        y = self.dropped(samples=(8, 9))
        np.testing.assert_array_equal(y, self.dropped(samples=(8, 9)))
        np.testing.assert_array_equal(y[1], self.dropped(samples=(9, 3))[0])

    @pytest.mark.parametrize("change", [{"site": 2}, {"seed": 6}, {"samples": (2, 3)}])
    def test_masks_are_independent(self, change):
        a, b = self.dropped() == 0, self.dropped(**change) == 0
        assert (a & b).mean() == pytest.approx(0.09, abs=0.01)  # independent: 0.3²

    def test_samples_and_neighbours_are_independent(self):
        y = self.dropped() == 0
        assert (y[0] & y[1]).mean() == pytest.approx(0.09, abs=0.01)
        assert (y[0, 1:] & y[0, :-1]).mean() == pytest.approx(0.09, abs=0.01)

    def test_off_outside_training_and_at_zero(self):
        assert (self.dropped(train=False) == 1).all()
        assert (self.dropped(probability=0.0) == 1).all()
