"""The section `model`: a family, one of its presets, and sizes that override the preset's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.config.validation import check_keys, validated
from ms_codegeex.models.decoder_config import DecoderConfig
from ms_codegeex.models.parameters import VOCABULARY
from ms_codegeex.models.registry import family

SECTION = ("family", "preset", "weights", "grow", "fresh")  # keys of `model` that are not sizes
GROWABLE = {"vocabulary": "vocab_size", "context": "max_position_embeddings"}  # `grow` value -> its size


@dataclass(frozen=True)
class ModelConfig:
    """A family's name, the preset as given, and the resolved sizes, which are the family's own dataclass."""

    family: str
    """The architecture, `codegeex` unless given: see [families](#families)."""
    preset: str | float | None
    """The family's named sizes; left out: the first of its [presets](#families)."""
    sizes: DecoderConfig
    """Sizes that differ from the preset's: `vocab_size`, `hidden_size`, `num_layers`, `num_heads`, `intermediate_size`,
    `max_position_embeddings`, `init_std`, `eos_token_id`, and the family's own keys."""
    weights: str | None = None
    """A model directory, run or checkpoint: a new run starts from its weights instead of random ones; moments and
    schedule start afresh. Its sizes and tokenizer must be the run's. `train --from DIR` sets it."""
    grow: tuple[str, ...] = ()
    """With `model.weights`: `[vocabulary]`, `[context]` or both may be larger than in that model. The table may have
    more rows (the new ones are random), the tokenizer may add tokens, the context may be longer."""
    fresh: tuple[str, ...] = ()
    """With `model.weights`: parameters whose names contain one of these texts start from random values, for example
    `[embedding.word, head]`. If this covers every table with a row for each token, the dataset may use another
    tokenizer."""

    @property
    def fresh_parameters(self) -> frozenset[str]:
        return frozenset(name for name in self.sizes.parameter_shapes() if any(part in name for part in self.fresh))

    @property
    def fresh_vocabulary(self) -> bool:
        """Whether nothing that depends on the meaning of token ids comes from `weights`."""
        layers = (layer for layer in self.sizes.table.layers(self.sizes.num_layers) if layer.role is VOCABULARY)
        tables = {parameter.name for layer in layers for parameter in layer.parameters(self.sizes)}
        return bool(self.fresh) and tables <= self.fresh_parameters

    def to_dict(self) -> dict[str, Any]:
        start = {"weights": self.weights, "grow": list(self.grow), "fresh": list(self.fresh)}
        return {"family": self.family, "preset": self.preset, **start, **asdict(self.sizes)}  # type: ignore[call-overload]


def model_config(section: Any) -> ModelConfig:
    """Return the typed section. `UserError` for an unknown family, preset or key, a wrong type or conflicting sizes."""
    if isinstance(section, ModelConfig):
        return section
    section = {} if section is None else section
    if not isinstance(section, Mapping):
        expected = "a section with keys family, preset and sizes of the family"
        raise UserError(f"model: found {section!r}; expected {expected}")
    name, preset = section.get("family", "codegeex"), section.get("preset")
    module = family(name).config
    base = module.build_config(preset, {})
    changed = {key: value for key, value in section.items() if key not in SECTION}
    check_keys("model", changed, [*(field.name for field in fields(base)), *SECTION])
    checked = validated(type(base), {**asdict(base), **changed}, "model.")
    for key, value in asdict(checked).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"model.{key}: found {value}; input should be a finite number")
    sizes = module.build_config(preset, {key: getattr(checked, key) for key in changed})
    start = _start(section.get("weights"), section.get("grow") or ())
    return ModelConfig(name, preset, sizes, *start, _fresh(section.get("fresh") or (), sizes))


def _start(weights: Any, grow: Any) -> tuple[str | None, tuple[str, ...]]:
    if weights is not None and not (isinstance(weights, str) and weights):
        raise UserError(f"model.weights: found {weights!r}; expected a model directory, a run or a checkpoint")
    if not isinstance(grow, list | tuple) or not all(isinstance(name, str) and name in GROWABLE for name in grow):
        raise UserError(f"model.grow: found {grow!r}; expected a list of {' and '.join(GROWABLE)}, or none of them")
    return weights, tuple(name for name in GROWABLE if name in grow)


def _fresh(fresh: Any, sizes: DecoderConfig) -> tuple[str, ...]:
    if not isinstance(fresh, list | tuple) or not all(isinstance(part, str) and part for part in fresh):
        raise UserError(f"model.fresh: found {fresh!r}; expected parts of parameters' names, such as [embedding]")
    names = sizes.parameter_shapes() if fresh else {}
    for part in fresh:
        if not any(part in name for name in names):
            raise UserError(f"model.fresh: no parameter's name contains {part!r}; one of them is {next(iter(names))}")
    return tuple(fresh)
