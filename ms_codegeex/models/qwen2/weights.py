"""Qwen2's tensors in the foreign formats: names, shapes and packing as data.

All matrices are [out, in] on every side. The original turns channel i of a head with channel i + d/2, our network turns
neighbours, so rows of query and key are renumbered. The names are those of transformers' Qwen2ForCausalLM, and
of mindformers' weights of Qwen2, which is its Llama with biases.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.models.foreign import (
    COPY,
    HALVES,
    SIZES,
    Entry,
    ForeignFormats,
    ForeignLayout,
    SizeKeys,
    in_our_names,
    inside,
    renamed,
)

_LAYER = "model.layers.{i}"
_PARTS = (
    ("input_layernorm", "attention_norm", ("weight",)),
    ("self_attn.q_proj", "attention.query", ("weight", "bias")),
    ("self_attn.k_proj", "attention.key", ("weight", "bias")),
    ("self_attn.v_proj", "attention.value", ("weight", "bias")),
    ("self_attn.o_proj", "attention.output", ("weight",)),
    ("post_attention_layernorm", "feed_forward_norm", ("weight",)),
    ("mlp.gate_proj", "feed_forward.gate", ("weight",)),
    ("mlp.up_proj", "feed_forward.up", ("weight",)),
    ("mlp.down_proj", "feed_forward.down", ("weight",)),
)
_TURNED = ("attention.query", "attention.key")

_PYTORCH = (
    Entry(("embedding.word.weight",), "model.embed_tokens.weight"),
    *(
        Entry((f"blocks.{{i}}.{ours}.{kind}",), f"{_LAYER}.{theirs}.{kind}", HALVES if ours in _TURNED else COPY)
        for theirs, ours, kinds in _PARTS
        for kind in kinds
    ),
    Entry(("final_norm.weight",), "model.norm.weight"),
    Entry(("head.weight",), "lm_head.weight"),
)
_BUFFERS = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq", r"model\.rotary_emb\.inv_freq")
_MINDFORMERS = {
    "model.embed_tokens.weight": "model.tok_embeddings.embedding_weight",
    "model.norm.": "model.norm_out.",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    **{f"self_attn.{part}_proj": f"attention.w{part}" for part in "qkvo"},
    **{f"mlp.{part}_proj": f"feed_forward.{name}" for part, name in (("gate", "w1"), ("down", "w2"), ("up", "w3"))},
}


def _of_mindformers(name: str) -> str:
    return re.sub("|".join(map(re.escape, _MINDFORMERS)), lambda match: _MINDFORMERS[match[0]], name)


def _checked(config_json: Mapping[str, Any]) -> Mapping[str, Any]:
    """`UserError` for a width that the heads do not have."""
    head, hidden, heads = (config_json.get(key) for key in ("head_dim", "hidden_size", "num_attention_heads"))
    if all(type(n) is int for n in (head, hidden, heads)) and head * heads != hidden:
        raise UserError(f"config.json: head_dim is {head}, expected hidden_size / num_attention_heads")
    return config_json


FORMATS = ForeignFormats(
    sizes=SizeKeys(
        model_type="qwen2",
        required=(*SIZES[:4], "num_kv_groups", *SIZES[4:]),  # their order in files
        keys={
            "num_layers": "num_hidden_layers",
            "num_heads": "num_attention_heads",
            "num_kv_groups": "num_key_value_heads",
            "rotary_base": "rope_theta",
            "norm_eps": "rms_norm_eps",
            "init_std": "initializer_range",
            "tied_head": "tie_word_embeddings",
        },
        only={"hidden_act": "silu", "use_sliding_window": False, "attention_dropout": 0.0},
        written=lambda config: {"architectures": ["Qwen2ForCausalLM"], "use_cache": True},
        read=_checked,
    ),
    layouts=(
        ForeignLayout("huggingface", _PYTORCH, skipped=_BUFFERS),
        ForeignLayout("megatron", inside(_PYTORCH, "module"), skipped=_BUFFERS),
        ForeignLayout("mindspore", renamed(_PYTORCH, _of_mindformers), skipped=_BUFFERS),
        ForeignLayout("mindspore", in_our_names(_PYTORCH)),
    ),
    ranks=lambda config: (config.num_kv_groups, "number of heads of keys and values"),
    limits=lambda config: [],
)
