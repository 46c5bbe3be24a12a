"""CodeGen's tensors in the foreign formats: names, shapes and packing as data.

The release fuses query, value and key, in this order, in 4 groups of heads (the cores of the machine it was trained
on), whatever the size. All matrices are [out, in] on every side (CodeGen release, modelling file and checkpoints).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ms_codegeex.models.foreign import (
    SIZES,
    Entry,
    ForeignFormats,
    ForeignLayout,
    Packing,
    SizeKeys,
    in_our_names,
    inside,
    renamed,
)

GROUPS = 4

# ours, PyTorch side
_NAMES = (
    ("embedding.word.weight", "transformer.wte.weight"),
    ("blocks.{i}.norm.weight", "transformer.h.{i}.ln_1.weight"),
    ("blocks.{i}.norm.bias", "transformer.h.{i}.ln_1.bias"),
    ("blocks.{i}.attention.output.weight", "transformer.h.{i}.attn.out_proj.weight"),
    ("blocks.{i}.feed_forward.up.weight", "transformer.h.{i}.mlp.fc_in.weight"),
    ("blocks.{i}.feed_forward.up.bias", "transformer.h.{i}.mlp.fc_in.bias"),
    ("blocks.{i}.feed_forward.down.weight", "transformer.h.{i}.mlp.fc_out.weight"),
    ("blocks.{i}.feed_forward.down.bias", "transformer.h.{i}.mlp.fc_out.bias"),
    ("final_norm.weight", "transformer.ln_f.weight"),
    ("final_norm.bias", "transformer.ln_f.bias"),
    ("head.weight", "lm_head.weight"),
    ("head.bias", "lm_head.bias"),
)
_FUSED = Entry(
    tuple(f"blocks.{{i}}.attention.{part}.weight" for part in ("query", "value", "key")),
    "transformer.h.{i}.attn.qkv_proj.weight",
    Packing("group", GROUPS),
)
_PLAIN = tuple(Entry((ours,), name) for ours, name in _NAMES)
_PYTORCH = (*_PLAIN[:3], _FUSED, *_PLAIN[3:])
# GPT-J is the same network, with three matrices in place of the fused one (transformers, `modeling_gptj.py`)
_GPTJ = (
    *_PLAIN[:3],
    *(
        Entry((f"blocks.{{i}}.attention.{ours}.weight",), f"transformer.h.{{i}}.attn.{name}_proj.weight")
        for ours, name in (("query", "q"), ("key", "k"), ("value", "v"))
    ),
    *_PLAIN[3:],
)
# tables that older files contain
_BUFFERS = (r"transformer\.h\.\d+\.attn\.(causal_mask|bias|masked_bias|embed_positions)",)


def _mindspore(name: str) -> str:
    layer, _, kind = name.rpartition(".")
    if layer.endswith("wte"):
        return f"{layer}.embedding_table"
    if layer.endswith(("ln_1", "ln_f")):
        return f"{layer}.{'gamma' if kind == 'weight' else 'beta'}"
    return name


def _complete(config_json: Mapping[str, Any]) -> Mapping[str, Any]:
    hidden = config_json.get("n_embd")
    if config_json.get("n_inner") is None and isinstance(hidden, int):
        return {**config_json, "n_inner": 4 * hidden}
    return config_json


def _limits(config: Any) -> list[str]:
    if config.num_heads % GROUPS == 0:
        return []
    return [
        f"the original's classes and transformers before 5.24 cannot run it: they share the heads out to {GROUPS} "
        f"groups, and there are {config.num_heads}"
    ]


FORMATS = ForeignFormats(
    sizes=SizeKeys(
        model_type="codegen",
        required=(*SIZES, "rotary_dim"),
        keys={
            "hidden_size": "n_embd",
            "num_layers": "n_layer",
            "num_heads": "n_head",
            "intermediate_size": "n_inner",
            "max_position_embeddings": "n_positions",
            "layer_norm_eps": "layer_norm_epsilon",
            "init_std": "initializer_range",
        },
        only={"activation_function": "gelu_new", "tie_word_embeddings": False, "scale_attn_weights": True},
        written=lambda config: {
            "architectures": ["CodeGenForCausalLM"],
            "n_ctx": config.max_position_embeddings,
            **{f"{where}_pdrop": 0.0 for where in ("attn", "embd", "resid")},
            "bos_token_id": 1,
            "use_cache": True,
        },
        read=_complete,
        synonyms={"activation_function": ("gelu_pytorch_tanh", "gelu_fast")},  # the same formula
    ),
    layouts=(
        ForeignLayout("huggingface", _PYTORCH, skipped=_BUFFERS),
        ForeignLayout(
            "gptj",
            _GPTJ,
            skipped=_BUFFERS,
            config={
                "model_type": "gptj",
                "architectures": ["GPTJForCausalLM"],
                "rotary": True,
                "tokenizer_class": "CodeGenTokenizer",  # tells it from a GPT-J
            },
        ),
        ForeignLayout("megatron", inside(_PYTORCH, "module"), skipped=_BUFFERS),
        ForeignLayout("mindspore", renamed(_PYTORCH, _mindspore), skipped=_BUFFERS),
        ForeignLayout("mindspore", in_our_names(_PYTORCH)),
    ),
    ranks=lambda config: (GROUPS, "number of groups in its fused matrices"),
    limits=_limits,
)
