"""CodeGeeX2's tensors in the foreign formats: names, shapes and packing as data.

It has ChatGLM2's layout: rows of query, key and value stacked in one matrix, those of gate and up in
another. All matrices are [out, in] on every side (CodeGeeX2 release, configuration and index of the checkpoint).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.models.foreign import (
    COPY,
    SIZES,
    STACK,
    Entry,
    ForeignFormats,
    ForeignLayout,
    SizeKeys,
    in_our_names,
    inside,
    renamed,
)

_QKV = ("attention.query", "attention.key", "attention.value")
_LAYER = "transformer.encoder.layers.{i}"
_TABLE = "transformer.embedding.word_embeddings.weight"


def _block(name: str, *ours: str) -> Entry:
    packing = STACK if len(ours) > 1 else COPY
    return Entry(tuple(f"blocks.{{i}}.{own}" for own in ours), f"{_LAYER}.{name}", packing)


_PYTORCH = (
    Entry(("embedding.word.weight",), _TABLE),
    _block("input_layernorm.weight", "attention_norm.weight"),
    _block("self_attention.query_key_value.weight", *(f"{part}.weight" for part in _QKV)),
    _block("self_attention.query_key_value.bias", *(f"{part}.bias" for part in _QKV)),
    _block("self_attention.dense.weight", "attention.output.weight"),
    _block("post_attention_layernorm.weight", "feed_forward_norm.weight"),
    _block("mlp.dense_h_to_4h.weight", "feed_forward.gate.weight", "feed_forward.up.weight"),
    _block("mlp.dense_4h_to_h.weight", "feed_forward.down.weight"),
    Entry(("final_norm.weight",), "transformer.encoder.final_layernorm.weight"),
    Entry(("head.weight",), "transformer.output_layer.weight"),
)
_BUFFERS = (r"transformer\.rotary_pos_emb\.inv_freq",)


def _mindspore(table: str) -> tuple[Entry, ...]:
    return renamed(_PYTORCH, lambda name: f"transformer.embedding.{table}" if name == _TABLE else name)


def _complete(config_json: Mapping[str, Any]) -> Mapping[str, Any]:
    """`rotary_dim`, which follows from the width of a head; `UserError` for a width that the heads do not have."""
    head, hidden, heads = (config_json.get(key) for key in ("kv_channels", "hidden_size", "num_attention_heads"))
    if all(type(n) is int for n in (head, hidden, heads)) and head * heads != hidden:
        raise UserError(f"config.json: kv_channels is {head}, expected hidden_size / num_attention_heads")
    width = hidden // heads if type(hidden) is int and type(heads) is int and heads else 0
    return {"rotary_dim": width // 2, **config_json}


def _written(config: Any) -> dict[str, Any]:
    head = config.head_dim
    if config.rotary_dim * 2 != head:
        wrong = f"{config.rotary_dim} of {head} channels, but ChatGLM2's software always turns half of them"
        raise UserError(f"rotary_dim: {wrong}; train with model.rotary_dim={head // 2}, or convert it --to mindspore")
    return {
        "architectures": ["ChatGLMModel"],
        "auto_map": {
            "AutoConfig": "configuration_chatglm.ChatGLMConfig",
            **dict.fromkeys(
                ("AutoModel", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM"),
                "modeling_chatglm.ChatGLMForConditionalGeneration",
            ),
        },
        "kv_channels": head,
        "apply_query_key_layer_scaling": True,
        "bias_dropout_fusion": True,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "rotary_percent": 0.5,
        "use_cache": True,  # neither the release's configuration class nor that of transformers has a default for it
    }


def _limits(config: Any) -> list[str]:
    half = config.head_dim // 2
    if config.rotary_dim == half:
        return []
    return [
        f"the original's classes compute something else from it: they turn {half} channels of a head, half of them, "
        f"not {config.rotary_dim}"
    ]


FORMATS = ForeignFormats(
    sizes=SizeKeys(
        model_type="chatglm",
        required=(*SIZES[:4], "num_kv_groups", *SIZES[4:], "rotary_dim"),  # their order in files
        keys={
            "vocab_size": "padded_vocab_size",
            "num_heads": "num_attention_heads",
            "num_kv_groups": "multi_query_group_num",
            "intermediate_size": "ffn_hidden_size",
            "max_position_embeddings": "seq_length",
            "norm_eps": "layernorm_epsilon",
            "init_std": "initializer_range",
            "softmax_fp32": "attention_softmax_in_fp32",
        },
        only={
            "rmsnorm": True,
            "post_layer_norm": True,
            "apply_residual_connection_post_layernorm": False,
            "add_qkv_bias": True,
            "add_bias_linear": False,
            "multi_query_attention": True,
            "interleaved_qkv": False,
            "original_rope": True,
            "fp32_residual_connection": False,
            "tie_word_embeddings": False,
            "quantization_bit": 0,
            "pre_seq_len": None,
            "prefix_projection": False,
        },
        written=_written,
        read=_complete,
    ),
    layouts=(
        ForeignLayout("huggingface", _PYTORCH, skipped=_BUFFERS),
        ForeignLayout("megatron", inside(_PYTORCH, "module"), skipped=_BUFFERS),
        ForeignLayout("mindspore", _mindspore("embedding_weight"), skipped=_BUFFERS),
        ForeignLayout("mindspore", _mindspore("embedding_table"), skipped=_BUFFERS),
        ForeignLayout("mindspore", in_our_names(_PYTORCH)),
    ),
    ranks=lambda config: (config.num_kv_groups, "number of groups of keys and values"),
    limits=_limits,
)
