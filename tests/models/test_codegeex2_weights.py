"""CodeGeeX2's maps against the published layout: names, rows of the fused matrices, sizes, config.json."""

from dataclasses import asdict

import numpy as np
import pytest
from small_models import FIELDS, config, entries, foreign, formats, parameters, shapes

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.layout import pack, packed_shape, to_ours
from ms_codegeex.formats.tensors import LazyTensor
from ms_codegeex.models.codegeex2.config import build_config

LAYER = "transformer.encoder.layers.1"
FORMATS = formats("codegeex2")


def test_published_shapes():
    large = build_config("6b", {})
    found, listed = large.parameter_shapes(), entries("codegeex2", "huggingface", large)
    its = {e.foreign: packed_shape(e.packing, [found[n] for n in e.ours]) for e in listed}
    assert its[f"{LAYER}.self_attention.query_key_value.weight"] == (4608, 4096)
    assert its[f"{LAYER}.self_attention.query_key_value.bias"] == (4608,)
    assert its[f"{LAYER}.mlp.dense_h_to_4h.weight"] == (27392, 4096)
    assert its[f"{LAYER}.mlp.dense_4h_to_h.weight"] == (4096, 13696)
    assert its["transformer.output_layer.weight"] == (65024, 4096)
    assert its["transformer.embedding.word_embeddings.weight"] == (65024, 4096)


def test_rows_of_the_fused_tensors():
    tensors = foreign("codegeex2", "huggingface", parameters("codegeex2"))
    rows = {f"{LAYER}.self_attention.query_key_value.{kind}": 64 for kind in ("weight", "bias")}
    rows[f"{LAYER}.mlp.dense_h_to_4h.weight"] = 40
    for name, count in rows.items():
        numbers = np.arange(count, dtype=np.float32)
        array = numbers if name.endswith("bias") else np.repeat(numbers[:, None], 32, 1)
        tensors[name] = LazyTensor("float32", array.shape, lambda array=array: array)
    ours = to_ours(entries("codegeex2", "huggingface"), tensors, shapes("codegeex2"), "here")
    begins = {
        f"attention.{part}.{kind}": row
        for part, row in (("query", 0), ("key", 32), ("value", 48))
        for kind in ("weight", "bias")
    }
    begins |= {"feed_forward.gate.weight": 0, "feed_forward.up.weight": 20}
    assert {name: ours[f"blocks.1.{name}"].array().reshape(-1)[0] for name in begins} == begins
    assert ours["blocks.1.attention.value.weight"].array()[-1, 0] == 63


def test_a_ranks_slice_has_a_share_of_each_part():
    mine = parameters("codegeex2")
    entry = next(
        e for e in entries("codegeex2", "huggingface", ranks=2) if e.foreign == f"{LAYER}.mlp.dense_h_to_4h.weight"
    )
    whole = foreign("codegeex2", "huggingface", mine)[entry.foreign].array()
    part = pack(entry.packing, [mine[name][10:] for name in entry.ours])
    assert np.array_equal(part, np.concatenate([whole[10:20], whole[30:40]]))


def test_config_json_there_and_back():
    small = FORMATS.to_json(config("codegeex2"))
    assert FORMATS.from_json(small) == FIELDS["codegeex2"]
    assert (small["model_type"], small["padded_vocab_size"], small["kv_channels"]) == ("chatglm", 24, 8)
    large = build_config("6b", {})
    written = FORMATS.to_json(large)
    published = {  # the released config.json
        **{"num_layers": 28, "hidden_size": 4096, "num_attention_heads": 32, "kv_channels": 128},
        **{"multi_query_attention": True, "multi_query_group_num": 2, "ffn_hidden_size": 13696},
        **{"padded_vocab_size": 65024, "seq_length": 8192, "layernorm_epsilon": 1e-5, "rmsnorm": True},
        **{"post_layer_norm": True, "add_qkv_bias": True, "add_bias_linear": False, "original_rope": True},
        **{"apply_query_key_layer_scaling": True, "attention_softmax_in_fp32": True, "interleaved_qkv": False},
        **{"apply_residual_connection_post_layernorm": False, "fp32_residual_connection": False},
        **{"tie_word_embeddings": False, "eos_token_id": 2, "quantization_bit": 0, "pre_seq_len": None},
    }
    assert published.items() <= written.items()
    expected = {key: asdict(large)[key] for key in FORMATS.defaults}
    assert FORMATS.from_json({"model_type": "chatglm", **published}) == expected


def test_what_the_configuration_cannot_say_is_refused():
    with pytest.raises(UserError, match="rotary_dim: 2 of 8 channels"):
        FORMATS.to_json(build_config(None, FIELDS["codegeex2"] | {"rotary_dim": 2}))
