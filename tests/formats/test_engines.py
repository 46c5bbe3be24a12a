"""Directories for vLLM and SGLang: the names, shapes and settings that their classes ask for, and CodeGen as a GPT-J.

The tables state what was read in vLLM 0.33.0 (`vllm/model_executor/models/chatglm.py`, `gpt_j.py`, `registry.py`,
`transformers_utils/configs/chatglm.py`) and SGLang 0.5.23 (`sglang/srt/models/chatglm.py`, `gpt_j.py`,
`configs/chatglm.py`); both take the same names. The engines themselves are not run.
"""

import json
import re

import numpy as np
import pytest
import small_models as small
from conftest import ROOT, command_here

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.model_directory import ModelDirectory
from ms_codegeex.formats.sources import open_source

ARCHITECTURES = {"ChatGLMModel": "chatglm", "GPTJForCausalLM": "gptj"}  # of both registries: model_type
# each parameter of their class: the names of a file that are loaded into it, one below the other, and its shape
CHATGLM = {
    "transformer.embedding.weight": (["transformer.embedding.word_embeddings.weight"], "vd"),
    "transformer.encoder.layers.{i}.input_layernorm.weight": (None, "d"),
    "transformer.encoder.layers.{i}.self_attention.query_key_value.weight": (None, "qd"),
    "transformer.encoder.layers.{i}.self_attention.query_key_value.bias": (None, "q"),
    "transformer.encoder.layers.{i}.self_attention.dense.weight": (None, "dd"),
    "transformer.encoder.layers.{i}.post_attention_layernorm.weight": (None, "d"),
    "transformer.encoder.layers.{i}.mlp.dense_h_to_4h.weight": (None, "gd"),
    "transformer.encoder.layers.{i}.mlp.dense_4h_to_h.weight": (None, "df"),
    "transformer.encoder.final_layernorm.weight": (None, "d"),
    "transformer.output_layer.weight": (None, "vd"),
}
GPTJ = {
    "transformer.wte.weight": (None, "vd"),
    "transformer.h.{i}.ln_1.weight": (None, "d"),
    "transformer.h.{i}.ln_1.bias": (None, "d"),
    "transformer.h.{i}.attn.qkv_proj.weight": ([f"transformer.h.{{i}}.attn.{p}_proj.weight" for p in "qkv"], "qd"),
    "transformer.h.{i}.attn.out_proj.weight": (None, "dd"),
    "transformer.h.{i}.mlp.fc_in.weight": (None, "fd"),
    "transformer.h.{i}.mlp.fc_in.bias": (None, "f"),
    "transformer.h.{i}.mlp.fc_out.weight": (None, "df"),
    "transformer.h.{i}.mlp.fc_out.bias": (None, "d"),
    "transformer.ln_f.weight": (None, "d"),
    "transformer.ln_f.bias": (None, "d"),
    "lm_head.weight": (None, "vd"),
    "lm_head.bias": (None, "v"),
}
# what their configuration classes and models read: key, and the value that their code has no branch for otherwise
CHATGLM_KEYS = {
    **dict.fromkeys(("num_layers", "padded_vocab_size", "hidden_size", "ffn_hidden_size", "kv_channels")),
    **dict.fromkeys(("num_attention_heads", "multi_query_group_num", "seq_length", "layernorm_epsilon")),
    **{"rmsnorm": True, "post_layer_norm": True, "add_bias_linear": False, "add_qkv_bias": True},
    **{"apply_residual_connection_post_layernorm": False, "fp32_residual_connection": False, "hidden_dropout": 0.0},
    **{"multi_query_attention": True, "original_rope": True, "rope_ratio": 1, "tie_word_embeddings": False},
}
GPTJ_KEYS = {
    **dict.fromkeys(("vocab_size", "n_embd", "n_layer", "n_head", "n_inner", "n_positions", "rotary_dim")),
    **{"activation_function": "gelu_new", "rotary": True, "tie_word_embeddings": False},
    **dict.fromkeys(("layer_norm_epsilon",)),
}
CASES = {
    "codegeex2": ("hf", "ChatGLMModel", CHATGLM, CHATGLM_KEYS),
    "codegen": ("gptj", "GPTJForCausalLM", GPTJ, GPTJ_KEYS),
}


