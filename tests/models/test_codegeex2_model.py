"""CodeGeeX2 against a PyTorch model written from its formulas, on narrow models with the real layout of heads."""

from dataclasses import replace
from resource import RUSAGE_SELF, getrusage

import mindspore as ms
import numpy as np
import psutil
import pytest
from mindspore import Tensor
from networks import assign, check_gradients, every_logit, packed_batch

from ms_codegeex.generation.choice import TokenChoice
from ms_codegeex.models.causal import Build
from ms_codegeex.models.codegeex2.config import CodeGeeX2Config, build_config
from ms_codegeex.models.codegeex2.model import CodeGeeX2, Logits, Loss

torch = pytest.importorskip("torch")

from twins import codegeex2_torch as twin  # noqa: E402
from twins import names  # noqa: E402
from twins.peers import logits_of_documents, loss_sum, randomise, transformers_glm  # noqa: E402
from twins.tiny_models import Twin, prompt  # noqa: E402

EOS, LAYERS = 2, 2
# 32 heads in 2 groups and half of a head's channels turned, as released
SIZES = {
    "vocab_size": 120,
    "hidden_size": 32 * 8,
    "num_layers": LAYERS,
    "num_heads": 32,
    "num_kv_groups": 2,
    "intermediate_size": 96,
    "rotary_dim": 4,
    "eos_token_id": EOS,
}
REAL = build_config("6b", SIZES | {"max_position_embeddings": 64})
CODEGEEX4 = build_config("codegeex4-9b", SIZES | {"max_position_embeddings": 100})
NARROW = replace(REAL, hidden_size=32, num_layers=1, num_heads=2, num_kv_groups=1, rotary_dim=8, intermediate_size=40)


pytestmark = pytest.mark.usefixtures("graph_mode")


def peer(config, dtype=torch.float32, precision=torch.float32):
    """The twin with random weights, and the same weights under its names and under ours."""
    model = twin.CodeGeeX2(twin.Sizes.of(config, precision)).to(dtype)
    tensors = randomise(model)
    return model, tensors, names.codegeex2(tensors, config.num_layers, config.num_heads, config.num_kv_groups)


def built(config, ours, seq_length, **build):
    network = Logits(config, Build(seq_length=seq_length, **build))
    network.set_train(False)
    assign(network, ours)
    return network


@pytest.mark.parametrize("seq_length,reset", [(24, True), pytest.param(64, False, marks=pytest.mark.slow)])
def test_logits_of_every_position_equal_the_twins(seq_length, reset):
    model, _, ours = peer(REAL)
    ids = packed_batch(REAL.vocab_size, EOS, 2, seq_length)[0]
    with torch.no_grad():
        expected = logits_of_documents(model, ids, EOS if reset else None).numpy()
    assert np.abs(expected).max() > 1
    found = every_logit(built(REAL, ours, seq_length, reset_at_eos=reset), ids)
    assert np.abs(found - expected).max() <= 1e-5


def test_another_number_of_groups():
    config = replace(REAL, num_kv_groups=8, num_layers=1)
    model, _, ours = peer(config)
    ids = packed_batch(config.vocab_size, EOS, 2, 9)[0]
    with torch.no_grad():
        expected = logits_of_documents(model, ids, None).numpy()
    found = every_logit(built(config, ours, 9, reset_at_eos=False), ids)
    assert np.abs(found - expected).max() <= 1e-5


def late_logits(config, seq_length, positions, precision=torch.float32):
    """Logits at some positions of a long text: ours, the twin's."""
    model, _, ours = peer(config, precision=precision)
    ids = np.random.default_rng(3).integers(3, config.vocab_size, (1, seq_length)).astype(np.int32)
    network = built(config, ours, seq_length, reset_at_eos=False)
    found = [network(Tensor(ids), Tensor([p], ms.int32)).asnumpy()[0] for p in positions]
    with torch.no_grad():
        return np.stack(found), model(torch.tensor(ids).long())[0, positions].numpy()


@pytest.mark.slow
def test_positions_above_2048_are_right():
    found, expected = late_logits(replace(NARROW, max_position_embeddings=3000), 3000, [0, 2047, 2048, 2999])
    assert np.abs(found - expected).max() <= 1e-5


@pytest.mark.slow
def test_8192_tokens():
    before, peak = psutil.Process().memory_info().rss, getrusage(RUSAGE_SELF).ru_maxrss * 1024
    found, expected = late_logits(
        replace(NARROW, hidden_size=16, num_heads=1, max_position_embeddings=8192), 8192, [0, 2049, 8000, 8191]
    )
    assert np.abs(found - expected).max() <= 1e-5
    assert getrusage(RUSAGE_SELF).ru_maxrss * 1024 < max(peak, before + 4e9)  # ours and the twin's


