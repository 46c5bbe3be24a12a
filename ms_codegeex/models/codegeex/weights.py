"""CodeGeeX's tensors: our names and shapes, and the maps to the foreign formats, as data.

Our linear weights are all [out, in]. The PyTorch side stores them the same way under other names; the original
MindSpore checkpoints store the attention output and both feed-forward matrices as [in, out]
(CodeGeeX release, checkpoint layout).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ms_codegeex.errors import UserError
from ms_codegeex.formats.layout import COPY, TRANSPOSE, Entry, Foreign, Shape, expand, shown
from ms_codegeex.models.codegeex.config import PRESETS, build_config

FAMILY = "codegeex"
FIELDS = ("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size", "max_position_embeddings")
OPTIONAL_FIELDS = {"layer_norm_eps": 1e-5, "eos_token_id": 50256}
# Hugging Face key of each field whose name there differs
HUGGINGFACE_KEYS = {"num_layers": "num_hidden_layers", "num_heads": "num_attention_heads"}

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

FORMATS: Mapping[str, tuple[Entry, ...]] = {
    "huggingface": (
        *(Entry((ours,), ".".join(path)) for ours, path in _PYTORCH_TABLES),
        *(Entry((ours,), f"language_model.transformer.{name}") for ours, name in _PYTORCH_TRANSFORMER),
    ),
    "megatron": (
        *(Entry((ours,), ("module", *path)) for ours, path in _PYTORCH_TABLES),
        *(Entry((ours,), ("module", "language_model", "transformer", name)) for ours, name in _PYTORCH_TRANSFORMER),
    ),
    "mindspore": (
        Entry(("embedding.word.weight",), "backbone.embedding.word_embedding.embedding_table"),
        Entry(("embedding.position.weight",), "backbone.embedding.position_embedding.embedding_table"),
        Entry(("top_query_embedding.weight",), "backbone.top_query_embedding.embedding_table"),
        *(
            Entry((f"blocks.{{i}}.{ours}",), f"backbone.blocks.{{i}}.{name}", how)
            for ours, name, how in _MINDSPORE_BLOCK
        ),
        *(
            Entry((f"top_query_layer.{ours}",), f"backbone.top_query_layer.{name}", how)
            for ours, name, how in _MINDSPORE_BLOCK
        ),
        Entry(("final_norm.weight",), "backbone.layernorm.gamma"),
        Entry(("final_norm.bias",), "backbone.layernorm.beta"),
    ),
}


def entries(layout: str, config: Any) -> tuple[Entry, ...]:
    """Every tensor of `layout` ("huggingface", "megatron" or "mindspore") for a model of `config`'s sizes, in order."""
    return expand(FORMATS[layout], config.num_layers)


def expected_shapes(config: Any) -> dict[str, Shape]:
    """Our parameters and their shapes; `config` has the attributes `FIELDS`."""
    hidden, wide, positions = config.hidden_size, config.intermediate_size, config.max_position_embeddings
    block: dict[str, Shape] = {}
    for norm, linears in (("attention_norm", ("query", "key", "value", "output")), ("feed_forward_norm", ())):
        block |= {f"{norm}.weight": (hidden,), f"{norm}.bias": (hidden,)}
        for linear in linears:
            block |= {f"attention.{linear}.weight": (hidden, hidden), f"attention.{linear}.bias": (hidden,)}
    block |= {
        "feed_forward.up.weight": (wide, hidden),
        "feed_forward.up.bias": (wide,),
        "feed_forward.down.weight": (hidden, wide),
        "feed_forward.down.bias": (hidden,),
    }
    shapes: dict[str, Shape] = {
        "embedding.word.weight": (config.vocab_size, hidden),
        "embedding.position.weight": (positions, hidden),
        "top_query_embedding.weight": (positions, hidden),
    }
    for prefix in (*(f"blocks.{i}" for i in range(config.num_layers)), "top_query_layer"):
        shapes |= {f"{prefix}.{suffix}": shape for suffix, shape in block.items()}
    return shapes | {"final_norm.weight": (hidden,), "final_norm.bias": (hidden,)}


