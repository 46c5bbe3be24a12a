"""What every family's sizes share: choosing a preset by name, and checks that name the key."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from typing import Any, TypeVar

from ms_codegeex.base.errors import UserError

Config = TypeVar("Config")


def from_preset(
    cls: type[Config], presets: Mapping[str, Mapping[str, Any]], default: str, preset: Any, overrides: Mapping[str, Any]
) -> Config:
    """The preset (`default` if none is named) with single fields replaced, validated; `UserError` for an unknown one.

    `overrides` holds known field names only.
    """
    name = str(preset or default).lower()
    if name not in presets:
        raise UserError(f"model.preset: '{preset}' is unknown; choose one of {', '.join(presets)}")
    config = replace(cls(**presets[name]), **overrides)
    config.validate()
    return config


def check_sizes(config: Any, free: Collection[str] = ()) -> None:
    """`UserError` unless every number but `free` is positive, heads divide the hidden size and eos has a row."""
    for key, value in asdict(config).items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and key not in (*free, "eos_token_id") and value <= 0:
            raise UserError(f"model.{key}: {value} is not positive; give a number above 0")
    if config.hidden_size % config.num_heads:
        raise UserError(
            f"model.num_heads: {config.num_heads} does not divide model.hidden_size {config.hidden_size}; "
            "choose a divisor"
        )
    if not 0 <= config.eos_token_id < config.vocab_size:
        raise UserError(
            f"model.eos_token_id: {config.eos_token_id} is outside model.vocab_size {config.vocab_size}; "
            "enlarge the vocabulary"
        )


def check_rotary(config: Any) -> None:
    """`UserError` unless pairs of channels of a head can be rotated."""
    head = config.head_dim
    if config.rotary_dim % 2 or config.rotary_dim > head:
        raise UserError(f"model.rotary_dim: {config.rotary_dim} of {head} channels; give an even number up to {head}")
