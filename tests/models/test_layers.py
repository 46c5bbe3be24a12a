import math

import mindspore as ms
import numpy as np
import pytest
from conftest import engine_mode
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Tensor, nn
from twins import codegeex_numpy as twin

from ms_codegeex.models.layers import (
    AttentionCore,
    CausalMask,
    Dropout,
    FastGelu,
    Heads,
    LayerNorm,
    Linear,
    RMSNorm,
    Rotary,
    RotaryTable,
    SampleKeys,
    SwiGlu,
)

pytestmark = pytest.mark.usefixtures("pynative_mode_throughout")  # single layers


@pytest.fixture
def generator():
    return np.random.default_rng(3)


def array(cell, *inputs):
    return cell(*(Tensor(x) for x in inputs)).asnumpy()


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


def rms_norm(x, weight, epsilon):
    """In float64."""
    x = x.astype(np.float64)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * weight


@pytest.mark.parametrize("dtype,bits", [(ms.float32, 22), (ms.float16, 10), (ms.bfloat16, 7)])
def test_rms_norm_is_fp32_inside_for_every_dtype(generator, dtype, bits):
    x = (generator.normal(size=(40, 64)) * 300 + 400).astype(np.float32)  # squares overflow FP16
    layer, weight = RMSNorm(64, 1e-5, dtype), (1 + generator.normal(size=64) / 8).astype(np.float32)
    assert [p.name for p in layer.trainable_params()] == ["weight"]
    layer.weight.set_data(Tensor(weight))
    rounded = Tensor(x).astype(dtype)
    result = layer(rounded)
    assert result.dtype == dtype
    expected = rms_norm(rounded.astype(ms.float32).asnumpy(), weight, 1e-5)
    # nothing but the result itself is rounded: at most half a unit in its last place
    error = np.abs(result.astype(ms.float32).asnumpy() - expected) / 2.0 ** np.floor(np.log2(np.abs(expected)))
    assert error.max() < 2.0**-bits * (2.0 if dtype == ms.float32 else 0.51)


def test_rms_norm_epsilon_is_inside_the_root():
    x = np.full((1, 8), 1e-3, np.float32)
    np.testing.assert_allclose(array(RMSNorm(8, 1e-2, ms.float32), x), 1e-3 / np.sqrt(1e-6 + 1e-2), rtol=1e-5)


def test_swiglu_is_silu_of_the_first_times_the_second(generator):
    gate, up = (generator.normal(size=(7, 9)).astype(np.float32) * 5 for _ in range(2))
    expected = gate / (1 + np.exp(-gate.astype(np.float64))) * up
    np.testing.assert_allclose(array(SwiGlu(), gate, up), expected, rtol=2e-6, atol=1e-7)
    extreme = np.array([[-200.0, 200.0]], np.float32)
    np.testing.assert_allclose(array(SwiGlu(), extreme, np.ones_like(extreme)), [[0.0, 200.0]], atol=1e-6)


def turned(x, positions, channels):
    """Pairs (2i, 2i+1) of the first `channels` as complex numbers times e^(i·position·10000^(-2i/channels))."""
    x = x.astype(np.float64)
    angles = positions[:, None, :, None] * 10000.0 ** (-np.arange(0, channels, 2) / channels)
    pairs = (x[..., 0:channels:2] + 1j * x[..., 1:channels:2]) * np.exp(1j * angles)
    result = x.copy()
    result[..., 0:channels:2], result[..., 1:channels:2] = pairs.real, pairs.imag
    return result


@pytest.mark.parametrize("head,channels", [(8, 8), (8, 4), (10, 8), (16, 4), (2, 2), (9, 8), (5, 2), (3, 2)])
def test_rotary_turns_pairs_of_neighbours_on_the_first_channels(generator, head, channels):
    x = generator.normal(size=(2, 3, 5, head)).astype(np.float32)
    positions = generator.integers(0, 50, (2, 5)).astype(np.int32)
    table = RotaryTable(50, head, channels)
    cos, sin = table(Tensor(positions))
    assert cos.shape == sin.shape == (2, 1, 5, head)
    rotary = Rotary(ms.float32, head)
    result = rotary(Tensor(x), cos, sin).asnumpy()
    np.testing.assert_allclose(result, turned(x, positions, channels), atol=1e-5)
    np.testing.assert_array_equal(result[..., channels:], x[..., channels:])
    weights = generator.normal(size=x.shape).astype(np.float32)  # the gradient is turned back
    wanted = Tensor(weights)

    def total(x):
        return (rotary(x, cos, sin) * wanted).sum()

    gradient = ms.grad(total)(Tensor(x)).asnumpy()
    np.testing.assert_allclose(gradient, turned(weights, -positions, channels), atol=1e-5)


