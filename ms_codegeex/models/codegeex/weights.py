"""CodeGeeX's tensors in the foreign formats: names, shapes and packing as data.

Our linear weights are all [out, in]. The PyTorch side stores them the same way under other names; the original
MindSpore checkpoints store the attention output and both feed-forward matrices as [in, out]
(CodeGeeX release, checkpoint layout).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ms_codegeex.models.foreign import (
    COPY,
    SIZES,
    STACK,
    TRANSPOSE,
    Entry,
    ForeignFormats,
    ForeignLayout,
    SizeKeys,
    in_our_names,
)

# a block's layers: ours, PyTorch side, original MindSpore, and how that one has the weight
_LAYERS = (
    ("attention_norm", "input_layernorm", "layernorm1", COPY),
    ("attention.query", "attention.query", "attention.dense1", COPY),
    ("attention.key", "attention.key", "attention.dense2", COPY),
    ("attention.value", "attention.value", "attention.dense3", COPY),
    ("attention.output", "attention.dense", "attention.projection", TRANSPOSE),
    ("feed_forward_norm", "post_attention_layernorm", "layernorm2", COPY),
    ("feed_forward.up", "mlp.dense_h_to_4h", "output.mapping", TRANSPOSE),
    ("feed_forward.down", "mlp.dense_4h_to_h", "output.projection", TRANSPOSE),
)
_KINDS = ("weight", "bias")
_NORM_KINDS = {"weight": "gamma", "bias": "beta"}  # original MindSpore

# ours, the path to the embedding tables on the PyTorch side
_PYTORCH_TABLES = (
    ("embedding.word.weight", ("language_model", "embedding", "word_embeddings", "weight")),
    ("embedding.position.weight", ("language_model", "embedding", "position_embeddings", "weight")),
    ("top_query_embedding.weight", ("language_model", "topQueryEmbedding", "top_query_embeddings", "weight")),
)
_PYTORCH_TRANSFORMER = (
    *(
        (f"{block}.{ours}.{kind}", f"{foreign_block}.{foreign}.{kind}")
        for block, foreign_block in (("blocks.{i}", "layers.{i}"), ("top_query_layer", "topQueryLayer"))
        for ours, foreign, _, _ in _LAYERS
        for kind in _KINDS
    ),
    *((f"final_norm.{kind}", f"final_layernorm.{kind}") for kind in _KINDS),
)

_TRANSFORMER = ("module", "language_model", "transformer")


def _fused(layer: str, foreign: str, *parts: str) -> tuple[Entry, ...]:
    return tuple(
        Entry(tuple(f"{layer}.attention.{part}.{kind}" for part in parts), (*_TRANSFORMER, f"{foreign}.{kind}"), STACK)
        for kind in _KINDS
    )


_HUGGINGFACE = (
    *(Entry((ours,), ".".join(path)) for ours, path in _PYTORCH_TABLES),
    *(Entry((ours,), f"language_model.transformer.{name}") for ours, name in _PYTORCH_TRANSFORMER),
)
_MEGATRON = (
    *(Entry((ours,), ("module", *path)) for ours, path in _PYTORCH_TABLES),
    *(Entry((ours,), (*_TRANSFORMER, name)) for ours, name in _PYTORCH_TRANSFORMER),
)
# OneFlow and FasterTransformer: the same nesting, fewer linear layers; the top query layer keeps its query separate
_FUSED = (
    *_fused("blocks.{i}", "layers.{i}.attention.query_key_value", "query", "key", "value"),
    *_fused("top_query_layer", "topQueryLayer.attention.key_value", "key", "value"),
)
_MEGATRON_FUSED = (*(e for e in _MEGATRON if not any(e.ours[0] in fused.ours for fused in _FUSED)), *_FUSED)
_MEGATRON_AXES = {"top_query_embedding.weight": 0}  # ranks share it by positions; MindSpore's hold all of it
_MINDSPORE = (
    Entry(("embedding.word.weight",), "backbone.embedding.word_embedding.embedding_table"),
    Entry(("embedding.position.weight",), "backbone.embedding.position_embedding.embedding_table"),
    Entry(("top_query_embedding.weight",), "backbone.top_query_embedding.embedding_table"),
    *(
        Entry(
            (f"{block}.{ours}.{kind}",),
            f"backbone.{block}.{name}.{_NORM_KINDS[kind] if 'norm' in ours else kind}",
            packing if kind == "weight" else COPY,
        )
        for block in ("blocks.{i}", "top_query_layer")
        for ours, _, name, packing in _LAYERS
        for kind in _KINDS
    ),
    *(Entry((f"final_norm.{kind}",), f"backbone.layernorm.{name}") for kind, name in _NORM_KINDS.items()),
)


def _limits(config: Any) -> list[str]:
    wide = 4 * config.hidden_size
    if config.intermediate_size == wide:
        return []
    return [
        f"the original's classes cannot load it: they make the feed-forward layers 4 x hidden_size = {wide} wide, not "
        f"{config.intermediate_size}"
    ]


def _read(config_json: Mapping[str, Any]) -> Mapping[str, Any]:
    layers = config_json.get("num_hidden_layers")
    if type(layers) is not int or "top_query_layers" not in config_json:
        return config_json
    return {**config_json, "num_hidden_layers": layers - 1}


FORMATS = ForeignFormats(
    sizes=SizeKeys(
        model_type="codegeex",
        required=(*SIZES, "max_position_embeddings"),
        keys={"num_layers": "num_hidden_layers", "num_heads": "num_attention_heads", "init_std": "initializer_range"},
        only={"hidden_act": "fast_gelu", "tie_word_embeddings": True, "top_query_layers": 1},
        written=lambda config: {
            "architectures": ["CodeGeeXForCausalLM"],
            "auto_map": {
                "AutoConfig": "modeling_codegeex.CodeGeeXConfig",
                "AutoModel": "modeling_codegeex.CodeGeeXModel",
                "AutoModelForCausalLM": "modeling_codegeex.CodeGeeXForCausalLM",
            },
        },
        read=_read,
        counted={"num_layers": 1},  # the top query layer, as the original's num_layers does
    ),
    layouts=(
        ForeignLayout("huggingface", _HUGGINGFACE),
        ForeignLayout("megatron", _MEGATRON, axes=_MEGATRON_AXES),
        ForeignLayout("megatron", _MEGATRON_FUSED, axes=_MEGATRON_AXES),
        ForeignLayout("mindspore", _MINDSPORE),
        ForeignLayout("mindspore", in_our_names(_MINDSPORE)),
    ),
    visible={"max_position_embeddings": ("embedding.position.weight", 0)},
    ranks=lambda config: (config.num_heads, "number of heads"),
    limits=_limits,
    classes=("modeling_codegeex.py",),
)
