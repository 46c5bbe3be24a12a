"""Fused cells and their composite twins follow one NumPy formula in float64.

FlashAttentionScore has no CPU kernel: its cell is tested around a stand-in that does what MindSpore documents, so the
kernel itself is untested on hardware.
"""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from networks import Gradients
from twins import codegeex_numpy as twin

from ms_codegeex.models.causal import Build
from ms_codegeex.models.codegeex.config import CodeGeeXConfig
from ms_codegeex.models.codegeex.model import Loss
from ms_codegeex.models.fused import FusedAttention, FusedDropout, FusedLayerNorm
from ms_codegeex.models.layers import AttentionCore, CausalMask, Dropout, DropoutBits, Heads, LayerNorm, SampleKeys

SMALL = CodeGeeXConfig(
    vocab_size=40, hidden_size=32, num_layers=1, num_heads=2, intermediate_size=48, max_position_embeddings=16
)
OFF = {AttentionCore: Dropout(0.0, (1, 1), 0, 0), FusedAttention: DropoutBits(0.0, (1, 1), 0, 0)}
pytestmark = pytest.mark.usefixtures("graph_mode")  # PyNative mode neither recomputes nor joins two forward passes


@pytest.fixture
def generator():
    return np.random.default_rng(4)


@pytest.mark.parametrize("dtype,tolerance", [(ms.float32, 2e-5), (ms.float16, 4e-3)])
@pytest.mark.parametrize("kind", [LayerNorm, FusedLayerNorm])
def test_layer_norm_and_its_gradient(generator, kind, dtype, tolerance):
    rows, width, epsilon = 6, 48, 1e-2  # an epsilon that shows
    given = Tensor(generator.normal(3, 0.3, (rows, width)).astype(np.float32)).astype(dtype)
    gamma, beta = (generator.normal(size=width).astype(np.float32) for _ in range(2))
    backward = Tensor(generator.normal(size=(rows, width)).astype(np.float32)).astype(dtype)
    cell = kind(width, epsilon, dtype)
    assert [p.name for p in cell.trainable_params()] == ["weight", "bias"]
    cell.weight.set_data(Tensor(gamma))
    cell.bias.set_data(Tensor(beta))
    output, ((to_x,), (to_gamma, to_beta)) = Gradients(cell)(given, backward)
    assert output.dtype == to_x.dtype == dtype and to_gamma.dtype == ms.float32

    x, g = given.asnumpy().astype(np.float64), backward.asnumpy().astype(np.float64)
    inverse_std = 1 / np.sqrt(x.var(-1, keepdims=True) + epsilon)
    centred = (x - x.mean(-1, keepdims=True)) * inverse_std
    scaled = g * gamma
    expected = inverse_std * (
        scaled - scaled.mean(-1, keepdims=True) - centred * (scaled * centred).mean(-1, keepdims=True)
    )
    np.testing.assert_allclose(output.asnumpy(), twin.layer_norm(x, gamma, beta, epsilon), atol=tolerance, rtol=1e-3)
    np.testing.assert_allclose(to_x.asnumpy(), expected, atol=5 * tolerance, rtol=1e-3)
    np.testing.assert_allclose(to_gamma.asnumpy(), (g * centred).sum(0), atol=tolerance)
    np.testing.assert_allclose(to_beta.asnumpy(), g.sum(0), atol=tolerance)


