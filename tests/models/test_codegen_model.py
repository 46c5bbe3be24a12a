"""CodeGen against transformers, an implementation by other people, on narrow models with the real layouts of heads."""

import mindspore as ms
import numpy as np
import psutil
import pytest
from mindspore import Tensor
from networks import assign, check_gradients, every_logit, packed_batch

from ms_codegeex.models.causal import Build
from ms_codegeex.models.codegen.config import PRESETS, STAGES, CodeGenConfig, build_config
from ms_codegeex.models.codegen.model import CodeGen, Logits, Loss

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from twins import names  # noqa: E402
from twins.peers import logits_of_documents, loss_sum, randomise, transformers_codegen  # noqa: E402

EOS, VOCABULARY, LAYERS = 11, 120, 2
# heads, channels of a head, channels turned: number of heads and their share of turned channels as released
LAYOUTS = {"350M": (16, 8, 4), "2B": (32, 10, 8), "6B": (16, 16, 4), "16B": (24, 16, 4)}


pytestmark = pytest.mark.usefixtures("graph_mode")


def sizes(layout, **changes):
    heads, head, turned = LAYOUTS[layout]
    fields = {
        "vocab_size": VOCABULARY,
        "hidden_size": heads * head,
        "num_layers": LAYERS,
        "num_heads": heads,
        "intermediate_size": 4 * heads * head,
        "rotary_dim": turned,
        "max_position_embeddings": 64,
        "eos_token_id": EOS,
    }
    return CodeGenConfig(**(fields | changes))


def peer(config):
    """transformers' model with random weights, and the same weights under its names and under ours."""
    model = transformers_codegen(transformers, config, attn_implementation="eager")
    tensors = randomise(model)
    return model, tensors, names.codegen(tensors, config.num_layers, config.num_heads)


def expected_logits(model, ids, eos=None):
    return logits_of_documents(lambda part: model(part).logits, ids, eos)


def built(config, ours, seq_length, **build):
    network = Logits(config, Build(seq_length=seq_length, **build))
    network.set_train(False)
    assign(network, ours)
    return network


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
    config = sizes(layout)
    model, _, ours = peer(config)
    ids = packed_batch(VOCABULARY, EOS, 2, seq_length)[0]
    with torch.no_grad():
        expected = expected_logits(model, ids, EOS if reset else None).numpy()
    assert np.abs(expected).max() > 1
    found = every_logit(built(config, ours, seq_length, reset_at_eos=reset), ids)
    assert np.abs(found - expected).max() <= 1e-5


@pytest.fixture(scope="module")
def right():
    """transformers' model of 350M's layout, its tensors, ours, and a network of ours."""
    model, theirs, ours = peer(sizes("350M"))
    return model, theirs, ours, built(sizes("350M"), ours, 16, reset_at_eos=False)


