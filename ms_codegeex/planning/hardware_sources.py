"""Where the figures of an accelerator come from: `hardware_sources.yaml`, or the run that calibrated it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ms_codegeex.base.hardware import Device
from ms_codegeex.base.yaml_reading import read_yaml_file

FILE = Path(__file__).with_name("hardware_sources.yaml")


@cache
def _file() -> dict[str, Any]:
    return read_yaml_file(FILE)


def sources_of(chip: Device) -> dict[str, str]:
    """The source of each figure, by its field."""
    own = chip.calibration
    if own is None:
        return dict(_file()[chip.name]["sources"])
    return _file()[own.base]["sources"] | dict.fromkeys(sorted(own.measured), f"measured: {own.source}")


def uncertain_of(chip: Device) -> frozenset[str]:
    """The figures on which published ones disagree, or for which there is none."""
    own = chip.calibration
    listed = frozenset(_file()[own.base if own else chip.name]["uncertain"])
    return listed - own.measured if own else listed
