"""The options for infilling, which `prepare` and `finetune` have."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import OptionGroup, given_values, option

if TYPE_CHECKING:
    from ms_codegeex.config.sections import InfillConfig


@dataclass(frozen=True)
class InfillOptions:
    """The fields of `InfillConfig`."""

    infill_rate: float | None = option("share of the documents whose middle moves to their end", "F", ge=0, le=1)
    infill_mode: Literal["psm", "spm", "both"] | None = option(
        "prefix first, suffix first, or half of each (default: both)"
    )
    infill_level: Literal["context", "document"] | None = option(
        "rearrange the parts of documents in each sample, or complete documents (default: context)"
    )
    infill_sentinels: tuple[int, int, int] | None = option(
        "ids that mark the parts (default: the tokenizer's marks, or unused ids)", "PREFIX SUFFIX MIDDLE"
    )


INFILLING = OptionGroup(InfillOptions, title="infilling", text="training to fill in the middle (docs/infilling.md)")


def infill_config(arguments: argparse.Namespace) -> InfillConfig | None:
    """The settings from the options; None if no rate is given."""
    values = {name.removeprefix("infill_"): getattr(arguments, name) for name in given_values(InfillOptions, arguments)}
    if values and "rate" not in values:
        raise UserError(f"--infill-{next(iter(values))}: works with --infill-rate only; add --infill-rate 0.5")
    if not values:
        return None
    from ms_codegeex.config.sections import InfillConfig

    return InfillConfig(**values)
