"""Parameters and sizes of CodeGeeX, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from ms_codegeex.models.decoder_config import TINY, DecoderConfig, from_preset
from ms_codegeex.models.parameters import COLUMN, LAYER_NORM, ROW, TABLE, VOCABULARY, Layer, ParameterTable

_BLOCK = (
    Layer("attention_norm", LAYER_NORM, "hidden_size", bias=True),
    Layer("feed_forward_norm", LAYER_NORM, "hidden_size", bias=True),
    Layer("attention.query", COLUMN, "hidden_size", "hidden_size", bias=True),
    Layer("attention.key", COLUMN, "hidden_size", "hidden_size", bias=True),
    Layer("attention.value", COLUMN, "hidden_size", "hidden_size", bias=True),
    Layer("feed_forward.up", COLUMN, "intermediate_size", "hidden_size", bias=True),
    Layer("attention.output", ROW, "hidden_size", "hidden_size", bias=True),
    Layer("feed_forward.down", ROW, "hidden_size", "intermediate_size", bias=True),
)
PARAMETERS = ParameterTable(
    first=(
        Layer("embedding.word", VOCABULARY, "vocab_size", "hidden_size"),
        Layer("embedding.position", TABLE, "max_position_embeddings", "hidden_size"),
    ),
    block=_BLOCK,
    last=(
        Layer("final_norm", LAYER_NORM, "hidden_size", bias=True),
        Layer("top_query_embedding", TABLE, "max_position_embeddings", "hidden_size"),
        *(layer.inside("top_query_layer") for layer in _BLOCK),
        Layer("head", VOCABULARY, "vocab_size", "hidden_size", copy_of="embedding.word"),
    ),
    last_blocks=1,
)


@dataclass(frozen=True)
class CodeGeeXConfig(DecoderConfig):
    """CodeGeeX-13B's sizes (KDD 2023, section 2.2), 12,873,943,040 parameters. `num_layers` counts the blocks, without
    the top query layer."""

    table = PARAMETERS
    activation = "fast_gelu"
    after_end = 18

    vocab_size: int = 52224  # rows of the table: 50400 ids of the tokenizer, rounded up
    hidden_size: int = 5120
    num_layers: int = 39
    num_heads: int = 40
    intermediate_size: int = 20480
    max_position_embeddings: int = 2048
    layer_norm_eps: float = 1e-5
    init_std: float = 0.01  # every weight and table; no depth scaling in the release
    softmax_fp32: bool = True  # the release's configuration class says FP16, its README FP32
    eos_token_id: int = 50256


PRESETS: dict[str, dict[str, Any]] = {
    # The release's modes; its layer count includes the top query layer. The 200B mode was never trained.
    "13b": {},
    "2.6b": {"hidden_size": 2560, "num_layers": 31, "num_heads": 32, "intermediate_size": 10240},
    "dev": {"hidden_size": 2048, "num_layers": 15, "num_heads": 16, "intermediate_size": 8192},
    "base": {"hidden_size": 768, "num_layers": 11, "num_heads": 12, "intermediate_size": 3072},
    "200b": {"hidden_size": 16384, "num_layers": 63, "num_heads": 128, "intermediate_size": 65536},
    # Ours, for a CPU. init_std is about 1/sqrt(hidden_size): with 0.02 the tiny one had a validation loss
    # of 6.61 after 100 steps, with 0.08 6.05 (one run each, peak rate 2e-3, cosine over 300 and 150 steps).
    "25m": {
        "hidden_size": 320,
        "num_layers": 6,
        "num_heads": 5,
        "intermediate_size": 1280,
        "init_std": 0.05,
        "max_position_embeddings": 512,
    },
    "tiny": TINY | {"intermediate_size": 512},
}
build_config = partial(from_preset, CodeGeeXConfig, PRESETS, "13b")


def default_tokenizer(preset: str | float | None) -> str:
    return "codegeex"