def _checked(values: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    """The fields of `values`, whose keys there are `keys.get(field, field)`; `UserError` naming a bad key."""
    fields: dict[str, Any] = {}
    for field in FIELDS:
        key = keys.get(field, field)
        value = values.get(key)
        if type(value) is not int or value < 1:
            raise UserError(f"model configuration: {key} is {value!r}, expected a positive whole number")
        fields[field] = value
    if fields["hidden_size"] % fields["num_heads"]:
        raise UserError(
            f"model configuration: {keys.get('num_heads', 'num_heads')} is {fields['num_heads']}, "
            f"expected a divisor of hidden_size {fields['hidden_size']}"
        )
    for field, default in OPTIONAL_FIELDS.items():
        value = values.get(field, default)
        if type(value) not in (int, type(default)) or not 0 <= value < float("inf"):
            raise UserError(f"model configuration: {field} is {value!r}, expected a number like {default}")
        fields[field] = value
    return fields


def model_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The model's sizes, checked, from a mapping in our own names (a checkpoint's `config.model`); ignores others."""
    return _checked(fields, {})


def config_fields(config_json: Mapping[str, Any]) -> dict[str, Any]:
    """The model's sizes in our names from a Hugging Face `config.json`.

    Raises `UserError` naming the key that is missing or cannot be: another `model_type`, another activation.
    """
    for key, expected in (("model_type", FAMILY), ("hidden_act", "fast_gelu"), ("tie_word_embeddings", True)):
        found = config_json.get(key, None if key == "model_type" else expected)
        if found != expected:
            raise UserError(f"config.json: {key} is {found!r}, expected {expected!r}")
    return _checked(config_json, HUGGINGFACE_KEYS)


def huggingface_config(config: Any) -> dict[str, Any]:
    """`config.json` of a model directory; `torch_dtype` is that of our own parameters, float32."""
    sizes = {HUGGINGFACE_KEYS.get(field, field): getattr(config, field) for field in FIELDS}
    return {
        "model_type": FAMILY,
        "architectures": ["CodeGeeXForCausalLM"],
        **sizes,
        **{field: getattr(config, field, default) for field, default in OPTIONAL_FIELDS.items()},
        "hidden_act": "fast_gelu",
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }


def recognises(layout: str, names: Collection[Foreign]) -> bool:
    """Whether tensors of these foreign names look like this family's: its top query table is unmistakable."""
    return any(entry.foreign in names for entry in FORMATS[layout] if entry.ours == ("top_query_embedding.weight",))


def infer_fields(layout: str, shapes: Mapping[Foreign, Shape], known: Mapping[str, Any]) -> dict[str, Any]:
    """The model's sizes from the shapes of its tensors, completed and overridden by `known` (our field names).

    The number of heads leaves no trace in the shapes: it comes from `known` or from the preset of that width.
    Raises `UserError` naming a missing tensor, or the head count when nothing tells it.
    """
    wanted = {
        "embedding.word.weight": "vocab_size",
        "embedding.position.weight": "max_position_embeddings",
        "top_query_layer.feed_forward.up.weight": "intermediate_size",
    }
    fields: dict[str, Any] = {}
    for entry in FORMATS[layout]:
        if entry.ours[0] in wanted:
            shape = shapes.get(entry.foreign, ())
            if len(shape) != 2:
                raise UserError(f"tensor {shown(entry.foreign)}: missing or not a matrix; is the file complete?")
            rows, columns = entry.transform.shape([shape])
            fields |= {wanted[entry.ours[0]]: rows, "hidden_size": columns}
    first = next(entry for entry in FORMATS[layout] if "{i}" in entry.ours[0])
    fields["num_layers"] = next(i for i in range(len(shapes) + 1) if first.numbered(i).foreign not in shapes)
    heads = {preset.hidden_size: preset.num_heads for preset in (build_config(name, {}) for name in PRESETS)}
    if fields["hidden_size"] in heads:
        fields["num_heads"] = heads[fields["hidden_size"]]
    fields |= {key: value for key, value in known.items() if key in (*FIELDS, *OPTIONAL_FIELDS)}
    if "num_heads" not in fields:
        raise UserError(
            f"num_heads: a model of hidden_size {fields['hidden_size']} is not one of the presets "
            "and the file does not say how many heads it has; add --set num_heads=N"
        )
    return model_fields(fields)
