"""Parameters and sizes of CodeGen, and what follows from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from ms_codegeex.models.decoder_config import TINY, DecoderConfig, from_preset
from ms_codegeex.models.parameters import COLUMN, LAYER_NORM, ROW, VOCABULARY, Layer, ParameterTable

PARAMETERS = ParameterTable(
    first=(Layer("embedding.word", VOCABULARY, "vocab_size", "hidden_size", std="table_std"),),
    block=(
        Layer("norm", LAYER_NORM, "hidden_size", bias=True),
        Layer("attention.query", COLUMN, "hidden_size", "hidden_size"),
        Layer("attention.key", COLUMN, "hidden_size", "hidden_size"),
        Layer("attention.value", COLUMN, "hidden_size", "hidden_size"),
        Layer("attention.output", ROW, "hidden_size", "hidden_size", std="residual_std"),
        Layer("feed_forward.up", COLUMN, "intermediate_size", "hidden_size", bias=True),
        Layer("feed_forward.down", ROW, "hidden_size", "intermediate_size", bias=True, std="residual_std"),
    ),
    last=(
        Layer("final_norm", LAYER_NORM, "hidden_size", bias=True),
        Layer("head", VOCABULARY, "vocab_size", "hidden_size", bias=True, output=True),
    ),
    fused=(("attention.query", "attention.key", "attention.value"),),
)


@dataclass(frozen=True)
class CodeGenConfig(DecoderConfig):
    """CodeGen's sizes (ICLR 2023, table of model sizes); the defaults are those of 350M, 356,712,448 parameters."""

    table = PARAMETERS
    activation = "gelu"
    after_end = 38

    vocab_size: int = 51200  # rows of the tables: 50257 (nl) or 50295 ids, rounded up
    hidden_size: int = 1024
    num_layers: int = 20
    num_heads: int = 16
    intermediate_size: int = 4096
    rotary_dim: int = 32  # channels of each head that the position rotates
    max_position_embeddings: int = 2048
    layer_norm_eps: float = 1e-5
    init_std: float = 0.02
    scores_fp32: bool = True  # queries are multiplied with keys in FP32, as in the release
    eos_token_id: int = 50256

    @property
    def table_std(self) -> float:
        return 1 / math.sqrt(self.vocab_size)

    @property
    def residual_std(self) -> float:
        return 2 / (self.num_layers * math.sqrt(self.hidden_size))


_SIZES: dict[str, dict[str, Any]] = {
    "350m": {},
    "2b": {"hidden_size": 2560, "num_layers": 32, "num_heads": 32, "intermediate_size": 10240, "rotary_dim": 64},
    "6b": {"hidden_size": 4096, "num_layers": 33, "num_heads": 16, "intermediate_size": 16384, "rotary_dim": 64},
    "16b": {"hidden_size": 6144, "num_layers": 34, "num_heads": 24, "intermediate_size": 24576, "rotary_dim": 64},
}
STAGES = ("nl", "multi", "mono")  # what a checkpoint was trained on last; nl has another tokenizer, not other sizes

PRESETS: dict[str, dict[str, Any]] = {
    **{f"{size}-{stage}": sizes for size, sizes in _SIZES.items() for stage in STAGES},
    # Ours, for a CPU; 1/sqrt(hidden_size) trains faster than 0.02 at this width.
    "tiny": TINY | {"intermediate_size": 512, "rotary_dim": 16},
}
build_config = partial(from_preset, CodeGenConfig, PRESETS, "350m-multi")


def default_tokenizer(preset: str | float | None) -> str:
    stage = str(preset or "").lower().rpartition("-")[2]
    return f"codegen-{stage if stage in STAGES else 'multi'}"
