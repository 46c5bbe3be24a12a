"""Qwen2 against transformers' Qwen2ForCausalLM, on narrow models with the real layout of heads."""

from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from networks import assign, check_gradients, every_logit, packed_batch

from ms_codegeex.formats.family import FamilyFormats
from ms_codegeex.models.causal import Build
from ms_codegeex.models.qwen2.config import Qwen2CoderConfig
from ms_codegeex.models.qwen2.model import Logits, Loss
from ms_codegeex.models.registry import family

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from twins import names  # noqa: E402
from twins.peers import logits_of_documents, loss_sum, randomise, transformers_qwen2  # noqa: E402

EOS = 2
# 14 heads in 2 groups and a tied head, as in 0.5B
REAL = Qwen2CoderConfig(
    vocab_size=120,
    hidden_size=14 * 8,
    num_layers=2,
    num_heads=14,
    num_kv_groups=2,
    intermediate_size=96,
    max_position_embeddings=64,
    tied_head=True,
    eos_token_id=EOS,
)
UNTIED = replace(REAL, num_kv_groups=7, num_layers=1, tied_head=False)
pytestmark = pytest.mark.usefixtures("graph_mode")


def peer(config, dtype=torch.float32):
    """The original with random weights, and the same weights under our names."""
    model = transformers_qwen2(transformers, config).to(dtype)
    return model, names.qwen2(randomise(model), config.num_layers, config.num_heads)


@pytest.mark.parametrize("config,length,reset", [(REAL, 24, True), (UNTIED, 12, False)])
def test_logits_of_every_position_equal_the_originals(config, length, reset):
    model, ours = peer(config)
    ids = packed_batch(config.vocab_size, EOS, 2, length)[0]
    with torch.no_grad():
        expected = logits_of_documents(lambda part: model(part).logits, ids, EOS if reset else None).numpy()
    assert np.abs(expected).max() > 1
    network = Logits(config, Build(seq_length=length, reset_at_eos=reset))
    assign(network.set_train(False), ours)
    assert np.abs(every_logit(network, ids) - expected).max() <= 2e-5


@pytest.mark.slow
def test_late_positions_are_right():
    length, positions = 3000, [0, 1024, 2999]
    config = replace(REAL, hidden_size=32, num_heads=2, num_kv_groups=1, num_layers=1, max_position_embeddings=length)
    model, ours = peer(config)
    ids = np.random.default_rng(3).integers(3, config.vocab_size, (1, length)).astype(np.int32)
    network = Logits(config, Build(seq_length=length, reset_at_eos=False))
    assign(network.set_train(False), ours)
    found = [network(ms.Tensor(ids), ms.Tensor([p], ms.int32)).asnumpy()[0] for p in positions]
    with torch.no_grad():
        expected = model(torch.tensor(ids).long()).logits[0, positions].numpy()
    assert np.abs(np.stack(found) - expected).max() <= 2e-5


@pytest.mark.parametrize("config", [replace(REAL, num_layers=1), pytest.param(UNTIED, marks=pytest.mark.slow)])
def test_loss_and_gradients_equal_the_originals_in_float64(config):
    model, ours = peer(config, torch.float64)
    batch = packed_batch(config.vocab_size, EOS, 2, 12)
    logits = logits_of_documents(lambda part: model(part).logits, batch[0], EOS)
    loss = loss_sum(logits, *batch[1:3])
    loss.backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    network = Loss(config, Build(seq_length=12, micro_batch=2))
    assign(network.set_train(True), ours)
    check_gradients(network, batch, loss.item(), names.qwen2(gradients, config.num_layers, config.num_heads))


@pytest.mark.parametrize("config", [REAL, UNTIED])
def test_the_config_json_of_transformers_is_read(config, tmp_path):
    """With the keys of releases, which ask for no sliding window."""
    model = transformers_qwen2(
        transformers, config, use_sliding_window=False, sliding_window=131072, max_window_layers=28
    )
    model.config.save_pretrained(tmp_path)
    stated = transformers.Qwen2Config.from_pretrained(tmp_path).to_dict() | {"rope_scaling": None, "bos_token_id": 1}
    read = FamilyFormats(family("qwen2")).from_json(stated)
    assert family("qwen2").config.build_config(None, read) == config


def test_flops_are_those_of_the_matrix_products():
    s, h, g, f, v = 12, 112, 16, 96, 120
    layer = [(1, h, h)] * 2 + [(1, h, g)] * 2 + [(1, h, f)] * 2 + [(1, f, h), (1, h, s), (1, s, h)]
    assert REAL.flops_per_token(s) == 3 * sum(2 * a * b * c for a, b, c in [*layer * 2, (1, h, v)])
