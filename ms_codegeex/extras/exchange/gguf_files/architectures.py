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
* CodeGeeX has none: see `REFUSED`."""

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
_PARTS = {"q": "query", "k": "key", "v": "value", "output": "output"}
_KINDS, _FED = ("weight", "bias"), ("up", "down")
HEAD = "output.weight"
_ENDS = (("output_norm", "final_norm"), ("output", "head"))
_LAST = {f"{theirs}.weight": f"{ours}.weight" for theirs, ours in _ENDS}


def _layout(
    block: Mapping[str, tuple[str, ...]], last: Mapping[str, str], halves: Collection[str] = ()
) -> ForeignLayout:
    def packing(name: str, ours: tuple[str, ...]) -> Packing:
        return STACK if len(ours) > 1 else HALVES if name in halves else COPY

    named = {name: tuple(f"blocks.{{i}}.{own}" for own in ours) for name, ours in block.items()}
    blocks = (Entry(ours, f"blk.{{i}}.{name}", packing(name, ours)) for name, ours in named.items())
    ends = (Entry((ours,), name) for name, ours in last.items())
    return ForeignLayout("huggingface", (Entry(("embedding.word.weight",), "token_embd.weight"), *blocks, *ends))


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
    _layout(
        {
            "attn_norm.weight": ("attention_norm.weight",),
            **{f"attn_qkv.{kind}": tuple(f"attention.{_PARTS[part]}.{kind}" for part in "qkv") for kind in _KINDS},
            "attn_output.weight": ("attention.output.weight",),
            "ffn_norm.weight": ("feed_forward_norm.weight",),
            "ffn_up.weight": ("feed_forward.gate.weight", "feed_forward.up.weight"),
            "ffn_down.weight": ("feed_forward.down.weight",),
        },
        _LAST,
    ),
    _COMMON_SIZES | {"num_kv_groups": "attention.head_count_kv", "norm_eps": "attention.layer_norm_rms_epsilon"},
)
_PHI2 = LlamaArchitecture(
    "phi2",
    _layout(
        {
            **{f"attn_norm.{kind}": (f"norm.{kind}",) for kind in _KINDS},
            **{f"attn_{part}.weight": (f"attention.{ours}.weight",) for part, ours in _PARTS.items()},
            **{f"ffn_{part}.{kind}": (f"feed_forward.{part}.{kind}",) for part in _FED for kind in _KINDS},
        },
        {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in _ENDS for kind in _KINDS},
        halves=("attn_q.weight", "attn_k.weight"),
    ),
    _COMMON_SIZES | {"layer_norm_eps": "attention.layer_norm_epsilon"},
    zeros={f"attn_{part}.bias": "hidden_size" for part in _PARTS},
)
_QWEN2 = LlamaArchitecture(
    "qwen2",
    _layout(
        {
            "attn_norm.weight": ("attention_norm.weight",),
            **{f"attn_{part}.{kind}": (f"attention.{_PARTS[part]}.{kind}",) for part in "qkv" for kind in _KINDS},
            "attn_output.weight": ("attention.output.weight",),
            "ffn_norm.weight": ("feed_forward_norm.weight",),
            **{f"ffn_{part}.weight": (f"feed_forward.{part}.weight",) for part in ("gate", "up", "down")},
        },
        _LAST,
        halves=("attn_q.weight", "attn_q.bias", "attn_k.weight", "attn_k.bias"),
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
