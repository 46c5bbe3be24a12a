"""Qwen2 against transformers' Qwen2ForCausalLM, on narrow models with the real layout of heads."""

from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest

from ms_codegeex.formats.family import FamilyFormats
from ms_codegeex.models.qwen2.config import Qwen2CoderConfig
from ms_codegeex.models.qwen2.model import Logits, Loss
from ms_codegeex.models.registry import family

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from twins.peers import peer, transformers_qwen2  # noqa: E402

EOS = 2
# 14 heads in 2 groups and a tied head, as in 0.5B
SIZES = {"vocab_size": 120, "hidden_size": 14 * 8, "num_layers": 2, "num_heads": 14, "num_kv_groups": 2}
SIZES |= {"intermediate_size": 96, "max_position_embeddings": 64, "tied_head": True, "eos_token_id": EOS}
REAL = Qwen2CoderConfig(**SIZES)
UNTIED = replace(REAL, num_kv_groups=7, num_layers=1, tied_head=False)
pytestmark = pytest.mark.usefixtures("graph_mode")


@pytest.mark.parametrize("config,length,reset", [(REAL, 24, True), (UNTIED, 12, False)])
def test_logits_of_every_position_equal_the_originals(config, length, reset):
    assert peer("qwen2", config).error(Logits, length, reset) <= 2e-5


@pytest.mark.slow
def test_late_positions_are_right():
    length, positions = 3000, [0, 1024, 2999]
    config = replace(REAL, hidden_size=32, num_heads=2, num_kv_groups=1, num_layers=1, max_position_embeddings=length)
    model = peer("qwen2", config)
    ids = np.random.default_rng(3).integers(3, config.vocab_size, (1, length)).astype(np.int32)
    network = model.network(Logits, length, reset_at_eos=False)
    found = [network(ms.Tensor(ids), ms.Tensor([p], ms.int32)).asnumpy()[0] for p in positions]
    assert np.abs(np.stack(found) - model.logits(ids)[0, positions]).max() <= 2e-5


@pytest.mark.parametrize("config", [replace(REAL, num_layers=1), pytest.param(UNTIED, marks=pytest.mark.slow)])
def test_loss_and_gradients_equal_the_originals_in_float64(config):
    peer("qwen2", config, torch.float64).check_gradients(Loss)


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