def test_rotary_works_in_fp32_and_rounds_its_result_only(generator):
    x = generator.normal(size=(1, 2, 4, 8)).astype(np.float16)
    positions = np.arange(4, dtype=np.int32)[None]
    cos, sin = RotaryTable(4, 8, 4)(Tensor(positions))
    expected = turned(x, positions, 4)
    for dtype, tolerance in ((ms.float32, 1e-6), (ms.float16, 2e-3)):
        result = Rotary(dtype, 8)(Tensor(x), cos, sin)
        assert result.dtype == dtype
        np.testing.assert_allclose(result.asnumpy(), expected, atol=tolerance)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_rotary_table_rounds_as_pytorch_does_in_that_dtype(precision):
    torch = pytest.importorskip("torch")
    kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    positions, channels = 8192, 64
    frequencies = (1.0 / 10000.0 ** (torch.arange(0, channels, 2, dtype=torch.float32) / channels)).to(kind)
    angles = torch.outer(torch.arange(positions).to(kind), frequencies)
    assert angles.dtype == kind
    wanted = [f(angles.double()).float().to(kind).float().numpy() for f in (torch.cos, torch.sin)]
    table, places = RotaryTable(positions, 128, channels, precision), np.arange(positions, dtype=np.int32)
    cos, sin = (t.asnumpy()[0, 0] for t in table(Tensor(places[None])))
    # fp32 frequencies may differ in their last bit, which position 8191 multiplies
    tolerance = 8192 * 2.0**-23 if precision == "fp32" else 0
    for even in (0, 1):
        np.testing.assert_allclose(cos[:, even:channels:2], wanted[0], atol=tolerance)
        np.testing.assert_allclose(sin[:, even:channels:2], wanted[1] * (1 if even else -1), atol=tolerance)
    assert (cos[:, channels:] == 1).all() and (sin[:, channels:] == 0).all()
    together = {"fp32": 8192, "fp16": 2049, "bf16": 257}[precision]  # the first position that has no angle of its own
    same = (cos[1:] == cos[:-1]).all(1) & (sin[1:] == sin[:-1]).all(1)
    assert (int(np.argmax(same)) + 1 if same.any() else positions) == together


MASKS = {reset: CausalMask(12, 5, reset) for reset in (True, False)}  # compiled once for all examples


@settings(max_examples=40)
@given(st.lists(st.lists(st.sampled_from([1, 2, 5]), min_size=12, max_size=12), min_size=2, max_size=2), st.booleans())
def test_mask_and_positions_follow_the_rule_eos_by_eos(rows, reset):
    ids = np.array(rows, np.int32)
    mask, positions = MASKS[reset](Tensor(ids))
    mask = np.broadcast_to(mask.asnumpy(), (2, 1, 12, 12))
    for row in range(2):
        expected_positions, visible = twin.positions_and_visibility(ids[row], 5, reset)
        np.testing.assert_array_equal(mask[row, 0], np.where(visible, 0.0, -10000.0))
        np.testing.assert_array_equal(positions.asnumpy()[row], expected_positions)


class Together(nn.Cell):
    """Layers in one graph, in which the engine may join or leave out casts: the result of each."""

    def __init__(self, layers):
        super().__init__(auto_prefix=False)
        self.layers = nn.CellList(list(layers))

    def construct(self, inputs):
        results = ()
        for i in range(len(self.layers)):
            results += (self.layers[i](*inputs[i]),)
        return results


def test_a_graph_computes_what_the_operators_do_one_by_one(generator):
    """The tests above, which take them one by one, are thus about the graphs of a run too."""
    big = Tensor((generator.normal(size=(40, 64)) * 300 + 1000).astype(np.float32))  # squares overflow FP16
    kinds, positions = (ms.float32, ms.float16, ms.bfloat16), Tensor(np.array([[0, 1, 0, 2]], np.int32))
    cos, sin = RotaryTable(4, 8, 4)(positions)
    heads = Tensor(generator.normal(size=(1, 2, 4, 8)).astype(np.float16))
    rows = [Tensor(generator.normal(size=(4, 16)).astype(np.float16) * 120) for _ in range(3)]
    mask, samples = Tensor(np.where(np.tril(np.ones((4, 4))), 0, -10000.0).astype(np.float32)), Tensor([1], ms.int32)
    ids, off = Tensor(np.array([[1, 5, 2, 5, 5, 1]], np.int32)), Dropout(0.0, (1, 1), 0, 0)
    core = AttentionCore(Heads(2, 8, 2), ms.float16, ms.float32, off, rotary=True)
    parts = [
        *((LayerNorm(64, 1e-5, dtype), (big.astype(dtype),)) for dtype in kinds),
        *((RMSNorm(64, 1e-5, dtype), (big.astype(dtype),)) for dtype in kinds),
        *((Linear(64, 8, 0.01, dtype), (big.astype(dtype),)) for dtype in kinds[:2]),
        (FastGelu(), (rows[0],)),
        (SwiGlu(), (rows[0], rows[1])),
        *((Rotary(dtype, 8), (heads, cos, sin)) for dtype in (ms.float32, ms.float16)),
        (core, (*rows, mask, samples, cos, sin)),
        *((CausalMask(6, 5, reset), (ids,)) for reset in (True, False)),
        (SampleKeys(), (Tensor([6, 2**31 - 1], ms.int32),)),
    ]
    layers, inputs = zip(*parts, strict=True)
    expected = [layer(*given_) for layer, given_ in parts]
    assert np.isfinite(expected[layers.index(core)].asnumpy()).all()  # the plain product q·k would overflow FP16
    with engine_mode("graph"):
        found = Together(layers)(inputs)
    for layer, a, b in zip(layers, found, expected, strict=True):
        for one, other in zip(*((x,) if isinstance(x, Tensor) else x for x in (a, b)), strict=True):
            assert one.dtype == other.dtype
            narrow, unit = one.dtype in kinds[1:], {ms.float16: 2.0**-10, ms.bfloat16: 2.0**-7}.get(one.dtype, 2.0**-20)
            one, other = (x.astype(ms.float32).asnumpy() for x in (one, other))
            name = type(layer).__name__
            np.testing.assert_allclose(one, other, rtol=0, atol=unit * np.abs(other).max(), err_msg=name)
            if narrow:  # a sum in another order may move a rounding; sums in 16 bits would move many
                assert (one != other).mean() < 0.03, name


