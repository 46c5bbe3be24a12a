"""Published step times and what they say about a step beyond its roofline, from `published_steps.yaml`; the measured
figures of the CodeGeeX release that the roofline is fitted to, and its published run.

Tuned products: the tuning bank shipped with the release (2022-05-09); the tests have its times. Throughput: the
release's README, 54.3 billion token slots a day, padding included, on 1,536 Ascend 910 with the mesh and batch of
configs/codegeex_13b.yaml. Run: the release's README and the KDD 2023 paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_codegeex.base.hardware import Chip
from ms_codegeex.base.yaml_reading import read_yaml_file

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig

FIT = (
    "Clock, share of peak and starting length are fitted to the five tuned dense products of the CodeGeeX release "
    "(within 2.0%); its two attention products, not fitted, are within 6.4%."
)
SLOTS_PER_DAY = 54.3e9
STEP_SLOTS = 3072 * 2048
STEP_SECONDS = STEP_SLOTS * 86400 / SLOTS_PER_DAY  # 10.01
FILE = Path(__file__).with_name("published_steps.yaml")


@dataclass(frozen=True)
class PublishedStep:
    """A published step on `devices`, over the roofline of our plan of it. `source`: where a stack's runs are published;
    `page`: the part of it that has this run, such as a model's page and scripts."""

    name: str
    devices: int
    times_roofline: float
    source: str
    page: str


@dataclass(frozen=True)
class Spread:
    """A factor, and the limits between which eight of ten further ones lie."""

    value: float
    low: float
    high: float


@cache
def _file() -> dict[str, Any]:
    return read_yaml_file(FILE)


@cache
def published_steps(chip: str) -> tuple[PublishedStep, ...]:
    """The published runs on a chip, by its name; none: empty."""
    return tuple(
        PublishedStep(f"{model}-{name}", devices, times, group["source"], f"{group['stack']}: {model}")
        for group in _file()["runs"].get(chip, ())
        for model, runs in group["models"].items()
        for name, devices, times in runs
    )


def measured_like(chip: str) -> str:
    return _file()["like"].get(chip, chip)


def beyond_roofline(chip: str, devices: int) -> Spread:
    """How many times longer than its roofline a step on `devices` of a chip takes, by the published runs on that chip,
    or one like it, of which there must be one."""
    value, low, high = _file()["factors"][measured_like(chip)]
    times = 1 + _file()["growth"] * math.log2(devices)
    return Spread(value * times, low * times, high * times)


@dataclass(frozen=True)
class Factor:
    """Step time over what a plan counts, and the limits between which eight of ten runs lie. `measured_on`: the device
    whose steps set it; `source`: they, in words."""

    value: float
    low: float
    high: float
    measured_on: str
    source: str


def outside_roofline(chip: Chip, devices: int) -> Factor:
    """The factor of a run on `devices` of `chip`: by its hardware file, or by published runs on the chip. The roofline
    gives the paper's recipe 6.20 s with the release's dropout kernel, which makes recomputation repeat one product and
    one sum more than our dropout does (5.79 s). The rest of its 10.01 s is in none of its operators: gaps between
    kernels, vector kernels below full bandwidth, links below their nominal rate, waiting for the slowest of 1,536
    devices, data loading. One measurement sets that factor, so it confirms nothing."""
    if own := chip.calibration:
        return Factor(own.factor, own.low, own.high, chip.name, own.source)
    measured = measured_like(chip.generation)
    runs = published_steps(measured)
    found, number = beyond_roofline(measured, devices), len(runs)
    source = f"{number} published runs" if number > 1 else "one published run"
    source += "" if len({run.page for run in runs}) > 1 else ", spread as on other chips,"
    source += f" on {measured}" if measured == chip.name else f" on {measured}, none on {chip.name}"
    return Factor(found.value, found.low, found.high, measured, source)


@dataclass(frozen=True)
class PublishedRun:
    """A paper's training run: token positions of a step, padding included, and tokens in all, without padding."""

    steps: int
    step_slots: int
    tokens: float

    @property
    def slots(self) -> int:
        return self.steps * self.step_slots

    @property
    def filled(self) -> float:
        return self.tokens / self.slots


# The release writes one document, or a part of one, into each sequence and pads the rest.
PUBLISHED_RUNS = {("codegeex", "13b"): PublishedRun(213_000, STEP_SLOTS, 850e9)}


def published_run(config: RunConfig) -> PublishedRun | None:
    """The published training run of a model of exactly these sizes, None where none is known."""
    from ms_codegeex.models.registry import family

    model, build = config.model.sizes, family(config.family).config.build_config
    of_family = ((preset, run) for (name, preset), run in PUBLISHED_RUNS.items() if name == config.family)
    return next((run for preset, run in of_family if build(preset, {}) == model), None)
