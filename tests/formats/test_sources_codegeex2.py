"""CodeGeeX2 as it was released: seven pickles in bfloat16, and settings that must have the released values."""

import json
from collections import OrderedDict

import numpy as np
import pytest
import small_models
from small_models import FIELDS, bfloat16, config, equal, foreign, formats, parameters
from tokenizer_files import write_codegeex4

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.printing import print_once
from ms_codegeex.formats.mindspore_checkpoint import write_mindspore
from ms_codegeex.formats.sources import _say_if_unclear, open_source

torch = pytest.importorskip("torch")

CHATGLM = small_models.CHATGLM | {  # the published keys; sizes of the small model
    "architectures": ["ChatGLMModel"],
    "auto_map": {"AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration"},
    "hidden_size": 32,
    "num_attention_heads": 4,
    "ffn_hidden_size": 20,
    "padded_vocab_size": 24,
    "seq_length": 16,
    "layernorm_epsilon": 1e-6,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "torch_dtype": "bfloat16",
    "eos_token_id": 3,
}


def brain(bits):
    """A PyTorch tensor of bfloat16 bits."""
    return torch.from_numpy(bits.view(np.int16).copy()).view(torch.bfloat16)


def save_chatglm(directory, bits, settings=CHATGLM):
    """CodeGeeX2's directory as it was released: PyTorch pickles in 7 shards, bfloat16, with the rotary buffer."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(settings))
    (directory / "tokenizer.model").write_bytes(b"sentencepiece")
    tensors = {}
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
    saved = {"transformer.rotary_pos_emb.inv_freq": torch.ones(2).bfloat16()}
    saved |= {name: brain(each) for name, each in tensors.items()}
    names, weight_map = list(saved), {}
    for k in range(7):
        file = f"pytorch_model-{k + 1:05d}-of-00007.bin"
        torch.save(OrderedDict((name, saved[name]) for name in names[k::7]), directory / file)
        weight_map |= dict.fromkeys(names[k::7], file)
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory


def test_codegeex2_as_it_was_released(tmp_path):
    bits = bfloat16(parameters("codegeex2"))
    source = open_source(save_chatglm(tmp_path / "m", bits))
    equal(source, bits)
    assert source.family.name == "codegeex2" and source.fields == FIELDS["codegeex2"]
    assert {tensor.dtype for tensor in source.tensors.values()} == {"bfloat16"}
    assert source.skipped == ("transformer.rotary_pos_emb.inv_freq",)


CODEGEN_2 = formats("codegen").to_json(config("codegen"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rmsnorm": False}, "rmsnorm is False, expected True"),
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
        ({"model_type": "llama"}, "is Llama .* by its model_type"),
        ({"model_type": "qwen2_moe"}, "is a mixture of experts by its model_type, not qwen2"),
        ({"model_type": "qwen2_5_vl"}, "is a model of pictures or sounds by its model_type, not qwen2"),
        ({"model_type": "qwen3"}, "is Qwen3 by its model_type, not qwen2"),
        ({"model_type": "qwen3_moe"}, "is a mixture of experts by its model_type, not qwen2"),
        ({"model_type": "phi"}, "model_type is 'phi', expected one of .*; give a model of one of these"),
        ({"model_type": "codegen"}, "m: config.json: "),
        (CODEGEN_2, r"config\.json says codegen, but the tensors are those of codegeex2"),
    ],
)
def test_a_configuration_we_cannot_honour_is_refused(tmp_path, change, message):
    save_chatglm(tmp_path / "m", bfloat16(parameters("codegeex2")), CHATGLM | change)
    with pytest.raises(UserError, match=message):
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


# -- what only looks like one of ours ----------------------------------------------------------------------------------

CODEGEN = {"model_type": "codegen", "n_embd": 2048, "n_layer": 16, "n_head": 16, "rotary_dim": 32, "vocab_size": 51200}
GLM = {"model_type": "chatglm", "hidden_size": 4096, "num_attention_heads": 32}
CONFIGURATIONS = {  # as their repositories publish them
    "CodeGen2": CODEGEN | {"auto_map": {"AutoModelForCausalLM": "modeling_codegen.CodeGenForCausalLM"}},
    "CodeGen2.5": {"model_type": "llama", "vocab_size": 51200, "architectures": ["LlamaForCausalLM"]},
    "ChatGLM-6B": GLM | {"inner_hidden_size": 16384, "position_encoding_2d": True, "vocab_size": 130528},
    "ChatGLM2": CHATGLM | {"seq_length": 32768},
    "ChatGLM3": CHATGLM | {"_name_or_path": "THUDM/chatglm3-6b", "seq_length": 8192},
    "GLM-4-9B": CHATGLM | {"_name_or_path": "THUDM/glm-4-9b-chat", "padded_vocab_size": 151552, "rope_ratio": 500},
    "GLM-4": {"model_type": "glm4", "architectures": ["Glm4ForCausalLM"]},
}


def refused(directory, message, known=None):
    with pytest.raises(UserError) as error:
        open_source(directory, known)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_family_that_only_looks_like_ours_is_refused_by_name(tmp_path, name):
    save_chatglm(tmp_path / "m", bfloat16(parameters("codegeex2")), CONFIGURATIONS[name])
    refused(tmp_path / "m", f"is {name}")


@pytest.mark.parametrize("file", ["modeling_chatglm.py", "tokenizer_config.json"])
def test_chatglm3_is_recognised_by_its_code_and_by_its_tokenizer(tmp_path, file):
    save_chatglm(tmp_path / "m", bfloat16(parameters("codegeex2")))
    assert open_source(tmp_path / "m").family.name == "codegeex2"
    text = "ROLES = ['<|observation|>']" if file.endswith(".py") else '{"name_or_path": "THUDM/chatglm3-6b"}'
    (tmp_path / "m" / file).write_text(text)
    refused(tmp_path / "m", f"is ChatGLM3 by its {'code' if file.endswith('.py') else 'name'}, not codegeex2")


def test_a_directory_of_codegeex4_has_code_with_roles_too(tmp_path):
    save_chatglm(tmp_path / "m", bfloat16(parameters("codegeex2")))
    write_codegeex4(tmp_path / "m")
    source = open_source(tmp_path / "m")
    assert (source.family.name, source.tokenizer().name) == ("codegeex2", "codegeex4")
    assert source.description.infill.order == ("suffix", "prefix", "middle")


REAL = [("GPTJ", "GPT-J"), ("GPT2", "GPT-2"), ("Llama", "Llama"), ("CodeGen", None), ("Glm", "GLM-4")]


@pytest.mark.parametrize("kind, name", REAL)
def test_models_of_the_real_classes(tmp_path, kind, name):
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 50400, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    sizes |= {"rotary_dim": 8, "intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0}
    config = getattr(transformers, f"{kind}Config")(**sizes)
    model = getattr(transformers, f"{kind}LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM")(config)
    model.save_pretrained(tmp_path / "m")
    if name is None:
        assert open_source(tmp_path / "m").fields["hidden_size"] == 64
    else:
        refused(tmp_path / "m", f"is {name}")
    if kind in ("GPT2", "GPTJ", "Llama"):  # without its configuration
        torch.save(model.state_dict(), tmp_path / "flat.pt")
        refused(tmp_path / "flat.pt", f"is {name}", {"num_heads": 4, "rotary_dim": 8} if kind == "GPTJ" else None)
    if kind == "CodeGen":
        (tmp_path / "m" / "modeling_codegen.py").write_text("mp_num = 8")
        refused(tmp_path / "m", "is CodeGen2 by its model_type and files")


def test_what_nothing_distinguishes_is_said_once(tmp_path, capsys):
    """ChatGLM2's and ChatGLM3's sizes are those of CodeGeeX2."""
    sizes = {"hidden_size": 4096, "num_layers": 28, "num_kv_groups": 2}
    for name, said in ((None, 1), ("THUDM/codegeex2-6b", 0)):
        for _ in range(2):
            _say_if_unclear(tmp_path / str(name), "codegeex2", sizes, str(name), print_once)
        assert capsys.readouterr().err.count("ChatGLM3-6B, too, and nothing here says which") == said
    for place, said in (("codegen2-7B.pt", 1), ("codegen-6B.pt", 0)):
        _say_if_unclear(tmp_path / place, "codegen", {"hidden_size": 4096, "num_layers": 32}, place, print_once)
        assert capsys.readouterr().err.count("fit CodeGen2-7B, too") == said
