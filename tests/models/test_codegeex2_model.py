"""CodeGeeX2 against a PyTorch model written from its formulas, on narrow models with the real layout of heads."""

from dataclasses import replace
from resource import RUSAGE_SELF, getrusage

import mindspore as ms
import numpy as np
import psutil
import pytest
from mindspore import Tensor

from ms_codegeex.generation.choice import TokenChoice
from ms_codegeex.models.codegeex2.config import build_config
from ms_codegeex.models.codegeex2.model import Logits, Loss

torch = pytest.importorskip("torch")

from twins.peers import peer  # noqa: E402
from twins.tiny_models import Twin, prompt  # noqa: E402

EOS, LAYERS = 2, 2
# 32 heads in 2 groups and half of a head's channels turned, as released
SIZES = {"vocab_size": 120, "hidden_size": 32 * 8, "num_layers": LAYERS, "num_heads": 32, "num_kv_groups": 2}
SIZES |= {"intermediate_size": 96, "rotary_dim": 4, "eos_token_id": EOS}
REAL = build_config("6b", SIZES | {"max_position_embeddings": 64})
CODEGEEX4 = build_config("codegeex4-9b", SIZES | {"max_position_embeddings": 100})
NARROW = replace(REAL, hidden_size=32, num_layers=1, num_heads=2, num_kv_groups=1, rotary_dim=8, intermediate_size=40)
pytestmark = pytest.mark.usefixtures("graph_mode")


@pytest.mark.parametrize(
    "name,config,seq_length,reset,limit",
    [
        ("codegeex2", REAL, 24, True, 1e-5),
        pytest.param("codegeex2", REAL, 64, False, 1e-5, marks=pytest.mark.slow),
        ("codegeex2", replace(REAL, num_kv_groups=8, num_layers=1), 9, False, 1e-5),
        ("glm", CODEGEEX4, 96, False, 2e-5),
    ],
    ids=["6b", "6b, long", "other groups", "codegeex4"],
)
def test_logits_of_every_position_equal_the_twins(name, config, seq_length, reset, limit):
    assert peer(name, config).error(Logits, seq_length, reset) <= limit


def late_logits(config, positions, precision=torch.float32):
    """Logits at some positions of a text as long as the context: ours, the twin's."""
    model, seq_length = peer("codegeex2", config, precision=precision), config.max_position_embeddings
    ids = np.random.default_rng(3).integers(3, config.vocab_size, (1, seq_length)).astype(np.int32)
    network = model.network(Logits, seq_length, reset_at_eos=False)
    found = [network(Tensor(ids), Tensor([p], ms.int32)).asnumpy()[0] for p in positions]
    return np.stack(found), model.logits(ids)[0, positions]


@pytest.mark.slow
def test_positions_above_2048_are_right():
    found, expected = late_logits(replace(NARROW, max_position_embeddings=3000), [0, 2047, 2048, 2999])
    assert np.abs(found - expected).max() <= 1e-5


@pytest.mark.slow
def test_8192_tokens():
    before, peak = psutil.Process().memory_info().rss, getrusage(RUSAGE_SELF).ru_maxrss * 1024
    config = replace(NARROW, hidden_size=16, num_heads=1, max_position_embeddings=8192)
    found, expected = late_logits(config, [0, 2049, 8000, 8191])
    assert np.abs(found - expected).max() <= 1e-5
    assert getrusage(RUSAGE_SELF).ru_maxrss * 1024 < max(peak, before + 4e9)  # ours and the twin's


@pytest.mark.slow
def test_the_angles_may_be_rounded_as_the_release_does():
    positions, config = [0, 255, 400, 699], replace(NARROW, max_position_embeddings=700, rotary_dtype="bf16")
    found, expected = late_logits(config, positions, torch.bfloat16)
    assert np.abs(found - expected).max() <= 1e-5
    _, exact = late_logits(config, positions)
    assert np.abs(found - exact).max() > 1e-2  # the switch is not without effect


def test_codegeex4_would_be_another_without_its_ratio():
    ids = np.random.default_rng(3).integers(3, 120, (1, 96))
    one, other = (peer("glm", config).logits(ids) for config in (CODEGEEX4, replace(CODEGEEX4, rope_ratio=1.0)))
    assert np.abs(one - other).max() > 0.1


@pytest.mark.parametrize("name,config", [("codegeex2", REAL), ("glm", CODEGEEX4)])
def test_loss_and_gradients_equal_the_twins_in_float64(name, config):
    peer(name, replace(config, num_layers=1), torch.float64).check_gradients(Loss)


def test_codegeex4_chooses_glms_tokens():
    tiny = Twin("codegeex2", norm_eps=CODEGEEX4.norm_eps)
    assert tiny.config.rope_ratio == CODEGEEX4.rope_ratio
    model = peer("glm", tiny.config)
    engine, ids = tiny.engine(model.ours), prompt(20)
    for _ in range(64):
        ids.append(engine.next({0: ids}, {0: TokenChoice()})[0][0])
    assert ids[20:] == model.logits([ids])[0, 19:-1].argmax(-1).tolist()


def test_a_batch_with_padding_gives_the_logits_of_each_sequence_alone():
    model, lengths = peer("codegeex2", REAL), (3, 9, 14)
    network = model.network(Logits, 16, reset_at_eos=False)
    ids = np.random.default_rng(6).integers(3, REAL.vocab_size, (3, 16)).astype(np.int32)
    for row, length in enumerate(lengths):
        ids[row, length:] = EOS
    found = network(Tensor(ids), Tensor(np.array(lengths, np.int32) - 1)).asnumpy()
    for row, length in enumerate(lengths):
        thrice = np.repeat(ids[row : row + 1], 3, 0)  # not the row alone, which would be compiled anew
        without_others = network(Tensor(thrice), Tensor(np.full(3, length - 1, np.int32))).asnumpy()[0]
        np.testing.assert_allclose(found[row], without_others, atol=1e-5)
        np.testing.assert_allclose(found[row], model.logits(ids[row : row + 1, :length])[0, -1], atol=1e-5)


@pytest.mark.slow
def test_fp16_is_finite_and_near():
    assert 1e-6 < peer("codegeex2", REAL).error(Logits, 16, dtype=ms.float16) < 0.03


def test_flops_are_those_of_the_matrix_products():
    s, h, g, f, v = 12, 256, 16, 96, 120
    layer = [(1, h, h)] * 2 + [(1, h, g)] * 2 + [(1, h, f)] * 2 + [(1, f, h), (1, h, s), (1, s, h)]
    assert REAL.flops_per_token(s) == 3 * sum(2 * a * b * c for a, b, c in [*layer * LAYERS, (1, h, v)])
