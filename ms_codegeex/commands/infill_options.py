"""The options for infilling that `prepare` and `finetune` share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ms_codegeex.base.errors import UserError

if TYPE_CHECKING:
    from ms_codegeex.config.sections import InfillConfig

OTHERS = ("mode", "level", "sentinels")
INFILL = tuple(f"infill_{name}" for name in ("rate", *OTHERS))  # in the parsed arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group("infilling", "training to fill in the middle (docs/infilling.md)")
    group.add_argument(
        "--infill-rate", type=float, metavar="F", help="share of the documents whose middle moves to their end"
    )
    group.add_argument(
        "--infill-mode",
        choices=("psm", "spm", "both"),
        help="prefix first, suffix first, or half of each (default: both)",
    )
    group.add_argument(
        "--infill-level",
        choices=("context", "document"),
        help="rearrange the parts of documents in each sample, or complete documents (default: context)",
    )
    group.add_argument(
        "--infill-sentinels",
        nargs=3,
        type=int,
        metavar=("PREFIX", "SUFFIX", "MIDDLE"),
        help="ids that mark the parts (default: the tokenizer's unused ones)",
    )


def infill_config(arguments: argparse.Namespace) -> InfillConfig | None:
    """The settings from the options; None if no rate is given."""
    given = {name: getattr(arguments, f"infill_{name}") for name in OTHERS}
    given = {name: value for name, value in given.items() if value is not None}
    if arguments.infill_rate is None:
        if given:
            raise UserError(f"--infill-{next(iter(given))}: needs --infill-rate, for example 0.5")
        return None
    if not 0 <= arguments.infill_rate <= 1:
        raise UserError(f"--infill-rate: {arguments.infill_rate} is out of range; give 0 to 1, for example 0.5")
    from ms_codegeex.config.sections import InfillConfig

    return InfillConfig(rate=arguments.infill_rate, **given)
