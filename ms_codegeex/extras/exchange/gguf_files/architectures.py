"""Which architecture of llama.cpp computes what a family does, and how its file names tensors and sizes.

The facts are those of llama.cpp's sources (its graphs in `src/models`, its loader of hyperparameters), release of
llama-cpp-python 0.3.36, and of its converter's class for ChatGLM.

* CodeGeeX2 is ChatGLM2, which is `chatglm` there: query, key and value stacked, gate and up too, and rotated
  pairs of neighbouring channels.
* CodeGen is GPT-J's block with biases in the feed-forward layers and in the head only. `gptj` is only a name in
  llama.cpp, without a graph. `phi2` is the same block (one LayerNorm before attention and feed-forward layers, which
  are added in parallel; GELU by tanh; a head with a bias) with biases in attention too, which are zero here, and with
  pairs of channels from both halves of what is rotated. A head's channels can be renumbered, in queries and keys alike,
  without changing a score, so neighbours become such pairs and the function is the same.
* Qwen2 is `qwen2`, with pairs of channels from both halves, too.
* CodeGeeX has none: see `REFUSED`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.layout import expand
from ms_codegeex.models.foreign import COPY, HALVES, STACK, Entry, ForeignLayout, Packing

REFUSED = {
    "codegeex": "llama.cpp has no architecture with its top query layer, whose queries come from a table of positions; "
    "choose --to hf",
}
_COMMON_SIZES = {
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_layers": "block_count",
    "num_heads": "attention.head_count",
    "rotary_dim": "rope.dimension_count",
}
_QKV = ("attention.query", "attention.key", "attention.value")
HEAD = "output.weight"


def _entries(block: Mapping[str, tuple[str, ...]], last: Mapping[str, str], halves: Collection[str] = ()) -> Any:
    def packing(name: str, ours: tuple[str, ...]) -> Packing:
        return STACK if len(ours) > 1 else HALVES if name in halves else COPY

    blocks = (
        Entry(tuple(f"blocks.{{i}}.{own}" for own in ours), f"blk.{{i}}.{name}", packing(name, ours))
        for name, ours in block.items()
    )
    return (
        Entry(("embedding.word.weight",), "token_embd.weight"),
        *blocks,
        *(Entry((ours,), name) for name, ours in last.items()),
    )


@dataclass(frozen=True)
class LlamaArchitecture:
    """One of llama.cpp's architectures.

    `sizes`: our field -> the key after the architecture's name; the file has no key for other fields. `zeros`:
    tensors of a block that our family does not have, and the field that is their length.
    """

    name: str
    layout: ForeignLayout
    sizes: Mapping[str, str]
    zeros: Mapping[str, str] = field(default_factory=dict)

    def entries(self, config: Any) -> tuple[Entry, ...]:
        return expand(self.layout.entries, config)

    def zero_shapes(self, config: Any) -> dict[str, tuple[int, ...]]:
        shapes = {name: (getattr(config, size),) for name, size in self.zeros.items()}
        return {f"blk.{i}.{name}": shape for i in range(config.num_layers) for name, shape in shapes.items()}


_CHATGLM = LlamaArchitecture(
    "chatglm",
    ForeignLayout(
        "huggingface",
        _entries(
            {
                "attn_norm.weight": ("attention_norm.weight",),
                "attn_qkv.weight": tuple(f"{part}.weight" for part in _QKV),
                "attn_qkv.bias": tuple(f"{part}.bias" for part in _QKV),
                "attn_output.weight": ("attention.output.weight",),
                "ffn_norm.weight": ("feed_forward_norm.weight",),
                "ffn_up.weight": ("feed_forward.gate.weight", "feed_forward.up.weight"),
                "ffn_down.weight": ("feed_forward.down.weight",),
            },
            {"output_norm.weight": "final_norm.weight", HEAD: "head.weight"},
        ),
    ),
    _COMMON_SIZES | {"num_kv_groups": "attention.head_count_kv", "norm_eps": "attention.layer_norm_rms_epsilon"},
)
_PHI2 = LlamaArchitecture(
    "phi2",
    ForeignLayout(
        "huggingface",
        _entries(
            {
                "attn_norm.weight": ("norm.weight",),
                "attn_norm.bias": ("norm.bias",),
                "attn_q.weight": ("attention.query.weight",),
                "attn_k.weight": ("attention.key.weight",),
                "attn_v.weight": ("attention.value.weight",),
                "attn_output.weight": ("attention.output.weight",),
                "ffn_up.weight": ("feed_forward.up.weight",),
                "ffn_up.bias": ("feed_forward.up.bias",),
                "ffn_down.weight": ("feed_forward.down.weight",),
                "ffn_down.bias": ("feed_forward.down.bias",),
            },
            {
                "output_norm.weight": "final_norm.weight",
                "output_norm.bias": "final_norm.bias",
                HEAD: "head.weight",
                "output.bias": "head.bias",
            },
            halves=("attn_q.weight", "attn_k.weight"),
        ),
    ),
    _COMMON_SIZES | {"layer_norm_eps": "attention.layer_norm_epsilon"},
    zeros={f"attn_{part}.bias": "hidden_size" for part in ("q", "k", "v", "output")},
)
_QWEN2 = LlamaArchitecture(
    "qwen2",
    ForeignLayout(
        "huggingface",
        _entries(
            {
                "attn_norm.weight": ("attention_norm.weight",),
                **{
                    f"attn_{part}.{kind}": (f"attention.{ours}.{kind}",)
                    for part, ours in (("q", "query"), ("k", "key"), ("v", "value"))
                    for kind in ("weight", "bias")
                },
                "attn_output.weight": ("attention.output.weight",),
                "ffn_norm.weight": ("feed_forward_norm.weight",),
                "ffn_gate.weight": ("feed_forward.gate.weight",),
                "ffn_up.weight": ("feed_forward.up.weight",),
                "ffn_down.weight": ("feed_forward.down.weight",),
            },
            {"output_norm.weight": "final_norm.weight", HEAD: "head.weight"},
            halves=("attn_q.weight", "attn_q.bias", "attn_k.weight", "attn_k.bias"),
        ),
    ),
    {name: key for name, key in _COMMON_SIZES.items() if name != "rotary_dim"}
    | {"num_kv_groups": "attention.head_count_kv", "norm_eps": "attention.layer_norm_rms_epsilon"}
    | {"rotary_base": "rope.freq_base"},
)
ARCHITECTURES: Mapping[str, LlamaArchitecture] = {"codegeex2": _CHATGLM, "codegen": _PHI2, "qwen2": _QWEN2}


def architecture_of(family: str) -> LlamaArchitecture:
    """The architecture of a family; `UserError` with the reason if there is none."""
    if (found := ARCHITECTURES.get(family)) is None:
        raise UserError(f"--to gguf: {family} cannot become GGUF: {REFUSED[family]}")
    return found
