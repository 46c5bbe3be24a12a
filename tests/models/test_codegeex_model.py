from dataclasses import replace

import numpy as np
import psutil
import pytest
from mindspore import Tensor, nn, ops
from mindspore import float32 as fp32
from mindspore.common.parameter import ParameterTuple
from twins import codegeex_numpy as twin

from ms_codegeex.models.causal import Build
from ms_codegeex.models.codegeex.config import PRESETS, CodeGeeXConfig, build_config
from ms_codegeex.models.codegeex.model import CodeGeeX, Logits, Loss

pytestmark = pytest.mark.usefixtures("pynative_mode_throughout")
EOS = 11
SMALL = CodeGeeXConfig(
    vocab_size=60,
    hidden_size=24,
    num_layers=2,
    num_heads=3,
    intermediate_size=40,
    max_position_embeddings=20,
    init_std=0.3,
    eos_token_id=EOS,
)
SIZES = {"layers": SMALL.num_layers, "heads": SMALL.num_heads, "eos": EOS}


def randomise(network, seed=0):
    """Weights, biases and norms all away from their initial values, so that each of them matters."""
    generator = np.random.default_rng(seed)
    for parameter in network.get_parameters():
        value = generator.normal(size=parameter.shape) * 0.3 + (1.0 if "norm.weight" in parameter.name else 0.0)
        parameter.set_data(Tensor(value.astype(np.float32)))
    return {p.name: p.asnumpy().astype(np.float64) for p in network.get_parameters()}


@pytest.fixture(scope="module")
def batch():
    generator = np.random.default_rng(1)
    ids = generator.integers(0, SMALL.vocab_size, (2, 13))
    ids[0, [3, 4, 9]], ids[1, 12] = EOS, EOS  # two in a row, one at the very end
    inputs, labels = ids[:, :-1].astype(np.int32), ids[:, 1:].astype(np.int32)
    mask = (generator.random(inputs.shape) < 0.7).astype(np.float32)
    return inputs, labels, mask, np.arange(2, dtype=np.int32)


@pytest.mark.parametrize("reset", [True, False])
def test_loss_equals_numpy_float64(batch, reset):
    network = Loss(SMALL, Build(seq_length=12, reset_at_eos=reset, micro_batch=2))
    parameters = randomise(network)
    total, count, _ = network(*map(Tensor, batch)).asnumpy().tolist()
    assert count == batch[2].sum()
    assert total / count == pytest.approx(twin.loss(*batch[:3], parameters, reset=reset, **SIZES), rel=1e-5)


@pytest.mark.usefixtures("graph_mode")
def test_logits_of_every_position_equal_numpy_float64(batch):
    network = Logits(SMALL, Build(seq_length=12))
    parameters = randomise(network)
    expected = twin.logits(batch[0], parameters, **SIZES)
    for position in range(12):
        result = network(Tensor(batch[0]), Tensor(np.full(2, position, np.int32))).asnumpy()
        np.testing.assert_allclose(result, expected[:, position], atol=1e-5 * np.abs(expected).max())


@pytest.mark.usefixtures("graph_mode")
@pytest.mark.parametrize("reset", [True, False])
def test_logits_of_every_position_equal_pytorchs(reset):
    """As the other families: 40 heads, as released, and the same bound."""
    pytest.importorskip("torch")
    import torch
    from networks import assign, every_logit, packed_batch
    from twins.codegeex_torch import CodeGeeX as Twin
    from twins.peers import randomise as random_weights

    config = replace(SMALL, vocab_size=120, hidden_size=320, num_heads=40, intermediate_size=160)
    sizes = config.hidden_size, config.num_layers, config.num_heads, config.intermediate_size
    peer = Twin(config.vocab_size, *sizes, config.max_position_embeddings, config.layer_norm_eps, EOS, reset)
    network = Logits(config, Build(seq_length=18, reset_at_eos=reset))
    network.set_train(False)
    assign(network, random_weights(peer))
    ids = packed_batch(config.vocab_size, EOS, 2, 18)[0]
    with torch.no_grad():
        expected = peer.logits(torch.tensor(ids).long()).numpy()
    assert np.abs(expected).max() > 1
    assert np.abs(every_logit(network, ids) - expected).max() <= 1e-5


