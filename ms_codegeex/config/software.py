"""Which MindSpore is known to support a chip, and which is installed."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

from ms_codegeex.config.chips import chip_of


@dataclass(frozen=True)
class Pair:
    """A MindSpore, the CANN that a published page pairs it with, what else its wheel accepts, the mindformers of both,
    and the chips that their page names. docs/hardware.md has the same table and its `sources`, by number."""

    mindspore: str
    cann: str
    accepts: str
    mindformers: str
    chips: str
    sources: str


PAIRS = (
    Pair("2.7.0", "8.2.RC1", "", "1.6.0", "910B, 910C", "5"),
    Pair("2.7.2", "8.5.0", "", "1.8.0", "", "21"),
    Pair("2.9.0", "9.0.0", "8.2, 8.3, 8.5, 9.0", "1.9.0", "910B, 910C", "5 6"),
    Pair("2.10.0", "9.1.0", "8.2, 8.3, 8.5, 9.0, 9.1", "2.1.0", "", "22 23"),
    Pair("2.11", "9.2.0", "", "2.1.0", "", "22"),
)


def pairs_note() -> str:
    """One line: which CANN each MindSpore goes with."""
    pairs = [
        f"MindSpore {each.mindspore} with {each.cann}"
        + (f" (its wheel accepts {each.accepts})" if each.accepts else "")
        for each in PAIRS
    ]
    return f"{'; '.join(pairs)}; sources in docs/hardware.md; only `device: ascend` needs it"


def installed_mindspore() -> str:
    """Its version; "none" without it."""
    try:
        return importlib.metadata.version("mindspore")
    except importlib.metadata.PackageNotFoundError:
        return "none"


def software_note(name: str) -> str | None:
    """One line: which MindSpore supports a chip, named as for `chip_of`, and which is installed; None for others."""
    chip = chip_of(name)
    if chip is None:
        return None
    installed, use = installed_mindspore(), "" if chip.hardware else ", for inference,"
    state = "" if installed == chip.mindspore else ", not verified on it"
    return (
        f"{chip.name}: the newest MindSpore that a published page names for it{use} is {chip.mindspore} (CANN "
        f"{chip.cann}, Python {chip.python}); installed: {installed}{state} (docs/hardware.md)"
    )
