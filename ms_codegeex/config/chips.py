"""The Ascend chips by their driver's names, and a check that a run's keys agree with the chip that it finds."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.hardware import ASCEND_910, ASCEND_910B, ASCEND_910C, CHIPS, chip_named
from ms_codegeex.config.run import RunConfig


@dataclass(frozen=True)
class AscendChip:
    """A generation of Ascend chips, and the newest MindSpore that a published page names for it, with that page's CANN
    and Python. docs/hardware.md has the same table, the pages, and what they leave open. `driver` matches the driver's
    names of its parts (CANN's SoC versions). `hardware`: the chip whose figures and kernels a run on it uses; None if
    no page names training on it."""

    name: str
    driver: str
    hardware: str | None
    mindspore: str
    cann: str
    python: str


ASCEND_CHIPS = (
    # the first generation: 910A, 910B and the Pro and Premium parts
    AscendChip("Ascend 910", r"Ascend910(A|B|Pro[AB]|PremiumA)?", ASCEND_910.name, "2.2.14", "7.0.0", "3.7 to 3.9"),
    AscendChip("Ascend 910B", r"Ascend910B[1-4][\w-]*", ASCEND_910B.name, "2.9.0", "9.0.0", "3.11"),
    AscendChip("Ascend 910C", r"Ascend910_93\w*", ASCEND_910C.name, "2.9.0", "9.0.0", "3.11"),
    AscendChip("Ascend 310P", r"Ascend310P\w*", None, "2.2.14", "7.0.0", "3.7 to 3.9"),
)


def check_kind(config: RunConfig) -> None:
    """Raise `UserError` if the accelerator `parallel.hardware` is not of the kind that `device` names."""
    name = config.parallel.hardware
    if name and config.device != "cpu" and chip_named(name).kind != config.device:
        known = ", ".join(sorted(x.name for x in CHIPS.values() if x.kind == config.device))
        wrong = f"{name} is not what device: {config.device} runs on"
        raise UserError(f"parallel.hardware: {wrong}; name one of {known}, or leave it out")


def ascend_chip(name: str) -> AscendChip | None:
    return next((chip for chip in ASCEND_CHIPS if chip.hardware == name or re.fullmatch(chip.driver, name)), None)


def driver_hardware(config: RunConfig, driver: str) -> str:
    """Return the name of an Ascend run's accelerator; `driver` is the driver's name of the device. `UserError` if that
    name is unknown and `parallel.hardware` is not set, or if the two contradict each other."""
    named = config.parallel.hardware
    chip = ascend_chip(driver)
    detected = chip.hardware if chip else None
    if detected is None and named is None:
        known = ", ".join(sorted(x.name for x in CHIPS.values() if x.kind == "ascend"))
        lacking = "known to train (docs/hardware.md)" if chip else "known"
        wrong = f"the driver's name of this device, '{driver}', is not {lacking}"
        remedy = f"name the one it is most like, of {known}: it decides kernels and memory"
        raise UserError(f"parallel.hardware: {wrong}; {remedy}")
    if detected and named not in (None, detected, driver):
        wrong = f"{named}, but the driver says {driver}, which is {detected}"
        raise UserError(f"parallel.hardware: {wrong}; set it to {detected} or leave it out")
    return named or detected
