"""CodeGen against transformers, an implementation by other people, on narrow models with the real layouts of heads."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from ms_codegeex.models.codegen.config import PRESETS, STAGES, CodeGenConfig, build_config
from ms_codegeex.models.codegen.model import Logits, Loss

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from twins.peers import peer  # noqa: E402

EOS, VOCABULARY, LAYERS = 11, 120, 2
# heads, channels of a head, channels turned: number of heads and their share of turned channels as released
LAYOUTS = {"350M": (16, 8, 4), "2B": (32, 10, 8), "6B": (16, 16, 4), "16B": (24, 16, 4)}
pytestmark = pytest.mark.usefixtures("graph_mode")


def sizes(layout, **changes):
    heads, head, turned = LAYOUTS[layout]
    fields = {"vocab_size": VOCABULARY, "hidden_size": heads * head, "num_layers": LAYERS, "num_heads": heads}
    fields |= {"intermediate_size": 4 * heads * head, "rotary_dim": turned}
    return CodeGenConfig(**(fields | {"max_position_embeddings": 64, "eos_token_id": EOS} | changes))


@pytest.mark.parametrize(
    "layout,seq_length,reset",
    [
        ("350M", 24, True),
        pytest.param("16B", 64, False, marks=pytest.mark.slow),
        pytest.param("2B", 17, False, marks=pytest.mark.slow),
        pytest.param("6B", 5, True, marks=pytest.mark.slow),
    ],
)
def test_logits_of_every_position_equal_transformers(layout, seq_length, reset):
    assert peer("codegen", sizes(layout)).error(Logits, seq_length, reset) <= 1e-5


@pytest.mark.slow
def test_a_batch_with_padding_gives_the_logits_of_each_sequence_alone():
    model, lengths, room = peer("codegen", sizes("350M")), (3, 9, 14), 16
    network = model.network(Logits, room, reset_at_eos=False)
    generator = np.random.default_rng(6)
    texts = [generator.integers(12, VOCABULARY, n) for n in lengths]
    padded_right, padded_left = np.full((2, 3, room), EOS, np.int32)
    for row, text in enumerate(texts):
        padded_right[row, : len(text)], padded_left[row, room - len(text) :] = text, text
    expected = np.stack([model.logits(text[None])[0, -1] for text in texts])
    found = network(Tensor(padded_right), Tensor(np.array(lengths, np.int32) - 1)).asnumpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for row, length in enumerate(lengths):
        alone = network(Tensor(padded_right[row : row + 1]), Tensor([length - 1], ms.int32)).asnumpy()
        np.testing.assert_allclose(found[row], alone[0], atol=1e-5)
    wrong = network(Tensor(padded_left), Tensor(np.full(3, room - 1, np.int32))).asnumpy()
    assert np.abs(wrong - expected).max() > 0.1  # padding in front would be read


@pytest.mark.parametrize("chunk", [0, 10])
def test_loss_and_gradients_equal_transformers_in_float64(chunk):
    peer("codegen", sizes("350M", num_layers=1), torch.float64).check_gradients(Loss, loss_chunk=chunk)


@pytest.mark.slow
def test_fp16_is_finite_and_near():
    assert 1e-6 < peer("codegen", sizes("350M")).error(Logits, 16, dtype=ms.float16) < 0.03


def test_there_are_twelve_released_presets_and_ours():
    stages = {size: {build_config(f"{size}-{stage}", {}) for stage in STAGES} for size in ("350m", "2b", "6b", "16b")}
    assert set(PRESETS) == {f"{size}-{stage}" for size in stages for stage in STAGES} | {"tiny"}
    assert all(len(configs) == 1 for configs in stages.values())


def test_flops_are_those_of_the_matrix_products():
    config, s = sizes("2B"), 12
    h, f, v = config.hidden_size, config.intermediate_size, config.vocab_size
    shapes = [*[(1, h, h)] * 4, (1, h, f), (1, f, h), (1, h, s), (1, s, h)] * LAYERS + [(1, h, v)]
    assert config.flops_per_token(s) == 3 * sum(2 * a * b * c for a, b, c in shapes)
