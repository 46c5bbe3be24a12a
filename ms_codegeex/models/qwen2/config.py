"""Parameters and sizes of Qwen2.5-Coder, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ms_codegeex.models.decoder_config import TINY, DecoderConfig, check_groups, from_preset
from ms_codegeex.models.parameters import COLUMN, KEY_VALUE, RMS_NORM, ROW, VOCABULARY, Layer, ParameterTable

_NORM, _HEAD = Layer("final_norm", RMS_NORM, "hidden_size"), Layer("head", VOCABULARY, "vocab_size", "hidden_size")
PARAMETERS = ParameterTable(
    first=(Layer("embedding.word", VOCABULARY, "vocab_size", "hidden_size"),),
    block=(
        Layer("attention_norm", RMS_NORM, "hidden_size"),
        Layer("feed_forward_norm", RMS_NORM, "hidden_size"),
        Layer("attention.query", COLUMN, "hidden_size", "hidden_size", bias=True),
        Layer("attention.key", KEY_VALUE, "kv_size", "hidden_size", bias=True),
        Layer("attention.value", KEY_VALUE, "kv_size", "hidden_size", bias=True),
        Layer("attention.output", ROW, "hidden_size", "hidden_size"),
        Layer("feed_forward.gate", COLUMN, "intermediate_size", "hidden_size"),
        Layer("feed_forward.up", COLUMN, "intermediate_size", "hidden_size"),
        Layer("feed_forward.down", ROW, "hidden_size", "intermediate_size"),
    ),
    last=(_NORM, replace(_HEAD, output=True)),
)
TIED = replace(PARAMETERS, last=(_NORM, replace(_HEAD, copy_of="embedding.word")))


@dataclass(frozen=True)
class Qwen2CoderConfig(DecoderConfig):
    """Qwen2.5-Coder's sizes (its published configurations); the defaults are those of 7B, 7,615,616,512 parameters."""

    activation = "swiglu"
    after_end = 8

    vocab_size: int = 152064  # rows of the tables: 151665 ids of the tokenizer, rounded up
    hidden_size: int = 3584
    num_layers: int = 28
    num_heads: int = 28
    num_kv_groups: int = 4  # heads of keys and values; num_heads / num_kv_groups query heads share one
    intermediate_size: int = 18944
    max_position_embeddings: int = 32768
    rotary_base: float = 1_000_000.0
    norm_eps: float = 1e-6
    init_std: float = 0.02
    softmax_fp32: bool = True
    tied_head: bool = False  # the output layer multiplies with the word table
    eos_token_id: int = 151643

    @property
    def table(self) -> ParameterTable:  # type: ignore[override]
        return TIED if self.tied_head else PARAMETERS

    @property
    def rotary_dim(self) -> int:
        return self.head_dim

    def rounded(self) -> Qwen2CoderConfig:
        return replace(self, tied_head=False)

    def validate(self) -> None:
        super().validate()
        check_groups(self)


def _size(hidden: int, layers: int, heads: int, groups: int, inner: int, **fields: Any) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "num_layers": layers, "num_heads": heads, "num_kv_groups": groups}
    return {**sizes, "intermediate_size": inner, **fields}


_SMALL = {"vocab_size": 151936, "tied_head": True}
PRESETS: dict[str, dict[str, Any]] = {
    "0.5b": _size(896, 24, 14, 2, 4864, **_SMALL),
    "1.5b": _size(1536, 28, 12, 2, 8960, **_SMALL),
    "3b": _size(2048, 36, 16, 2, 11008, **_SMALL),
    "7b": {},
    "14b": _size(5120, 48, 40, 8, 13824),
    "32b": _size(5120, 64, 40, 8, 27648),
    # Ours, for a CPU.
    "tiny": TINY | {"num_kv_groups": 2, "intermediate_size": 344, "tied_head": True},
}
build_config = partial(from_preset, Qwen2CoderConfig, PRESETS, "7b")


def default_tokenizer(preset: str | float | None) -> str:
    """Name of the tokenizer. The user supplies its directory; this package contains none."""
    return "qwen2"
