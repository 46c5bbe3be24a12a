"""Attention by the ends of documents computes what a mask does, in NumPy's float64.

FlashAttentionScore has no CPU kernel: the cell is tested around a stand-in that does what MindSpore and CANN document
of layout TND, so the kernel itself is untested on hardware.
"""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from twins import codegeex_numpy as twin

from ms_codegeex.models.causal import Build
from ms_codegeex.models.codegeex2.config import build_config
from ms_codegeex.models.documents import DocumentAttention, DocumentEnds
from ms_codegeex.models.fused import FusedAttention
from ms_codegeex.models.layers import AttentionCore, CausalMask, Dropout, Heads, RotaryTable

SEQ, EOS, ROWS = 12, 5, 3
OFF = Dropout(0.0, (1, 1), 0, 0)

pytestmark = pytest.mark.usefixtures("graph_mode")


@pytest.fixture
def ids():
    generator = np.random.default_rng(4)
    ids = generator.choice([1, 2, 3, EOS], (2 * ROWS, SEQ)).astype(np.int32)
    ids[0], ids[1], ids[2, -1] = 1, EOS, EOS  # no end, nothing but ends, an end at the end
    return ids


def ends_of(row, most):
    """By the rule as `DocumentEnds` states it, eos by eos."""
    ends = [i + 1 for i in range(SEQ) if row[i] == EOS or i == SEQ - 1]
    return ([*ends[: most - 1], SEQ] + [SEQ] * most)[:most]


@pytest.mark.parametrize("most", [SEQ, 4, 1])
def test_ends_and_positions_follow_the_rule_eos_by_eos(ids, most):
    ends, positions = DocumentEnds(SEQ, EOS, True, ROWS, most)(Tensor(ids))
    assert (ends.dtype, positions.dtype) == (ms.int64, ms.int32)
    expected = [[SEQ * (r % ROWS) + end for end in ends_of(row, most)] for r, row in enumerate(ids)]
    np.testing.assert_array_equal(ends.asnumpy().reshape(-1, most), expected)  # of two devices, each from its first row
    for row, found in zip(ids, positions.asnumpy(), strict=True):
        begins = [0, *ends_of(row, most)]
        assert found.tolist() == [i - max(x for x in begins if x <= i) for i in range(SEQ)]


@pytest.mark.parametrize("reset", [True, False])
def test_positions_are_those_beside_a_mask(ids, reset):
    found = DocumentEnds(SEQ, EOS, reset, ROWS, SEQ if reset else 1)(Tensor(ids))[1]
    np.testing.assert_array_equal(found.asnumpy(), CausalMask(SEQ, EOS, reset)(Tensor(ids))[1].asnumpy())


class DocumentedKernel(nn.Cell):
    """What is documented of FlashAttentionScore, for layout TND and sparse mode 3: FP16 tensors [T, N, D], a triangle
    of 2,048, and cumulated lengths, which may repeat; every document attends to itself up to each of its tokens."""

    def __init__(self, kernel):
        super().__init__()
        self.scale = kernel.scale_value

    def construct(self, query, key, value, real_shift, drop_mask, padding_mask, hidden, prefix, q_ends, kv_ends):
        if query.dtype != ms.float16 or hidden.dtype != ms.uint8 or hidden.shape != (2048, 2048):
            raise TypeError("FlashAttentionScore: float16 tensors and a uint8 triangle of 2,048 are documented")
        tokens, heads, _ = query.shape
        shared = heads // key.shape[1]
        q, k, v = (ops.cast(ops.transpose(x, (1, 0, 2)), ms.float32) for x in (query, key, value))
        k, v = ops.repeat_interleave(k, shared, 0), ops.repeat_interleave(v, shared, 0)
        places = ops.arange(tokens)
        q_document, kv_document = (
            (ops.cast(places.reshape(1, -1) >= ends.reshape(-1, 1), ms.int32)).sum(0) for ends in (q_ends, kv_ends)
        )
        same = q_document.reshape(-1, 1) == kv_document.reshape(1, -1)
        visible = ops.logical_and(same, places.reshape(-1, 1) >= places.reshape(1, -1))
        scores = self.scale * ops.matmul(q, ops.transpose(k, (0, 2, 1)))
        scores = ops.select(ops.broadcast_to(visible, scores.shape), scores, ops.full_like(scores, -1e30))
        context = ops.transpose(ops.matmul(ops.softmax(scores, -1), v), (1, 0, 2))
        return real_shift, drop_mask, padding_mask, ops.cast(context, ms.float16)