class TestTraps:
    """Each wrong reading of a checkpoint gives clearly other logits; the test above would not pass with it."""

    def error(self, right, changes, network=None):
        """Largest error of the logits with some of the right tensors changed."""
        model, _, ours, usual = right
        network = network or usual
        ids = packed_batch(VOCABULARY, EOS, 2, 16)[0]
        with torch.no_grad():
            expected = expected_logits(model, ids).numpy()
        assign(network, ours | changes)
        return np.abs(every_logit(network, ids) - expected).max()

    def test_none(self, right):
        assert self.error(right, {}) <= 1e-5

    @pytest.mark.parametrize("grouped", [True, False])
    def test_rows_in_the_usual_order_of_query_key_value(self, right, grouped):
        changes, heads = {}, LAYOUTS["350M"][0]
        for i in range(LAYERS):
            fused = right[1][f"transformer.h.{i}.attn.qkv_proj.weight"]
            hidden = fused.shape[1]
            parts = fused.reshape(3, hidden, hidden)
            if grouped:
                parts = fused.reshape(4, 3, heads // 4, -1, hidden).swapaxes(0, 1).reshape(3, hidden, hidden)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                changes[f"blocks.{i}.attention.{name}.weight"] = part
        assert self.error(right, changes) > 0.1

    @pytest.mark.parametrize("name", ["final_norm.bias", "head.bias"])
    def test_a_dropped_bias(self, right, name):
        assert self.error(right, {name: np.zeros_like(right[2][name])}) > 0.1

    def test_half_split_rotary(self, right):
        heads, head, turned = LAYOUTS["350M"]
        order = np.arange(head)
        order[0:turned:2], order[1:turned:2] = np.arange(turned // 2), np.arange(turned // 2) + turned // 2
        changes = {
            name: tensor.reshape(heads, head, -1)[:, order].reshape(tensor.shape)
            for name, tensor in right[2].items()
            if "attention.query" in name or "attention.key" in name
        }
        assert self.error(right, changes) > 0.01

    def test_rotary_on_all_channels(self, right):
        config = sizes("350M", rotary_dim=LAYOUTS["350M"][1])
        assert self.error(right, {}, built(config, right[2], 16, reset_at_eos=False)) > 0.01


@pytest.mark.slow
def test_a_batch_with_padding_gives_the_logits_of_each_sequence_alone(right):
    lengths, room = (3, 9, 14), 16
    model, _, ours, network = right
    assign(network, ours)
    generator = np.random.default_rng(6)
    texts = [generator.integers(12, VOCABULARY, n) for n in lengths]
    padded_right, padded_left = np.full((3, room), EOS, np.int32), np.full((3, room), EOS, np.int32)
    for row, text in enumerate(texts):
        padded_right[row, : len(text)], padded_left[row, room - len(text) :] = text, text
    with torch.no_grad():
        expected = np.stack([model(torch.tensor(text[None])).logits[0, -1].numpy() for text in texts])
    found = network(Tensor(padded_right), Tensor(np.array(lengths, np.int32) - 1)).asnumpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for row, length in enumerate(lengths):
        alone = network(Tensor(padded_right[row : row + 1]), Tensor([length - 1], ms.int32)).asnumpy()
        np.testing.assert_allclose(found[row], alone[0], atol=1e-5)
    wrong = network(Tensor(padded_left), Tensor(np.full(3, room - 1, np.int32))).asnumpy()
    assert np.abs(wrong - expected).max() > 0.1  # padding in front would be read


@pytest.mark.parametrize("chunk", [0, 10])
def test_loss_and_gradients_equal_transformers_in_float64(chunk):
    config = sizes("350M", num_layers=1)
    model, tensors, ours = peer(config)
    model = model.double()
    batch = packed_batch(VOCABULARY, EOS, 2, 12)
    loss = loss_sum(expected_logits(model, batch[0], EOS), *batch[1:3])
    loss.backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    assert gradients.keys() == tensors.keys()
    expected = names.codegen(gradients, 1, config.num_heads)

    network = Loss(config, Build(seq_length=12, micro_batch=2, loss_chunk=chunk))
    network.set_train(True)
    assign(network, ours)
    check_gradients(network, batch, loss.item(), expected)


@pytest.mark.slow
def test_fp16_is_finite_and_near():
    config = sizes("350M")
    model, _, ours = peer(config)
    ids = packed_batch(VOCABULARY, EOS, 2, 16)[0]
    with torch.no_grad():
        expected = expected_logits(model, ids).numpy()
    found = every_logit(built(config, ours, 16, reset_at_eos=False, dtype=ms.float16), ids)
    assert np.isfinite(found).all() and 1e-6 < np.abs(found - expected).max() < 0.03


# the dossier's table of sizes; stages do not differ
PARAMETERS = {"350m": 356_712_448, "2b": 2_779_356_160, "6b": 7_064_213_504, "16b": 16_032_155_648}


@pytest.mark.parametrize("size", PARAMETERS)
def test_parameters_count_exactly_from_the_cells_shapes_without_allocating(size):
    before = psutil.Process().memory_info().rss
    configs = {build_config(f"{size}-{stage}", {}) for stage in STAGES}
    assert len(configs) == 1
    (config,) = configs
    with ms.nn.utils.no_init_parameters():
        network = CodeGen(config, Build(seq_length=2048))
    shapes = [parameter.shape for parameter in network.trainable_params()]
    assert sum(int(np.prod(shape)) for shape in shapes) == PARAMETERS[size] == config.parameter_count()
    assert len(shapes) == 10 * config.num_layers + 5  # 8 in the files, where query, key and value are one
    assert psutil.Process().memory_info().rss - before < 500_000_000


def test_there_are_twelve_released_presets_and_ours():
    assert set(PRESETS) == {f"{size}-{stage}" for size in PARAMETERS for stage in STAGES} | {"tiny"}
    tiny = build_config("tiny", {})
    network = CodeGen(tiny, Build(seq_length=16))
    assert sum(int(np.prod(p.shape)) for p in network.trainable_params()) == tiny.parameter_count()


def test_flops_are_those_of_the_matrix_products():
    config, s = sizes("2B"), 12
    h, f, v = config.hidden_size, config.intermediate_size, config.vocab_size
    shapes = [*[(1, h, h)] * 4, (1, h, f), (1, f, h), (1, h, s), (1, s, h)] * LAYERS + [(1, h, v)]
    assert config.flops_per_token(s) == 3 * sum(2 * a * b * c for a, b, c in shapes)