class DocumentedAttention(nn.Cell):
    """What MindSpore documents of FlashAttentionScore, for layout BNSD and the inputs that we give: FP16 tensors
    [B, N, S, D], a uint8 mask [B, 1, S, S] or [S, S] whose ones are discarded, as is what lies beyond `next_tokens`;
    the fourth of its results. A drop mask is uint8 [B, N, S, S / 8]: a bit for each weight, 1 where it is kept."""

    def __init__(self, scale: float, next_tokens: int, keep: float = 1.0):
        super().__init__()
        self.next_tokens, self.keep = next_tokens, keep
        self.scale, self.scores, self.context = scale, ops.BatchMatMul(transpose_b=True), ops.BatchMatMul()

    def construct(self, query, key, value, real_shift, drop_mask, padding_mask, attn_mask):
        if query.dtype != ms.float16 or attn_mask.dtype != ms.uint8:
            raise TypeError("FlashAttentionScore: float16 tensors and a uint8 mask are documented")
        batch, _, seq, _ = query.shape
        if attn_mask.shape not in ((batch, 1, seq, seq), (seq, seq)):
            raise ValueError("FlashAttentionScore: the mask's shape is not documented")
        scores = self.scale * self.scores(ops.cast(query, ms.float32), ops.cast(key, ms.float32))
        scores = ops.select(ops.broadcast_to(attn_mask == 1, scores.shape), ops.full_like(scores, -1e30), scores)
        skipped = ops.arange(seq).reshape(1, -1) > ops.arange(seq).reshape(-1, 1) + self.next_tokens
        scores = ops.select(ops.broadcast_to(skipped, scores.shape), ops.full_like(scores, -1e30), scores)
        weights = ops.softmax(scores, -1)
        if drop_mask is not None:
            bits = ops.cast(ops.expand_dims(drop_mask, -1), ms.int32) // Tensor(2 ** np.arange(8, dtype=np.int32)) % 2
            weights = weights * ops.cast(ops.reshape(bits, weights.shape), ms.float32) / self.keep
        context = self.context(weights, ops.cast(value, ms.float32))
        return real_shift, drop_mask, padding_mask, ops.cast(context, ms.float16)


def with_stand_in(core: FusedAttention) -> FusedAttention:
    """The cell with a kernel that a CPU has, set up as its own."""
    kernel = core.kernel
    assert kernel.input_layout == type(kernel)(1, input_layout="BNSD").input_layout
    assert (kernel.head_num, kernel.keep_prob, kernel.sparse_mode) == (2, 1.0, 0)
    assert kernel.next_tokens == 0 and kernel.pre_tokens == 2**31 - 1  # CANN then skips the tiles after the diagonal
    del core.kernel
    core.kernel = DocumentedAttention(kernel.scale_value, kernel.next_tokens)
    if core.drops:
        keep = core.dropping.keep_prob
        del core.dropping
        core.dropping = DocumentedAttention(kernel.scale_value, kernel.next_tokens, keep)
    return core


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("kind", [AttentionCore, FusedAttention])
def test_attention(generator, kind, reset):
    batch, n, heads, d, eos = 3, 12, 2, 16, 5
    q, k, v = (generator.normal(0, 1.5, (batch * n, heads * d)).astype(np.float16) for _ in range(3))
    ids = generator.choice([1, 2, eos], (batch, n)).astype(np.int32)
    core = kind(Heads(heads, d, heads), ms.float16, ms.float32, OFF[kind])
    if kind is FusedAttention:
        core = with_stand_in(core)
    mask, _ = CausalMask(n, eos, reset)(Tensor(ids))
    result = core(*map(Tensor, (q, k, v)), mask, Tensor(np.zeros(batch, np.int32)))
    assert result.dtype == ms.float16
    expected = np.empty((batch * n, heads * d))
    for b in range(batch):
        _, visible = twin.positions_and_visibility(ids[b], eos, reset)
        rows = slice(b * n, (b + 1) * n)
        for h in range(heads):
            columns = slice(h * d, (h + 1) * d)
            x, y, z = (a[rows, columns].astype(np.float64) for a in (q, k, v))
            expected[rows, columns] = twin.softmax(np.where(visible, x @ y.T / np.sqrt(d), -np.inf)) @ z
    np.testing.assert_allclose(result.asnumpy(), expected, atol=1e-2)


def test_the_bits_are_those_of_the_mask():
    settings = 0.3, (4, 16, 32), 5, 7
    keys = SampleKeys()(Tensor([0, 5, 2**31 - 1], ms.int32))
    kept = Dropout(*settings).kept(Tensor(np.ones((3, 4, 16, 32), np.float32)), keys).asnumpy()
    bits = DropoutBits(*settings)(keys).asnumpy()
    assert bits.dtype == np.uint8 and bits.shape == (3, 4, 16, 4) and 0 < kept.mean() < 1
    np.testing.assert_array_equal(np.unpackbits(bits, axis=-1, bitorder="little"), kept)