def test_the_twin_computes_where_its_inputs_are(batch):
    """As benchmarks/gpu.py needs it; no tensor of it stays on the CPU."""
    torch = pytest.importorskip("torch")
    from twins.codegeex_torch import CodeGeeX as Twin

    sizes = SMALL.hidden_size, SMALL.num_layers, SMALL.num_heads, SMALL.intermediate_size
    peer = Twin(SMALL.vocab_size, *sizes, SMALL.max_position_embeddings, eos=EOS).to("meta")
    loss = peer(*(torch.tensor(array).to("meta") for array in (batch[0].astype(int), batch[1].astype(int), batch[2])))
    assert loss.device.type == "meta"


@pytest.mark.usefixtures("graph_mode")
def test_gradients_equal_pytorchs(batch):
    torch = pytest.importorskip("torch")
    from twins.codegeex_torch import CodeGeeX as Twin

    network = Loss(replace(SMALL, num_layers=1), Build(seq_length=12, micro_batch=2, loss_chunk=5))
    network.set_train(True)
    parameters = randomise(network)
    peer = Twin(
        SMALL.vocab_size,
        SMALL.hidden_size,
        1,
        SMALL.num_heads,
        SMALL.intermediate_size,
        SMALL.max_position_embeddings,
        eos=EOS,
    ).double()
    peer.load_state_dict({name: torch.tensor(value) for name, value in parameters.items()})
    loss = peer(torch.tensor(batch[0]).long(), torch.tensor(batch[1]).long(), torch.tensor(batch[2]).double())
    loss.backward()

    class Gradients(nn.Cell):
        def __init__(self):
            super().__init__(auto_prefix=False)
            self.network, self.weights = network, ParameterTuple(network.trainable_params())
            self.gradient = ops.GradOperation(get_by_list=True, sens_param=True)

        def construct(self, *inputs):
            return self.gradient(self.network, self.weights)(*inputs, Tensor([1.0, 0.0, 0.0], fp32))

    ours = Gradients()(*map(Tensor, batch))
    for parameter, gradient in zip(network.trainable_params(), ours, strict=True):
        expected = dict(peer.named_parameters())[parameter.name].grad.numpy() * batch[2].sum()
        np.testing.assert_allclose(
            gradient.asnumpy(), expected, atol=2e-5 * max(1.0, np.abs(expected).max()), err_msg=parameter.name
        )


def test_dropout_changes_training_but_not_evaluation(batch):
    network = Loss(SMALL, Build(seq_length=12, dropout=0.5, micro_batch=2))
    parameters = randomise(network)
    expected = twin.loss(*batch[:3], parameters, **SIZES)

    def value():
        total, count, _ = network(*map(Tensor, batch)).asnumpy().tolist()
        return total / count

    network.set_train(False)
    assert value() == pytest.approx(expected, rel=1e-5)
    network.set_train(True)
    assert abs(value() - expected) > 1e-2


def test_13b_counts_exactly_from_the_cells_shapes_without_allocating():
    from mindspore.nn.utils import no_init_parameters

    before = psutil.Process().memory_info().rss
    with no_init_parameters():
        network = CodeGeeX(build_config("13b", {}), Build(seq_length=2048))
    shapes = [p.shape for p in network.trainable_params()]
    assert sum(int(np.prod(shape)) for shape in shapes) == 12_873_943_040 == CodeGeeXConfig().parameter_count()
    assert len(shapes) == 645
    assert psutil.Process().memory_info().rss - before < 500_000_000


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_sound_and_the_small_ones_count_like_their_cells(preset):
    config = build_config(preset, {})
    if config.parameter_count() < 3e7:
        network = CodeGeeX(config, Build(seq_length=16))
        assert sum(int(np.prod(p.shape)) for p in network.trainable_params()) == config.parameter_count()


def test_flops_are_those_of_the_matrix_products():
    config, s = SMALL, 12
    h, f, v = config.hidden_size, config.intermediate_size, config.vocab_size
    shapes = []
    for _ in range(config.num_layers + 1):
        shapes += [(1, h, h)] * 4 + [(1, h, f), (1, f, h)] + [(1, h, s), (1, s, h)]  # projections, FFN, scores, context
    shapes.append((1, h, v))
    assert config.flops_per_token(s) == 3 * sum(2 * a * b * c for a, b, c in shapes)
