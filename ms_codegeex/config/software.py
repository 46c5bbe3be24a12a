"""Say which MindSpore is known to support a chip, and which is installed."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from ms_codegeex.base.shipped import shipped_table
from ms_codegeex.config.chips import ascend_chip


def pairs() -> list[dict[str, str]]:
    return shipped_table(Path(__file__).with_name("software.yaml"))


def pairs_note() -> str:
    said = [
        f"MindSpore {each['mindspore']} with {each['cann']}"
        + (f" and driver {each['driver']}" if each["driver"] else "")
        + (f" (its wheel accepts {each['accepts']})" if each["accepts"] else "")
        for each in pairs()
    ]
    return f"{'; '.join(said)}; sources in docs/hardware.md; only `device: ascend` needs it"


def installed_mindspore() -> str:
    """Return the installed MindSpore's version, or "none"."""
    try:
        return importlib.metadata.version("mindspore")
    except importlib.metadata.PackageNotFoundError:
        return "none"


def software_note(name: str) -> str | None:
    """Return a line on which MindSpore supports a chip (see `ascend_chip`) and which is installed; None if unknown."""
    chip = ascend_chip(name)
    if chip is None:
        return None
    installed, use = installed_mindspore(), "" if chip.hardware else ", for inference,"
    state = "" if installed == chip.mindspore else ", not verified on it"
    return (
        f"{chip.name}: the newest MindSpore that a published page names for it{use} is {chip.mindspore} (CANN "
        f"{chip.cann}, Python {chip.python}); installed: {installed}{state} (docs/hardware.md)"
    )
