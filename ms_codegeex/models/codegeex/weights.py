"""CodeGeeX's tensors in the foreign formats: names, shapes and packing as data.

Our linear weights are all [out, in]. The PyTorch side stores them the same way under other names; the original
MindSpore checkpoints store the attention output and both feed-forward matrices as [in, out]
(CodeGeeX release, checkpoint layout).
"""

from __future__ import annotations

from typing import Any

from ms_codegeex.models.foreign import COPY, STACK, TRANSPOSE, Entry, ForeignFormats, ForeignLayout, SizeKeys

# ours, PyTorch side; both [out, in]
_PYTORCH_BLOCK = (
    ("attention_norm.weight", "input_layernorm.weight"),
    ("attention_norm.bias", "input_layernorm.bias"),
    ("attention.query.weight", "attention.query.weight"),
    ("attention.query.bias", "attention.query.bias"),
    ("attention.key.weight", "attention.key.weight"),
    ("attention.key.bias", "attention.key.bias"),
    ("attention.value.weight", "attention.value.weight"),
    ("attention.value.bias", "attention.value.bias"),
    ("attention.output.weight", "attention.dense.weight"),
    ("attention.output.bias", "attention.dense.bias"),
    ("feed_forward_norm.weight", "post_attention_layernorm.weight"),
    ("feed_forward_norm.bias", "post_attention_layernorm.bias"),
    ("feed_forward.up.weight", "mlp.dense_h_to_4h.weight"),
    ("feed_forward.up.bias", "mlp.dense_h_to_4h.bias"),
    ("feed_forward.down.weight", "mlp.dense_4h_to_h.weight"),
    ("feed_forward.down.bias", "mlp.dense_4h_to_h.bias"),
)

# ours, original MindSpore, transform
_MINDSPORE_BLOCK = (
    ("attention_norm.weight", "layernorm1.gamma", COPY),
    ("attention_norm.bias", "layernorm1.beta", COPY),
    ("attention.query.weight", "attention.dense1.weight", COPY),
    ("attention.query.bias", "attention.dense1.bias", COPY),
    ("attention.key.weight", "attention.dense2.weight", COPY),
    ("attention.key.bias", "attention.dense2.bias", COPY),
    ("attention.value.weight", "attention.dense3.weight", COPY),
    ("attention.value.bias", "attention.dense3.bias", COPY),
    ("attention.output.weight", "attention.projection.weight", TRANSPOSE),
    ("attention.output.bias", "attention.projection.bias", COPY),
    ("feed_forward_norm.weight", "layernorm2.gamma", COPY),
    ("feed_forward_norm.bias", "layernorm2.beta", COPY),
    ("feed_forward.up.weight", "output.mapping.weight", TRANSPOSE),
    ("feed_forward.up.bias", "output.mapping.bias", COPY),
    ("feed_forward.down.weight", "output.projection.weight", TRANSPOSE),
    ("feed_forward.down.bias", "output.projection.bias", COPY),
)

# ours, the path to the embedding tables on the PyTorch side
_PYTORCH_TABLES = (
    ("embedding.word.weight", ("language_model", "embedding", "word_embeddings", "weight")),
    ("embedding.position.weight", ("language_model", "embedding", "position_embeddings", "weight")),
    ("top_query_embedding.weight", ("language_model", "topQueryEmbedding", "top_query_embeddings", "weight")),
)
_PYTORCH_TRANSFORMER = (
    *((f"blocks.{{i}}.{ours}", f"layers.{{i}}.{foreign}") for ours, foreign in _PYTORCH_BLOCK),
    *((f"top_query_layer.{ours}", f"topQueryLayer.{foreign}") for ours, foreign in _PYTORCH_BLOCK),
    ("final_norm.weight", "final_layernorm.weight"),
    ("final_norm.bias", "final_layernorm.bias"),
)

_TRANSFORMER = ("module", "language_model", "transformer")


def _fused(layer: str, foreign: str, *parts: str) -> tuple[Entry, ...]:
    """Linear layers whose rows one foreign tensor stacks, and the same for their biases."""
    return tuple(
        Entry(tuple(f"{layer}.attention.{part}.{kind}" for part in parts), (*_TRANSFORMER, f"{foreign}.{kind}"), STACK)
        for kind in ("weight", "bias")
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
    *(Entry((f"blocks.{{i}}.{ours}",), f"backbone.blocks.{{i}}.{name}", how) for ours, name, how in _MINDSPORE_BLOCK),
    *(
        Entry((f"top_query_layer.{ours}",), f"backbone.top_query_layer.{name}", how)
        for ours, name, how in _MINDSPORE_BLOCK
    ),
    Entry(("final_norm.weight",), "backbone.layernorm.gamma"),
    Entry(("final_norm.bias",), "backbone.layernorm.beta"),
)


def _limits(config: Any) -> list[str]:
    wide = 4 * config.hidden_size
    if config.intermediate_size == wide:
        return []
    return [
        f"the original's classes cannot load it: they make the feed-forward layers 4 x hidden_size = {wide} wide, not "
        f"{config.intermediate_size}"
    ]


FORMATS = ForeignFormats(
    sizes=SizeKeys(
        model_type="codegeex",
        required=(
            "vocab_size",
            "hidden_size",
            "num_layers",
            "num_heads",
            "intermediate_size",
            "max_position_embeddings",
        ),
        keys={
            "num_layers": "num_hidden_layers",
            "num_heads": "num_attention_heads",
            "init_std": "initializer_range",
        },
        only={"hidden_act": "fast_gelu", "tie_word_embeddings": True},
        written=lambda config: {
            "architectures": ["CodeGeeXForCausalLM"],
            "auto_map": {
                "AutoConfig": "modeling_codegeex.CodeGeeXConfig",
                "AutoModelForCausalLM": "modeling_codegeex.CodeGeeXForCausalLM",
            },
        },
    ),
    layouts=(
        ForeignLayout("huggingface", _HUGGINGFACE),
        ForeignLayout("megatron", _MEGATRON, axes=_MEGATRON_AXES),
        ForeignLayout("megatron", _MEGATRON_FUSED, axes=_MEGATRON_AXES),
        ForeignLayout("mindspore", _MINDSPORE),
    ),
    visible={
        "vocab_size": ("embedding.word.weight", 0),
        "hidden_size": ("embedding.word.weight", 1),
        "max_position_embeddings": ("embedding.position.weight", 0),
        "intermediate_size": ("top_query_layer.feed_forward.up.weight", 0),
    },
    ranks=lambda config: (config.num_heads, "number of heads"),
    limits=_limits,
    classes=("modeling_codegeex.py",),
)