def test_fused_attention_drops_the_weights_that_composed_attention_drops(generator):
    """In training, with a rate of its own, and none when it evaluates."""
    batch, n, heads, d = 3, 16, Heads(2, 16, 2), 16
    q, k, v = (Tensor(generator.normal(0, 1.5, (batch * n, 2 * d)).astype(np.float16)) for _ in range(3))
    mask, _ = CausalMask(n, 5, True)(Tensor(generator.choice([1, 2, 5], (batch, n)).astype(np.int32)))
    keys, settings = SampleKeys()(Tensor([0, 7, 9], ms.int32)), (0.4, (2, n, n), 3, 11)
    composed = AttentionCore(heads, ms.float16, ms.float32, Dropout(*settings))
    fused = with_stand_in(FusedAttention(heads, ms.float16, ms.float32, DropoutBits(*settings)))
    results = {}
    for train in (True, False):
        results[train] = [cell.set_train(train)(q, k, v, mask, keys).asnumpy() for cell in (composed, fused)]
        np.testing.assert_allclose(*results[train], atol=1e-2)
    assert np.abs(results[True][0] - results[False][0]).max() > 0.1


def test_attention_and_hidden_states_have_rates_of_their_own():
    build = Build(seq_length=8, dropout=0.0, attention_dropout=0.2)
    assert build.attention(SMALL, 1).dropout.active and not build.drop(8, 2).active
    build = Build(seq_length=8, dropout=0.2)
    assert build.drop(8, 2).active and not build.attention(SMALL, 1).dropout.active


class TestFusedDropout:
    SHAPE = (200, 500)

    def dropped(self, probability=0.3, site=1, seed=5, train=True, calls=1):
        cell = FusedDropout(probability, self.SHAPE, site, seed)
        cell.set_train(train)
        x, samples = Tensor(np.ones(self.SHAPE, np.float32)), Tensor(np.zeros(1, np.int32))
        return [cell(x, samples).asnumpy() for _ in range(calls)]

    def test_keeps_the_expectation(self):
        (y,) = self.dropped()
        assert (y == 0).mean() == pytest.approx(0.3, abs=0.01)
        np.testing.assert_allclose(y[y != 0], 1 / 0.7, rtol=1e-6)

    def test_off_outside_training_and_at_zero(self):
        assert (self.dropped(train=False)[0] == 1).all()
        assert (self.dropped(probability=0.0)[0] == 1).all()

    def test_the_seed_alone_decides_the_series_of_masks(self):
        for first, second in zip(self.dropped(calls=2), self.dropped(calls=2), strict=True):
            np.testing.assert_array_equal(first, second)

    def test_the_first_seed_alone_tells_places_and_runs_apart(self):
        pairs = [(site, seed) for site in range(100) for seed in (0, 1, 1234, 2**32 - 1)]
        seeds = {FusedDropout(0.1, self.SHAPE, site, seed).kernel.Seed0 for site, seed in pairs}
        assert len(seeds) == len(pairs) and min(seeds) > 0


def test_each_kernel_is_chosen_by_its_own_name():
    cells = {"attention": FusedAttention, "norm": FusedLayerNorm, "dropout": FusedDropout}
    for chosen in ((), *((name,) for name in cells)):
        build = Build(seq_length=4, kernels=chosen)
        made = {"attention": build.attention(SMALL, 1), "norm": build.norm(SMALL), "dropout": build.drop(8, 2)}
        for name, cell in made.items():
            assert isinstance(cell, cells[name]) == (name in chosen)
            assert isinstance(cell, (AttentionCore, LayerNorm, Dropout, FusedDropout))


def test_a_model_of_fused_cells_has_the_same_parameters_and_loss(generator):
    ids = generator.integers(0, SMALL.vocab_size, (2, 13)).astype(np.int32)
    batch = [ids[:, :-1], ids[:, 1:], np.ones((2, 12), np.float32), np.arange(2, dtype=np.int32)]
    plain = Loss(SMALL, Build(seq_length=12))
    shapes = {p.name: p.shape for p in plain.get_parameters()}
    fused = Loss(SMALL, Build(seq_length=12, kernels=("attention", "norm", "dropout")))
    assert {p.name: p.shape for p in fused.get_parameters()} == shapes
    blocks = (fused.model.blocks[0], fused.model.top_query_layer)
    assert all(isinstance(block.attention.core, FusedAttention) for block in blocks)
    assert isinstance(fused.model.final_norm, FusedLayerNorm)
    assert isinstance(fused.model.embedding.dropout, FusedDropout)

    fused = Loss(SMALL, Build(seq_length=12, kernels=("norm",)))
    ms.load_param_into_net(fused, plain.parameters_dict(), strict_load=True)
    batch = [Tensor(np.ascontiguousarray(a)) for a in batch]
    np.testing.assert_allclose(fused(*batch).asnumpy(), plain(*batch).asnumpy(), rtol=1e-6)
