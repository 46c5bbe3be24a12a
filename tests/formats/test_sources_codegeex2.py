"""CodeGeeX2 as it was released: seven pickles in bfloat16 and a configuration of which we honour only one reading."""

import json
from collections import OrderedDict

import numpy as np
import pytest
from small_models import FIELDS, bfloat16, equal, foreign, formats, parameters

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.mindspore_checkpoint import write_mindspore
from ms_codegeex.formats.sources import open_source

torch = pytest.importorskip("torch")

CHATGLM = {  # the published keys; sizes of the small model
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "auto_map": {"AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration"},
    "num_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "kv_channels": 8,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "ffn_hidden_size": 20,
    "padded_vocab_size": 24,
    "seq_length": 16,
    "layernorm_epsilon": 1e-6,
    "rmsnorm": True,
    "post_layer_norm": True,
    "add_qkv_bias": True,
    "add_bias_linear": False,
    "apply_query_key_layer_scaling": True,
    "attention_softmax_in_fp32": True,
    "original_rope": True,
    "interleaved_qkv": False,
    "apply_residual_connection_post_layernorm": False,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "fp32_residual_connection": False,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
    "eos_token_id": 3,
    "quantization_bit": 0,
    "pre_seq_len": None,
    "prefix_projection": False,
}


def brain(bits):
    """A PyTorch tensor of bfloat16 bits."""
    return bits if isinstance(bits, torch.Tensor) else torch.from_numpy(bits.view(np.int16).copy()).view(torch.bfloat16)


def save_chatglm(directory, bits, config=CHATGLM, shards=7):
    """CodeGeeX2's directory as it was released: PyTorch pickles in 7 shards, bfloat16, with the rotary buffer."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.model").write_bytes(b"sentencepiece")
    tensors = {"transformer.rotary_pos_emb.inv_freq": torch.ones(2).bfloat16()}
    for i in range(2):
        own, layer = f"blocks.{i}", f"transformer.encoder.layers.{i}"
        for kind in ("weight", "bias"):
            rows = [bits[f"{own}.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            tensors[f"{layer}.self_attention.query_key_value.{kind}"] = np.concatenate(rows)
        halves = [bits[f"{own}.feed_forward.gate.weight"], bits[f"{own}.feed_forward.up.weight"]]
        tensors[f"{layer}.mlp.dense_h_to_4h.weight"] = np.concatenate(halves)
        tensors[f"{layer}.mlp.dense_4h_to_h.weight"] = bits[f"{own}.feed_forward.down.weight"]
        tensors[f"{layer}.self_attention.dense.weight"] = bits[f"{own}.attention.output.weight"]
        tensors[f"{layer}.input_layernorm.weight"] = bits[f"{own}.attention_norm.weight"]
        tensors[f"{layer}.post_attention_layernorm.weight"] = bits[f"{own}.feed_forward_norm.weight"]
    tensors["transformer.embedding.word_embeddings.weight"] = bits["embedding.word.weight"]
    tensors["transformer.encoder.final_layernorm.weight"] = bits["final_norm.weight"]
    tensors["transformer.output_layer.weight"] = bits["head.weight"]
    names, weight_map = list(tensors), {}
    for k in range(shards):
        file = f"pytorch_model-{k + 1:05d}-of-{shards:05d}.bin"
        shard = {name: tensors[name] for name in names[k::shards]}
        torch.save(
            OrderedDict(
                (
                    name,
                    torch.from_numpy(t.view(np.int16).copy()).view(torch.bfloat16) if isinstance(t, np.ndarray) else t,
                )
                for name, t in shard.items()
            ),
            directory / file,
        )
        weight_map |= dict.fromkeys(shard, file)
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory


def test_codegeex2_as_it_was_released(tmp_path):
    bits = bfloat16(parameters("codegeex2"))
    source = open_source(save_chatglm(tmp_path / "m", bits))
    equal(source, bits)
    assert source.family.name == "codegeex2" and source.fields == FIELDS["codegeex2"]
    assert {tensor.dtype for tensor in source.tensors.values()} == {"bfloat16"}
    assert source.skipped == ("transformer.rotary_pos_emb.inv_freq",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rmsnorm": False}, "rmsnorm is False, but only True"),
        ({"post_layer_norm": False}, "post_layer_norm"),
        ({"add_bias_linear": True}, "add_bias_linear"),
        ({"add_qkv_bias": False}, "add_qkv_bias"),
        ({"multi_query_attention": False}, "multi_query_attention"),
        ({"apply_residual_connection_post_layernorm": True}, "apply_residual_connection_post_layernorm"),
        ({"quantization_bit": 4}, "quantization_bit"),
        ({"original_rope": False}, "original_rope"),
        ({"kv_channels": 16}, "kv_channels is 16"),
        ({"multi_query_group_num": 3}, "multi_query_group_num: 3 does not divide num_attention_heads 4"),
        ({"padded_vocab_size": None}, "padded_vocab_size"),
        ({"attention_softmax_in_fp32": "yes"}, "attention_softmax_in_fp32"),
        ({"ffn_hidden_size": 24}, r"dense_h_to_4h.weight has shape \[40, 32\].*\[48, 32\]"),
        ({"num_layers": 3}, r"missing tensor transformer.encoder.layers.2.input_layernorm.weight"),
        ({"num_layers": 1}, r"unexpected tensor transformer.encoder.layers.1"),
        ({"model_type": "llama"}, "model_type is 'llama'; expected one of codegeex, codegen, gptj, chatglm"),
        ({"model_type": "codegen"}, "m: config.json: "),
    ],
)
def test_a_configuration_we_cannot_honour_is_refused(tmp_path, change, message):
    save_chatglm(tmp_path / "m", bfloat16(parameters("codegeex2")), CHATGLM | change)
    with pytest.raises(UserError, match=message):
        open_source(tmp_path / "m")


def test_a_wrong_family_is_named(tmp_path):
    config = formats("codegen").sizes.to_json(type("C", (), FIELDS["codegen"]))
    save_chatglm(tmp_path / "m", bfloat16(parameters("codegeex2")), config)
    with pytest.raises(UserError, match=r"config\.json says codegen, but the tensors are those of codegeex2"):
        open_source(tmp_path / "m")


@pytest.mark.parametrize("table", ["embedding_weight", "embedding_table"])
def test_mindformers_two_names_of_the_table(tmp_path, table):
    arrays = parameters("codegeex2")
    tensors = foreign("codegeex2", "mindspore", arrays)
    renamed = {name.replace("embedding_weight", table): tensor for name, tensor in tensors.items()}
    write_mindspore(tmp_path / "m.ckpt", renamed)
    source = open_source(tmp_path / "m.ckpt", FIELDS["codegeex2"])
    equal(source, arrays)
    assert f"transformer.embedding.{table}" in renamed
