"""The published parameter names and layouts of each family, and the tensors of ours cut out of them by hand.

Independent of the package's own maps: indices are written out as the dossiers state them. The maps are linear, so they
take gradients from one layout to the other as well. Arrays are NumPy's.
"""

from __future__ import annotations

import numpy as np


def codegen(tensors, layers, heads):
    """CodeGen: four groups of rows, in each the group's heads of the query, then of the VALUE, then of the key."""
    hidden = tensors["transformer.wte.weight"].shape[1]
    d, per_group = hidden // heads, heads // 4
    ours = {
        "embedding.word.weight": tensors["transformer.wte.weight"],
        **{f"final_norm.{kind}": tensors[f"transformer.ln_f.{kind}"] for kind in ("weight", "bias")},
        **{f"head.{kind}": tensors[f"lm_head.{kind}"] for kind in ("weight", "bias")},
    }
    for i in range(layers):
        theirs, mine = f"transformer.h.{i}", f"blocks.{i}"
        fused = tensors[f"{theirs}.attn.qkv_proj.weight"]
        for place, part in ((0, "query"), (1, "value"), (2, "key")):
            matrix = np.empty((hidden, hidden), fused.dtype)
            for head in range(heads):
                group, within = divmod(head, per_group)
                begin = ((group * 3 + place) * per_group + within) * d
                matrix[head * d : (head + 1) * d] = fused[begin : begin + d]
            ours[f"{mine}.attention.{part}.weight"] = matrix
        ours[f"{mine}.attention.output.weight"] = tensors[f"{theirs}.attn.out_proj.weight"]
        for kind in ("weight", "bias"):
            ours[f"{mine}.norm.{kind}"] = tensors[f"{theirs}.ln_1.{kind}"]
            ours[f"{mine}.feed_forward.up.{kind}"] = tensors[f"{theirs}.mlp.fc_in.{kind}"]
            ours[f"{mine}.feed_forward.down.{kind}"] = tensors[f"{theirs}.mlp.fc_out.{kind}"]
    return ours


