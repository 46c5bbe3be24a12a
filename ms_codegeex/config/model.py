"""The section `model`: a family, a preset of it, and single sizes that replace the preset's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

from ms_codegeex.config.validation import check_keys, validated
from ms_codegeex.errors import UserError
from ms_codegeex.models.registry import family


class ModelSizes(Protocol):
    """What the sizes of every family say. Each family's are a frozen dataclass, `models/<family>/config.py`."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_position_embeddings: int
    eos_token_id: int

    @property
    def head_dim(self) -> int:
        """Channels of a head."""

    @property
    def num_kv_groups(self) -> int:
        """Heads of keys and values."""

    @property
    def scores_fp32(self) -> bool:
        """Whether queries are multiplied with keys in FP32 in an FP16 run."""

    @property
    def rms_norm(self) -> bool:
        """Whether the family normalises with RMSNorm instead of LayerNorm."""

    @property
    def cached_numbers(self) -> int:
        """Numbers in the keys and values of one token, over all layers."""

    def initial_std(self, name: str) -> float:
        """Standard deviation of a parameter's initial values."""

    def parameter_count(self) -> int:
        """Trainable parameters."""

    def flops_per_token(self, seq_length: int) -> int:
        """Model FLOPs of forward and backward for one token."""


@dataclass(frozen=True)
class ModelConfig:
    """A family's name, the preset as it was given, and the resolved sizes."""

    family: str
    preset: str | float | None
    sizes: ModelSizes

    def to_dict(self) -> dict[str, Any]:
        """The section with every size filled in."""
        return {"family": self.family, "preset": self.preset, **asdict(self.sizes)}  # type: ignore[call-overload]


def model_config(section: Any = None) -> ModelConfig:
    """The typed section from its plain values. No section: CodeGeeX-13B.

    Raises:
        UserError: an unknown family, preset or key, a wrong type, or sizes that do not fit together.
    """
    if isinstance(section, ModelConfig):
        return section
    given = {} if section is None else section
    if not isinstance(given, Mapping):
        raise UserError(f"model: found {given!r}; input should be a valid dictionary")
    name, preset = given.get("family", "codegeex"), given.get("preset")
    module = family(name).config
    base = module.build_config(preset, {})
    changed = {key: value for key, value in given.items() if key not in ("family", "preset")}
    check_keys("model", changed, [*(field.name for field in fields(base)), "family", "preset"])
    checked = validated(type(base), {**asdict(base), **changed}, "model.")
    for key, value in asdict(checked).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"model.{key}: found {value}; input should be a finite number")
    return ModelConfig(name, preset, module.build_config(preset, {key: getattr(checked, key) for key in changed}))
