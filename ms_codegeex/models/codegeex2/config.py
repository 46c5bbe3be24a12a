"""Sizes of CodeGeeX2 and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ms_codegeex.errors import UserError
from ms_codegeex.models.presets import check_rotary, check_sizes, from_preset


@dataclass(frozen=True)
class CodeGeeX2Config:
    """CodeGeeX2-6B's sizes (its published configuration, that of ChatGLM2-6B with another sequence length)."""

    vocab_size: int = 65024  # rows of the tables: 64794 ids of the tokenizer, rounded up
    hidden_size: int = 4096
    num_layers: int = 28
    num_heads: int = 32
    num_kv_groups: int = 2  # heads of keys and values; num_heads / num_kv_groups query heads share one
    intermediate_size: int = 13696
    rotary_dim: int = 64  # channels of each head that are turned by the position
    max_position_embeddings: int = 8192
    norm_eps: float = 1e-5
    init_std: float = 0.02  # not published
    softmax_fp32: bool = True
    # The release rounds the angles to the model's dtype, where positions above 256 (bf16) or 2048 (fp16) run together.
    rotary_dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    eos_token_id: int = 2

    def validate(self) -> None:
        """Raise `UserError` naming the key for sizes that do not fit together."""
        check_sizes(self)
        check_rotary(self)
        if self.num_heads % self.num_kv_groups:
            raise UserError(
                f"model.num_kv_groups: {self.num_kv_groups} does not divide model.num_heads {self.num_heads}; "
                "choose a divisor"
            )
        if self.rotary_dtype not in ("fp32", "fp16", "bf16"):
            raise UserError(f"model.rotary_dtype: '{self.rotary_dtype}' is unknown; choose fp32, fp16 or bf16")

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.hidden_size // self.num_heads

    @property
    def kv_size(self) -> int:
        """Width of keys and of values."""
        return self.num_kv_groups * self.head_dim

    @property
    def scores_fp32(self) -> bool:
        """Whether queries meet keys in FP32 in an FP16 run."""
        return False

    @property
    def rms_norm(self) -> bool:
        """Whether its normalisation is RMSNorm, not LayerNorm."""
        return True

    def initial_std(self, name: str) -> float:
        """Standard deviation of a weight's first values."""
        return self.init_std

    @property
    def cached_numbers(self) -> int:
        """Numbers that keys and values of one token are, over all layers."""
        return 2 * self.num_layers * self.kv_size

    def parameter_count(self) -> int:
        """Trainable parameters; 6,243,584,000 for 6B."""
        h, f, g = self.hidden_size, self.intermediate_size, self.kv_size
        layer = (h * h + h) + 2 * (g * h + g) + h * h + 3 * h * f + 2 * h
        return 2 * self.vocab_size * h + self.num_layers * layer + h

    def flops_per_token(self, seq_length: int) -> int:
        """Model FLOPs of forward and backward for one token: 2 per multiply-add, backward twice the forward.

        Counts the matrix products (projections, full attention square as computed, head), not element-wise work.
        """
        h, f, g = self.hidden_size, self.intermediate_size, self.kv_size
        layer = 2 * (2 * h * h + 2 * h * g + 3 * h * f) + 4 * seq_length * h
        return 3 * (self.num_layers * layer + 2 * h * self.vocab_size)


PRESETS: dict[str, dict[str, Any]] = {
    "6b": {},
    # Ours, for a CPU.
    "tiny": {
        "hidden_size": 128,
        "num_layers": 3,
        "num_heads": 4,
        "intermediate_size": 344,
        "rotary_dim": 16,
        "max_position_embeddings": 256,
        "init_std": 0.08,
    },
}


def build_config(preset: str | float | None, overrides: dict[str, Any]) -> CodeGeeX2Config:
    """The preset (default 6b) with single fields replaced, validated. `overrides`: known field names only."""
    return from_preset(CodeGeeX2Config, PRESETS, "6b", preset, overrides)


def default_tokenizer(preset: str | float | None) -> str:
    """Name of the tokenizer: that of a directory the user supplies, there is none to bundle."""
    return "codegeex2"