@pytest.mark.slow
def test_the_angles_may_be_rounded_as_the_release_does():
    length, positions = 700, [0, 255, 400, 699]
    config = replace(NARROW, max_position_embeddings=length, rotary_dtype="bf16")
    found, expected = late_logits(config, length, positions, torch.bfloat16)
    assert np.abs(found - expected).max() <= 1e-5
    _, exact = late_logits(config, length, positions)
    assert np.abs(found - exact).max() > 1e-2  # the switch is not without effect


def glm(config, dtype=torch.float32):
    """transformers' GLM with random weights, and the same weights under our names."""
    model = transformers_glm(pytest.importorskip("transformers"), config).to(dtype)
    return model, names.glm(randomise(model), config.num_layers)


def test_codegeex4_computes_what_glm_does():
    model, ours = glm(CODEGEEX4)
    ids = packed_batch(CODEGEEX4.vocab_size, EOS, 2, 96)[0]
    with torch.no_grad():
        expected = logits_of_documents(lambda part: model(part).logits, ids, None).numpy()
    found = every_logit(built(CODEGEEX4, ours, 96, reset_at_eos=False), ids)
    assert np.abs(found - expected).max() <= 2e-5
    other, _ = glm(replace(CODEGEEX4, rope_ratio=1.0))
    with torch.no_grad():
        assert np.abs(logits_of_documents(lambda part: other(part).logits, ids, None).numpy() - expected).max() > 0.1


def test_codegeex4s_loss_and_gradients_are_glms_in_float64():
    config = replace(CODEGEEX4, num_layers=1)
    model, ours = glm(config, torch.float64)
    batch = packed_batch(config.vocab_size, EOS, 2, 12)
    loss = loss_sum(logits_of_documents(lambda part: model(part).logits, batch[0], EOS), *batch[1:3])
    loss.backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    network = Loss(config, Build(seq_length=12, micro_batch=2))
    assign(network.set_train(True), ours)
    check_gradients(network, batch, loss.item(), names.glm(gradients, config.num_layers))


def test_codegeex4_chooses_glms_tokens():
    tiny = Twin("codegeex2", norm_eps=CODEGEEX4.norm_eps)
    assert tiny.config.rope_ratio == CODEGEEX4.rope_ratio
    model, ours = glm(tiny.config)
    engine, ids = tiny.engine(ours), prompt(20)
    for _ in range(64):
        ids.append(engine.next({0: ids}, {0: TokenChoice()})[0][0])
    with torch.no_grad():
        assert ids[20:] == model(torch.tensor([ids])).logits[0, 19:-1].argmax(-1).tolist()


@pytest.fixture(scope="module")
def right():
    """The twin, its tensors, ours, and a network of ours."""
    model, theirs, ours = peer(REAL)
    return model, theirs, ours, built(REAL, ours, 16, reset_at_eos=False)


@pytest.mark.slow  # the tests above fail with each of them
class TestTraps:
    """Each wrong reading of a checkpoint gives clearly other logits; the test above would not pass with it."""

    def error(self, right, changes, network=None):
        """Largest error of the logits with some of the right tensors changed."""
        model, _, ours, usual = right
        network = network or usual
        ids = packed_batch(REAL.vocab_size, EOS, 2, 16)[0]
        with torch.no_grad():
            expected = logits_of_documents(model, ids, None).numpy()
        assign(network, ours | changes)
        return np.abs(every_logit(network, ids) - expected).max()

    def swapped(self, ours, one, other):
        """The tensors of two layers under each other's names, in every block."""
        pairs = [(f"blocks.{i}.{one}", f"blocks.{i}.{other}") for i in range(LAYERS)]
        both = pairs + [(b, a) for a, b in pairs]
        return {
            f"{a}.{kind}": ours[f"{b}.{kind}"] for a, b in both for kind in ("weight", "bias") if f"{b}.{kind}" in ours
        }

    def heads(self, ours, order, *layers):
        """Rows of a layer's heads of queries in another order."""
        return {
            name: tensor.reshape(32, 8, -1)[order].reshape(tensor.shape)
            for name, tensor in ours.items()
            if name.split(".", 2)[-1].startswith(layers)
        }

    def test_none(self, right):
        assert self.error(right, {}) <= 1e-5

    @pytest.mark.parametrize(
        "one,other", [("feed_forward.gate", "feed_forward.up"), ("attention.key", "attention.value")]
    )
    def test_swapped_halves(self, right, one, other):
        assert self.error(right, self.swapped(right[2], one, other)) > 0.1

    def test_groups_dealt_out_in_turn(self, right):
        order = np.arange(32).reshape(16, 2).T.reshape(-1)  # head h would use group h % 2
        changes = self.heads(right[2], order, "attention.query")
        for i in range(LAYERS):  # each head's result still meets its own columns of the output
            output = right[2][f"blocks.{i}.attention.output.weight"]
            changes[f"blocks.{i}.attention.output.weight"] = output.reshape(-1, 32, 8)[:, order].reshape(output.shape)
        assert self.error(right, changes) > 0.1

    def test_half_split_rotary(self, right):
        order = np.array([0, 2, 1, 3, 4, 5, 6, 7])
        changes = {
            name: tensor.reshape(-1, 8, *tensor.shape[1:])[:, order].reshape(tensor.shape)
            for name, tensor in right[2].items()
            if "attention.query" in name or "attention.key" in name
        }
        assert self.error(right, changes) > 0.01

    def test_rotary_on_all_channels(self, right):
        network = built(replace(REAL, rotary_dim=8), right[2], 16, reset_at_eos=False)
        assert self.error(right, {}, network) > 0.01

    @pytest.mark.parametrize("layer", ["query", "key", "value"])
    def test_a_dropped_bias(self, right, layer):
        ours = right[2]
        dropped = {name: 0 * ours[name] for name in ours if name.endswith(f"attention.{layer}.bias")}
        # one number added to all of a query's scores changes nothing, but keys are turned after the bias is added
        assert self.error(right, dropped) > 0.01


