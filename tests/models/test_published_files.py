"""Files laid out as the originals publish them, through our reader into our network: the logits of the twin that made
them. Back again, the twin loads what we write, strictly. CodeGen's are in tests/generation/test_cache.py and
tests/commands/test_command_convert_families.py, with transformers itself.
"""

import json

import numpy as np
import pytest
from conftest import engine_mode
from networks import assign, every_logit
from small_models import CHATGLM

from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.sources import open_source
from ms_codegeex.models.causal import Build

torch = pytest.importorskip("torch")

from twins import codegeex2_torch, codegeex_torch, names  # noqa: E402
from twins.peers import randomise  # noqa: E402

pytestmark = pytest.mark.usefixtures("weights_only")

IDS = np.random.default_rng(2).integers(3, 120, (2, 12)).astype(np.int32)


def our_logits(path, known=None):
    """Of a source in any layout, at every position of IDS."""
    source = open_source(path, known)
    config = source.family.config.build_config(None, source.fields)
    with engine_mode("graph"):
        network = source.family.model.Logits(config, Build(seq_length=IDS.shape[1], reset_at_eos=False))
        assign(network.set_train(False), {name: tensor.array() for name, tensor in source.tensors.items()})
        return every_logit(network, IDS)


def twins_logits(forward):
    with torch.no_grad():
        return forward(torch.tensor(IDS).long()).numpy()


def test_codegeex2s_model_directory(tmp_path):
    sizes = codegeex2_torch.Sizes(vocabulary=120, hidden=256, layers=2, heads=32, groups=2, inner=96, turned=4)
    twin = codegeex2_torch.CodeGeeX2(sizes)
    tensors = randomise(twin)
    published = tmp_path / "published"
    published.mkdir()
    config = CHATGLM | {  # the published keys; see the dossier's table for the values of 6B
        **{"hidden_size": 256, "num_attention_heads": 32, "ffn_hidden_size": 96, "padded_vocab_size": 120},
        **{"seq_length": 64, "layernorm_epsilon": 1e-5, "torch_dtype": "float32", "eos_token_id": 2},
    }
    (published / "config.json").write_text(json.dumps(config))
    state = twin.state_dict() | {"transformer.rotary_pos_emb.inv_freq": torch.ones(2)}  # a buffer of the release's
    torch.save(state, published / "pytorch_model.bin")
    assert np.abs(our_logits(published) - twins_logits(twin)).max() <= 1e-5

    convert(open_source(published), "mindspore", tmp_path / "m.ckpt")
    fields = open_source(published).fields
    convert(open_source(tmp_path / "m.ckpt", fields), "hf", tmp_path / "back")
    from safetensors.torch import load_file

    again = codegeex2_torch.CodeGeeX2(sizes)
    again.load_state_dict(load_file(tmp_path / "back" / "model.safetensors"), strict=True)
    for name, parameter in again.named_parameters():
        np.testing.assert_array_equal(parameter.detach().numpy(), tensors[name])


def test_codegeexs_nested_file(tmp_path):
    sizes = {"vocabulary": 120, "hidden": 64, "layers": 2, "heads": 4, "inner": 96, "positions": 32, "eos": 2}
    twin = codegeex_torch.CodeGeeX(**sizes, reset=False)
    published = names.codegeex_published(randomise(twin), 2)
    assert len(published) == 3 + 3 * 16 + 2
    flat = {k.removeprefix("language_model.transformer."): torch.tensor(v) for k, v in published.items()}
    tables = {k: v for k, v in flat.items() if k.startswith("language_model.")}

    def table(group, name):
        return {name: {"weight": tables[f"language_model.{group}.{name}.weight"]}}

    nested = {
        "embedding": table("embedding", "word_embeddings") | table("embedding", "position_embeddings"),
        "topQueryEmbedding": table("topQueryEmbedding", "top_query_embeddings"),
        "transformer": {k: v for k, v in flat.items() if k not in tables},
    }
    torch.save({"module": {"language_model": nested}}, tmp_path / "codegeex.pt")
    known = {"num_heads": 4, "eos_token_id": 2}
    assert np.abs(our_logits(tmp_path / "codegeex.pt", known) - twins_logits(twin.logits)).max() <= 1e-5

    convert(open_source(tmp_path / "codegeex.pt", known), "hf", tmp_path / "back")
    from safetensors.numpy import load_file

    again = codegeex_torch.CodeGeeX(**sizes, reset=False)
    ours = names.codegeex(load_file(tmp_path / "back" / "model.safetensors"), 2)
    again.load_state_dict({name: torch.tensor(value) for name, value in ours.items()}, strict=True)
    np.testing.assert_array_equal(twins_logits(again.logits), twins_logits(twin.logits))
