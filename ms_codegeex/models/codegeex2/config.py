"""Parameters and sizes of CodeGeeX2, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from ms_codegeex.base.errors import UserError
from ms_codegeex.models.decoder_config import TINY, DecoderConfig, check_groups, from_preset
from ms_codegeex.models.parameters import COLUMN, KEY_VALUE, RMS_NORM, ROW, VOCABULARY, Layer, ParameterTable

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
    last=(
        Layer("final_norm", RMS_NORM, "hidden_size"),
        Layer("head", VOCABULARY, "vocab_size", "hidden_size", output=True),
    ),
    fused=(("attention.query", "attention.key", "attention.value"), ("feed_forward.gate", "feed_forward.up")),
)


@dataclass(frozen=True)
class CodeGeeX2Config(DecoderConfig):
    """CodeGeeX2-6B's sizes (its published configuration, that of ChatGLM2-6B with another sequence length);
    6,243,584,000 parameters. CodeGeeX4-ALL-9B is GLM-4's, with 9,399,951,360."""

    table = PARAMETERS
    activation = "swiglu"

    vocab_size: int = 65024  # rows of the tables: 64794 ids of the tokenizer, rounded up
    hidden_size: int = 4096
    num_layers: int = 28
    num_heads: int = 32
    num_kv_groups: int = 2  # heads of keys and values; num_heads / num_kv_groups query heads share one
    intermediate_size: int = 13696
    rotary_dim: int = 64  # channels of each head that the position rotates
    rope_ratio: float = 1.0  # how many times 10,000 the base of rotary positions is
    max_position_embeddings: int = 8192
    norm_eps: float = 1e-5
    init_std: float = 0.02  # not published
    softmax_fp32: bool = True
    # The release rounds the angles to the model's dtype, where positions above 256 (bf16) or 2048 (fp16) coincide.
    rotary_dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    eos_token_id: int = 2

    @property
    def rotary_base(self) -> float:
        return 10_000.0 * self.rope_ratio

    def validate(self) -> None:
        super().validate()
        check_groups(self)
        if self.rotary_dtype not in ("fp32", "fp16", "bf16"):
            raise UserError(f"model.rotary_dtype: '{self.rotary_dtype}' is unknown; choose fp32, fp16 or bf16")


PRESETS: dict[str, dict[str, Any]] = {
    "6b": {},
    "codegeex4-9b": {
        "vocab_size": 151552,
        "num_layers": 40,
        "rope_ratio": 500.0,
        "max_position_embeddings": 131072,
        "norm_eps": 1.5625e-7,
        "eos_token_id": 151329,
    },
    # Ours, for a CPU.
    "tiny": TINY | {"intermediate_size": 344, "rotary_dim": 16},
}
build_config = partial(from_preset, CodeGeeX2Config, PRESETS, "6b")


def default_tokenizer(preset: str | float | None) -> str:
    """Name of the tokenizer. The user supplies its directory; this package contains none."""
    return "codegeex2"