def lengths(name):
    """The axes of the tables."""
    config = small.config(name)
    groups = getattr(config, "num_kv_groups", config.num_heads)
    return {
        "v": config.vocab_size,
        "d": config.hidden_size,
        "q": config.hidden_size + 2 * groups * config.head_dim,
        "f": config.intermediate_size,
        "g": 2 * config.intermediate_size,
    }


@pytest.fixture(params=CASES)
def exported(request, tmp_path):
    to, *asked = CASES[request.param]
    run = small.save_run(tmp_path / "run", request.param, small.parameters(request.param))
    if request.param == "codegeex2":
        with pytest.raises(UserError, match=r"^--to gptj: no model of codegeex2 is one"):
            convert(run, "gptj", tmp_path / "out", progress=False)
    convert(run, to, tmp_path / "out", progress=False)
    return request.param, tmp_path / "out", *asked


def test_their_classes_find_every_parameter_and_nothing_else(exported):
    name, directory, architecture, table, keys = exported
    config = json.loads((directory / "config.json").read_text())
    assert config["architectures"] == [architecture] and config["model_type"] == ARCHITECTURES[architecture]
    for key, value in keys.items():
        assert config[key] is not None and (value is None or config[key] == value), key
    tensors, axes = dict(ModelDirectory(directory).tensors), lengths(name)
    for parameter, (sources, shape) in table.items():
        for layer in range(small.config(name).num_layers) if "{i}" in parameter else (0,):
            read = [tensors.pop(one.replace("{i}", str(layer))) for one in sources or [parameter]]
            assert all(one.shape[1:] == read[0].shape[1:] for one in read)
            assert (sum(one.shape[0] for one in read), *read[0].shape[1:]) == tuple(axes[axis] for axis in shape)
    assert list(tensors) == []


def test_a_gptj_is_read_as_the_codegen_that_it_was(tmp_path):
    """Back to CodeGen's own form, byte for byte, with its tokenizer; another GPT-J is refused by its key."""
    arrays = small.parameters("codegen")
    convert(small.save_run(tmp_path / "run", "codegen", arrays), "hf", tmp_path / "hf", progress=False)
    load_tokenizer("codegen-multi").save(tmp_path / "hf")
    convert(tmp_path / "hf", "gptj", tmp_path / "gptj", progress=False)
    small.equal(open_source(tmp_path / "gptj"), arrays)
    convert(tmp_path / "gptj", "hf", tmp_path / "again", progress=False)
    for file in (tmp_path / "hf").iterdir():
        if file.name != "provenance.json":
            assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name
    assert command_here("inspect", tmp_path / "gptj").stdout.startswith("model: codegen, as a GPT-J\n")
    config = json.loads((tmp_path / "gptj" / "config.json").read_text())
    (tmp_path / "gptj" / "config.json").write_text(json.dumps(config | {"rotary": False}))
    with pytest.raises(UserError, match=r"config\.json: rotary is False, expected True; give a model that has it$"):
        open_source(tmp_path / "gptj")


@pytest.mark.slow
def test_a_codegen_as_a_gptj_has_the_same_logits(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    run = small.save_run(tmp_path / "run", "codegen", small.parameters("codegen"))
    ids = torch.tensor(np.random.default_rng(1).integers(0, 24, (2, 16)))
    logits = []
    for to, model in (("hf", transformers.CodeGenForCausalLM), ("gptj", transformers.GPTJForCausalLM)):
        convert(run, to, tmp_path / to, progress=False)
        loaded, differences = model.from_pretrained(tmp_path / to, output_loading_info=True)
        assert not any(differences.values())
        with torch.no_grad():
            logits.append(loaded(ids).logits)
    assert torch.equal(*logits) and logits[0].std() > 1


def test_the_page_names_the_versions_that_were_read():
    page = (ROOT / "docs" / "engines.md").read_text()
    for engine in ("vLLM 0.33.0", "SGLang 0.5.23"):
        assert engine in page and engine in __doc__
    lines = re.findall(r"^python -m sglang.*$", page, flags=re.MULTILINE)
    assert lines and all(line.endswith("# not run") for line in lines)
