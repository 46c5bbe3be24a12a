"""The section `model`: a family, one of its presets, and sizes that override the preset's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ms_codegeex.config.validation import check_keys, validated
from ms_codegeex.errors import UserError
from ms_codegeex.models.decoder_config import DecoderConfig
from ms_codegeex.models.registry import family


@dataclass(frozen=True)
class ModelConfig:
    """A family's name, the preset as given, and the resolved sizes, which are the family's own dataclass."""

    family: str
    preset: str | float | None
    sizes: DecoderConfig

    def to_dict(self) -> dict[str, Any]:
        """The section with every size filled in."""
        return {"family": self.family, "preset": self.preset, **asdict(self.sizes)}  # type: ignore[call-overload]


def default_model() -> ModelConfig:
    """CodeGeeX-13B."""
    return model_config({})


def model_config(section: Any) -> ModelConfig:
    """The typed section from its plain values.

    Raises:
        UserError: an unknown family, preset or key, a wrong type, or sizes that do not fit together.
    """
    if isinstance(section, ModelConfig):
        return section
    if not isinstance(section, Mapping):
        raise UserError(
            f"model: found {section!r}; expected a section with keys family, preset and sizes of the family"
        )
    name, preset = section.get("family", "codegeex"), section.get("preset")
    module = family(name).config
    base = module.build_config(preset, {})
    changed = {key: value for key, value in section.items() if key not in ("family", "preset")}
    check_keys("model", changed, [*(field.name for field in fields(base)), "family", "preset"])
    checked = validated(type(base), {**asdict(base), **changed}, "model.")
    for key, value in asdict(checked).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"model.{key}: found {value}; input should be a finite number")
    return ModelConfig(name, preset, module.build_config(preset, {key: getattr(checked, key) for key in changed}))
