"""Which accelerator a run is planned for and executed on, from `parallel.hardware`, `device` and the driver."""

from __future__ import annotations

import re

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.hardware import A100, ASCEND_910, ASCEND_910B, DEVICES, Device, device
from ms_codegeex.config.run import RunConfig

ASSUMED = {"cpu": ASCEND_910, "ascend": ASCEND_910, "gpu": A100}  # without parallel.hardware
# The driver's names (CANN's SoC versions). 910A, 910B and the Pro and Premium parts are the first generation.
DRIVER_NAMES = (
    (re.compile(r"Ascend910(A|B|Pro[AB]|PremiumA)?"), ASCEND_910.name),
    (re.compile(r"Ascend910B[1-4]\w*"), ASCEND_910B.name),
)


def hardware_of(config: RunConfig) -> Device:
    """The accelerator that a configuration is planned for: the named one, or the default of its kind."""
    name = config.parallel.hardware
    return device(name) if name else ASSUMED[config.device]


def running_on(config: RunConfig) -> Device:
    """The accelerator whose kernels a run on `device: ascend` or `gpu` may use: the named one if it is of that kind."""
    planned = hardware_of(config)
    return planned if planned.kind == config.device else ASSUMED[config.device]


def check_kind(config: RunConfig) -> None:
    """Raise a `UserError` if `parallel.hardware` is not of the kind that `device` names."""
    name = config.parallel.hardware
    if name and config.device != "cpu" and device(name).kind != config.device:
        known = ", ".join(sorted(x.name for x in DEVICES.values() if x.kind == config.device))
        raise UserError(
            f"parallel.hardware: {name} is not what device: {config.device} runs on; name one of {known}, or leave it "
            "out"
        )


def driver_hardware(config: RunConfig, driver: str) -> str:
    """Name of the accelerator of a run on Ascend.

    Args:
        config: of the run.
        driver: the driver's name of the device.

    Raises:
        UserError: the driver's name is unknown and `parallel.hardware` is not set, or the two contradict each other.
    """
    named = config.parallel.hardware
    found = next((name for pattern, name in DRIVER_NAMES if pattern.fullmatch(driver)), None)
    if found is None and named is None:
        known = ", ".join(sorted(x.name for x in DEVICES.values() if x.kind == "ascend"))
        raise UserError(
            f"parallel.hardware: the driver's name of this device, '{driver}', is not known; name the one it is most "
            f"like, of {known}: it decides kernels and memory"
        )
    if found and named and found != named:
        raise UserError(
            f"parallel.hardware: {named}, but the driver says {driver}, which is {found}; set it to {found} or leave "
            "it out"
        )
    return named or found