def with_stand_in(core):
    kernel = core.kernel
    assert kernel.input_layout == type(kernel)(1, input_layout="TND").input_layout
    assert (kernel.keep_prob, kernel.sparse_mode, kernel.next_tokens) == (1.0, 3, 0)
    assert kernel.head_num == core.heads.count and kernel.pre_tokens == SEQ
    del core.kernel
    core.kernel = DocumentedKernel(kernel)
    return core


def small_build(**options):
    return Build(seq_length=SEQ, dtype=ms.float16, micro_batch=ROWS, kernels=("attention",), **options)


@pytest.mark.parametrize(
    "heads,rotary,repeats,reset",
    [
        (Heads(2, 16, 2), False, False, True),
        (Heads(4, 16, 2), True, True, True),
        pytest.param(Heads(4, 16, 2), True, False, False, marks=pytest.mark.slow),  # another compilation
    ],
)
def test_attention_by_ends_is_attention_by_mask(ids, heads, rotary, repeats, reset):
    ids, generator = ids[:ROWS], np.random.default_rng(7)
    count, groups, d = heads.count, heads.groups, heads.size
    q, k, v = (generator.normal(0, 1.5, (ROWS * SEQ, n * d)).astype(np.float16) for n in (count, groups, groups))
    arguments = heads, ms.float16, ms.float32, OFF, rotary
    core = with_stand_in(DocumentAttention(SEQ, small_build().triangle, *arguments))
    core.repeats = repeats
    keys = Tensor(np.zeros(ROWS, np.int32))
    mask, positions = CausalMask(SEQ, EOS, reset)(Tensor(ids))
    ends, _ = DocumentEnds(SEQ, EOS, reset, ROWS, SEQ if reset else 1)(Tensor(ids))
    angles = RotaryTable(SEQ, d, d // 2)(positions) if rotary else ()
    found = core(*map(Tensor, (q, k, v)), ends, keys, *angles)
    assert found.dtype == ms.float16 and found.shape == q.shape
    if rotary:
        composed = AttentionCore(*arguments)(*map(Tensor, (q, k, v)), mask, keys, *angles)
        np.testing.assert_allclose(found.asnumpy(), composed.asnumpy(), atol=1e-2)
        return
    for r, row in enumerate(ids):  # in float64
        _, visible = twin.positions_and_visibility(row, EOS, reset)
        rows = slice(r * SEQ, (r + 1) * SEQ)
        for h in range(count):
            columns = slice(h * d, (h + 1) * d)
            x, y, z = (a[rows, columns].astype(np.float64) for a in (q, k, v))
            expected = twin.softmax(np.where(visible, x @ y.T / np.sqrt(d), -np.inf)) @ z
            np.testing.assert_allclose(found.asnumpy()[rows, columns], expected, atol=1e-2)


def test_a_build_chooses_both_cells_and_shares_their_triangle():
    config = build_config("tiny", {"num_layers": 2})
    build = small_build(documents=SEQ)
    first, second = (build.attention(config, site) for site in (1, 2))
    assert isinstance(first, DocumentAttention) and isinstance(build.mask(config), DocumentEnds)
    assert first.hidden is second.hidden and first.hidden.asnumpy().sum() == 2048 * 2047 // 2
    plain = small_build()
    assert type(plain.attention(config, 1)) is FusedAttention and isinstance(plain.mask(config), CausalMask)