class TestDropout:
    SHAPE = (200, 250)

    def dropped(self, probability=0.3, site=1, seed=5, samples=(0, 1), train=True, shape=SHAPE, folded=False):
        """[samples, *shape], also of an activation with samples and rows in one axis"""
        cell, keys = Dropout(probability, shape, site, seed), SampleKeys()
        cell.set_train(train)
        given = (len(samples) * shape[0], *shape[1:]) if folded else (len(samples), *shape)
        y = cell(Tensor(np.ones(given, np.float32)), keys(Tensor(np.array(samples, np.int32))))
        return y.asnumpy().reshape(len(samples), *shape)

    def test_share_and_scale(self):
        y = self.dropped()
        assert (y == 0).mean() == pytest.approx(0.3, abs=0.01)
        np.testing.assert_allclose(y[y != 0], 1 / 0.7, rtol=1e-6)

    @pytest.mark.parametrize("samples", [(0, 1), (7, 7 + 2**30), (1000, 1002)])
    def test_samples_and_neighbours_are_independent(self, samples):
        y = self.dropped(samples=samples) == 0
        assert (y[0] & y[1]).mean() == pytest.approx(0.09, abs=0.01)
        assert (y[0, 1:] & y[0, :-1]).mean() == pytest.approx(0.09, abs=0.01)
        assert (y[0, :, 1:] & y[0, :, :-1]).mean() == pytest.approx(0.09, abs=0.01)

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_shares_of_rows_columns_and_samples_spread_as_independent_elements_do(self, axis):
        y = self.dropped(samples=range(60), shape=(64, 80)) == 0
        shares = y.mean(tuple(i for i in range(3) if i != axis))
        expected = math.sqrt(0.3 * 0.7 / (y.size / y.shape[axis]))
        assert shares.std() == pytest.approx(expected, rel=0.3) and abs(shares.mean() - 0.3) < 0.005

    def test_no_two_rows_or_columns_are_alike(self):
        y = (self.dropped(samples=(3,), shape=(512, 512)) == 0)[0].astype(np.float64) - 0.3
        for lines in (y, y.T):
            correlation = lines @ lines.T / (0.21 * 512)
            assert np.abs(correlation - np.diag(np.diag(correlation))).max() < 7 / math.sqrt(512)

    def test_the_batch_may_be_folded_into_the_rows(self):
        np.testing.assert_array_equal(self.dropped(folded=True), self.dropped())

    @pytest.mark.parametrize("mode", ["pynative", "graph"])
    def test_is_the_documented_function(self, mode):
        """In NumPy, with unsigned arithmetic that wraps around."""
        seed, site, shape, samples = 11, 4, (3, 5, 7), np.array([6, 2**31 - 1], np.uint32)
        raw = (np.random.PCG64([seed, site]).random_raw(15) >> np.uint64(32)).astype(np.uint32)
        heads, rows, columns = np.split(raw, [3, 8])
        key = samples * np.uint32(0x27D4EB2F)
        for _ in range(2):
            for bits, factor in ((15, 0x2C1B3C6D), (12, 0x297A2D39)):
                key = (key ^ (key.view(np.int32) >> bits).view(np.uint32)) * np.uint32(factor)
        odd = (key | 1)[:, None, None] ^ (heads & ~np.uint32(1))[:, None] ^ (rows & ~np.uint32(1))
        h = (odd[..., None] * (columns | 1)).view(np.int32)
        expected = np.where(h < int(0.3 * 2**32) - 2**31, 0.0, 1 / 0.7)
        with engine_mode(mode):
            found = self.dropped(seed=seed, site=site, shape=shape, samples=samples.astype(np.int32))
        np.testing.assert_allclose(found, expected, rtol=1e-6)

    def test_off_outside_training_and_at_zero(self):
        assert (self.dropped(train=False) == 1).all()
        assert (self.dropped(probability=0.0) == 1).all()
