"""Hardware files: rates of a device that a run has shown, written by `plan --measured` and read by plans.

    parallel: {hardware: mycluster.yaml}

The configuration then has the chip in `parallel.hardware` and the file in `parallel.calibration`: a run needs only the
first, a plan both. `hardware_sources.yaml` says where the figures of each chip come from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_file
from ms_codegeex.base.hardware import PARTS, Calibration, Chip, chip_named
from ms_codegeex.base.yaml_reading import read_yaml_file
from ms_codegeex.config import chosen_hardware
from ms_codegeex.config.run import RunConfig
from ms_codegeex.config.validation import Share, check_tree, validated
from ms_codegeex.planning.operators import K_START, MATMUL_PEAK

SOURCES = Path(__file__).with_name("hardware_sources.yaml")
Above = Annotated[float, Field(gt=0, lt=math.inf)]
Rest = Annotated[float, Field(ge=0, lt=math.inf)]
HEADER = """# What a run has shown of its devices, by `ms-codegeex plan --measured` (docs/plan.md). Plan with it:
#   ms-codegeex plan --config FILE parallel.hardware={name}
"""
REMEDY = "write it with `ms-codegeex plan --config FILE --measured RUN --write-hardware NEW.yaml`"


@cache
def _sources() -> dict[str, Any]:
    return read_yaml_file(SOURCES)


def sources_of(chip: Chip) -> dict[str, str]:
    """Return the source of each figure, by field."""
    own = chip.calibration
    if own is None:
        return _sources()[chip.generation]["sources"] | (_sources()["parts"] if chip.name in PARTS else {})
    return sources_of(chip_named(own.base)) | dict.fromkeys(sorted(own.measured), f"measured: {own.source}")


def uncertain_of(chip: Chip) -> frozenset[str]:
    """Return the fields whose published figures disagree, or that have none."""
    own = chip.calibration
    listed = frozenset(_sources()[(chip_named(own.base) if own else chip).generation]["uncertain"])
    return listed - own.measured if own else listed


@dataclass(frozen=True)
class ChipRates:
    """Measured rates, named as the fields of `Chip`. `cluster_latency`: between servers."""

    memory_bandwidth: Above
    board_bandwidth: Above
    server_bandwidth: Above
    cluster_bandwidth: Above
    latency: Rest
    cluster_latency: Rest


@dataclass(frozen=True)
class Products:
    """Matrix products run at `share` of the peak times k / (k + start) and the share of full tiles."""

    share: Above
    start: Rest


@dataclass(frozen=True)
class StepFactor:
    """The time of a step over the time counted with the other figures, and its limits."""

    value: Above
    low: Above
    high: Above


@dataclass(frozen=True)
class HardwareFile:
    """A hardware file. `base`: the chip, which has all figures that are not given. `rates` are in bytes/s, latencies
    in seconds. `overlap`: share of the time of collectives that runs under computation; `gaps`: seconds in which the
    device stands still for each second of computing. `assumed`: the rates that are the chip's all the same.
    `residuals` are for people."""

    base: str
    source: str
    factor: StepFactor
    rates: ChipRates | None = None
    products: Products = Products(MATMUL_PEAK, K_START)
    overlap: Share = 0.0
    gaps: Rest = 0.0
    assumed: list[str] = field(default_factory=list)
    residuals: dict[str, Any] = field(default_factory=dict)

    def chip(self, chip: Chip, name: str) -> Chip:
        """Return the chip with these figures, under the file's name."""
        rates = asdict(self.rates) if self.rates else {}
        calibration = Calibration(
            base=self.base,
            matmul_share=self.products.share,
            matmul_start=self.products.start,
            overlap=self.overlap,
            gaps=self.gaps,
            factor=self.factor.value,
            low=self.factor.low,
            high=self.factor.high,
            cluster_latency=rates.pop("cluster_latency", chip.latency),
            source=self.source,
            measured=frozenset(rates.keys() - set(self.assumed)),
        )
        return replace(chip, name=name, calibration=calibration, **rates)


def read_hardware_file(path: Path) -> HardwareFile:
    """Read a hardware file. Raises `UserError`, naming file and key, if it is unreadable or a figure is impossible."""
    try:
        values = read_yaml_file(path)
    except FileNotFoundError:
        raise UserError(f"parallel.calibration: {path} does not exist; {REMEDY}, or set it to null") from None
    if not isinstance(values, Mapping):
        raise UserError(f"{path}: found {type(values).__name__}, expected a hardware file; {REMEDY}")
    try:
        found = validated(HardwareFile, check_tree(HardwareFile, values))
    except UserError as error:
        raise UserError(f"{path}: {error}; correct it, or {REMEDY}") from None
    if not found.factor.low <= found.factor.value <= found.factor.high:
        raise UserError(f"{path}: factor.value: {found.factor.value} is not between its low and high; correct it")
    return found


def write_hardware_file(path: Path, found: HardwareFile) -> None:
    """Write a hardware file, whole or not at all."""
    defaults = asdict(HardwareFile("", "", StepFactor(0, 0, 0)))
    values = {key: value for key, value in asdict(found).items() if value != defaults[key]}
    text = yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
    with atomic_file(path) as temporary:
        temporary.write_text(HEADER.format(name=path) + text, encoding="utf-8")


def _stamp(path: Path) -> tuple[int, ...]:
    """Return a value that changes whenever the file is written; () for a missing file."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_mtime_ns, status.st_size, status.st_ino)


@lru_cache(maxsize=8)  # a search asks thousands of times
def _read_once(file: str, stamp: tuple[int, ...]) -> HardwareFile:
    return read_hardware_file(Path(file))


def hardware_of(config: RunConfig) -> Chip:
    """Return the accelerator of a configuration, with the figures of its hardware file if it names one."""
    chip, file = chosen_hardware.hardware_of(config), config.parallel.calibration
    if file is None:
        return chip
    found = _read_once(file, _stamp(Path(file)))
    if found.base != chip.name:
        wrong = f"{file} is of {found.base}, but parallel.hardware: {chip.name}"
        remedy = "name the file as parallel.hardware, or set parallel.calibration to null"
        raise UserError(f"parallel.calibration: {wrong}; {remedy}")
    return found.chip(chip, Path(file).stem)