def test_a_batch_with_padding_gives_the_logits_of_each_sequence_alone(right):
    model, _, ours, network = right
    assign(network, ours)
    lengths = (3, 9, 14)
    ids = np.random.default_rng(6).integers(3, REAL.vocab_size, (3, 16)).astype(np.int32)
    for row, length in enumerate(lengths):
        ids[row, length:] = EOS
    found = network(Tensor(ids), Tensor(np.array(lengths, np.int32) - 1)).asnumpy()
    for row, length in enumerate(lengths):
        thrice = np.repeat(ids[row : row + 1], 3, 0)  # not the row alone, which would be compiled anew
        without_others = network(Tensor(thrice), Tensor(np.full(3, length - 1, np.int32))).asnumpy()[0]
        np.testing.assert_allclose(found[row], without_others, atol=1e-5)
        with torch.no_grad():
            expected = model(torch.tensor(ids[row : row + 1, :length]).long())[0, -1].numpy()
        np.testing.assert_allclose(found[row], expected, atol=1e-5)


def test_loss_and_gradients_equal_the_twins_in_float64():
    config = replace(REAL, num_layers=1)
    model, tensors, ours = peer(config, torch.float64)
    batch = packed_batch(REAL.vocab_size, EOS, 2, 12)
    loss = loss_sum(logits_of_documents(model, batch[0], EOS), *batch[1:3])
    loss.backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    assert gradients.keys() == tensors.keys()
    expected = names.codegeex2(gradients, 1, REAL.num_heads, REAL.num_kv_groups)

    network = Loss(config, Build(seq_length=12, micro_batch=2))
    network.set_train(True)
    assign(network, ours)
    check_gradients(network, batch, loss.item(), expected)


@pytest.mark.slow
def test_fp16_is_finite_and_near():
    model, _, ours = peer(REAL)
    ids = packed_batch(REAL.vocab_size, EOS, 2, 16)[0]
    with torch.no_grad():
        expected = logits_of_documents(model, ids, None).numpy()
    found = every_logit(built(REAL, ours, 16, reset_at_eos=False, dtype=ms.float16), ids)
    assert np.isfinite(found).all() and 1e-6 < np.abs(found - expected).max() < 0.03


def test_6b_counts_exactly_from_the_cells_shapes_without_allocating():
    before = psutil.Process().memory_info().rss
    with ms.nn.utils.no_init_parameters():
        network = CodeGeeX2(build_config("6b", {}), Build(seq_length=2048))
    shapes = [parameter.shape for parameter in network.trainable_params()]
    assert sum(int(np.prod(shape)) for shape in shapes) == 6_243_584_000 == CodeGeeX2Config().parameter_count()
    assert len(shapes) == 12 * 28 + 3  # 7 a layer in the files, which keep query, key, value and gate, up together
    assert psutil.Process().memory_info().rss - before < 500_000_000


def test_tiny_counts_like_its_cells():
    tiny = build_config("tiny", {})
    network = CodeGeeX2(tiny, Build(seq_length=16))
    assert sum(int(np.prod(p.shape)) for p in network.trainable_params()) == tiny.parameter_count()


def test_flops_are_those_of_the_matrix_products():
    s, h, g, f, v = 12, 256, 16, 96, 120
    layer = [(1, h, h)] * 2 + [(1, h, g)] * 2 + [(1, h, f)] * 2 + [(1, f, h), (1, h, s), (1, s, h)]
    assert REAL.flops_per_token(s) == 3 * sum(2 * a * b * c for a, b, c in [*layer * LAYERS, (1, h, v)])