def codegeex2(tensors, layers, heads, groups):
    """CodeGeeX2: rows of query, key, value one after the other; gate rows before up rows."""
    hidden = tensors["transformer.embedding.word_embeddings.weight"].shape[1]
    g = groups * (hidden // heads)
    ours = {
        "embedding.word.weight": tensors["transformer.embedding.word_embeddings.weight"],
        "final_norm.weight": tensors["transformer.encoder.final_layernorm.weight"],
        "head.weight": tensors["transformer.output_layer.weight"],
    }
    for i in range(layers):
        theirs, mine = f"transformer.encoder.layers.{i}", f"blocks.{i}"
        for kind in ("weight", "bias"):
            fused = tensors[f"{theirs}.self_attention.query_key_value.{kind}"]
            ours[f"{mine}.attention.query.{kind}"] = fused[:hidden]
            ours[f"{mine}.attention.key.{kind}"] = fused[hidden : hidden + g]
            ours[f"{mine}.attention.value.{kind}"] = fused[hidden + g : hidden + 2 * g]
        ours[f"{mine}.attention.output.weight"] = tensors[f"{theirs}.self_attention.dense.weight"]
        gate, up = np.split(tensors[f"{theirs}.mlp.dense_h_to_4h.weight"], 2)
        ours |= _rest(tensors, theirs, mine, gate, up, tensors[f"{theirs}.mlp.dense_4h_to_h.weight"])
    return ours


def _rest(tensors, theirs, mine, gate, up, down):
    """Both norms of a block and its feed-forward layers."""
    return {
        f"{mine}.attention_norm.weight": tensors[f"{theirs}.input_layernorm.weight"],
        f"{mine}.feed_forward_norm.weight": tensors[f"{theirs}.post_attention_layernorm.weight"],
        f"{mine}.feed_forward.gate.weight": gate,
        f"{mine}.feed_forward.up.weight": up,
        f"{mine}.feed_forward.down.weight": down,
    }


def glm(tensors, layers):
    """GLM: one matrix for each of query, key and value; gate rows before up rows."""
    ours = {
        "embedding.word.weight": tensors["model.embed_tokens.weight"],
        "final_norm.weight": tensors["model.norm.weight"],
        "head.weight": tensors["lm_head.weight"],
    }
    for i in range(layers):
        theirs, mine = f"model.layers.{i}", f"blocks.{i}"
        for part, name in (("query", "q"), ("key", "k"), ("value", "v")):
            for kind in ("weight", "bias"):
                ours[f"{mine}.attention.{part}.{kind}"] = tensors[f"{theirs}.self_attn.{name}_proj.{kind}"]
        ours[f"{mine}.attention.output.weight"] = tensors[f"{theirs}.self_attn.o_proj.weight"]
        gate, up = np.split(tensors[f"{theirs}.mlp.gate_up_proj.weight"], 2)
        ours |= _rest(tensors, theirs, mine, gate, up, tensors[f"{theirs}.mlp.down_proj.weight"])
    return ours


def qwen2(tensors, layers, heads):
    """Qwen2: one matrix each; channel i of a head of queries and keys is our 2i, channel i + d/2 our 2i + 1."""
    d = tensors["model.embed_tokens.weight"].shape[1] // heads
    ours = {
        "embedding.word.weight": tensors["model.embed_tokens.weight"],
        "final_norm.weight": tensors["model.norm.weight"],
        **({"head.weight": tensors["lm_head.weight"]} if "lm_head.weight" in tensors else {}),
    }
    for i in range(layers):
        theirs, mine = f"model.layers.{i}", f"blocks.{i}"
        for kind in ("weight", "bias"):
            for part, name in (("query", "q"), ("key", "k")):
                rows = tensors[f"{theirs}.self_attn.{name}_proj.{kind}"]
                turned = np.empty_like(rows)
                for head in range(len(rows) // d):
                    turned[head * d : (head + 1) * d : 2] = rows[head * d : head * d + d // 2]
                    turned[head * d + 1 : (head + 1) * d : 2] = rows[head * d + d // 2 : (head + 1) * d]
                ours[f"{mine}.attention.{part}.{kind}"] = turned
            ours[f"{mine}.attention.value.{kind}"] = tensors[f"{theirs}.self_attn.v_proj.{kind}"]
        ours[f"{mine}.attention.output.weight"] = tensors[f"{theirs}.self_attn.o_proj.weight"]
        gate, up, down = (tensors[f"{theirs}.mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
        ours |= _rest(tensors, theirs, mine, gate, up, down)
    return ours


_CODEGEEX_LAYER = (
    ("attention_norm", "input_layernorm"),
    ("attention.query", "attention.query"),
    ("attention.key", "attention.key"),
    ("attention.value", "attention.value"),
    ("attention.output", "attention.dense"),
    ("feed_forward_norm", "post_attention_layernorm"),
    ("feed_forward.up", "mlp.dense_h_to_4h"),
    ("feed_forward.down", "mlp.dense_4h_to_h"),
)


def _codegeex_pairs(layers):
    """Our name, the dotted published one."""
    yield "embedding.word.weight", "language_model.embedding.word_embeddings.weight"
    yield "embedding.position.weight", "language_model.embedding.position_embeddings.weight"
    yield "top_query_embedding.weight", "language_model.topQueryEmbedding.top_query_embeddings.weight"
    places = [(f"blocks.{i}", f"layers.{i}") for i in range(layers)] + [("top_query_layer", "topQueryLayer")]
    pairs = [(f"{mine}.{a}", f"{theirs}.{b}") for mine, theirs in places for a, b in _CODEGEEX_LAYER]
    for mine, theirs in [*pairs, ("final_norm", "final_layernorm")]:
        for kind in ("weight", "bias"):
            yield f"{mine}.{kind}", f"language_model.transformer.{theirs}.{kind}"


def codegeex(tensors, layers):
    """CodeGeeX: other names on the PyTorch side, the same matrices."""
    return {ours: tensors[theirs] for ours, theirs in _codegeex_pairs(layers)}


def codegeex_published(tensors, layers):
    """The way back."""
    return {theirs: tensors[ours] for ours, theirs in _codegeex_pairs(layers)}
