"""Published step times of others, from `published_steps.yaml`: what they say about a step beyond its roofline."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ms_codegeex.base.yaml_reading import read_yaml_file

FILE = Path(__file__).with_name("published_steps.yaml")
LEFT_OUT = 0.1  # of further runs, on either side of a range


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
class Scaling:
    """How a step grows with the number of devices, the work of each being equal: 1 + growth x log2(devices).

    `step`: the time of a step on one device by this line, in the unit of what was fitted.
    """

    step: float
    growth: float

    def times(self, devices: int) -> float:
        """How many times longer a step is on `devices` than on one."""
        return 1 + self.growth * math.log2(devices)

    def mfu(self, devices: int) -> float:
        """For a line through points of MFU: that on `devices`."""
        return 1 / (self.step * self.times(devices))


def fit_scaling(mfu: Mapping[int, float]) -> Scaling:
    """The line through the inverse of MFU over the doublings of devices, by least squares. At least two points."""
    line = statistics.linear_regression([math.log2(x) for x in mfu], [1 / y for y in mfu.values()])
    return Scaling(line.intercept, line.slope / line.intercept)


@dataclass(frozen=True)
class Spread:
    """A factor, and the limits between which eight of ten further ones lie."""

    value: float
    low: float
    high: float


def limits(values: Sequence[float]) -> tuple[float, float]:
    """The conformal limits: one more value, if it comes from where these do, is below the first with a chance of at
    most `LEFT_OUT`, and above the second with the same. `ValueError` if there are too few values to say so."""
    rank = math.floor(LEFT_OUT * (len(values) + 1))
    if not rank:
        raise ValueError(f"{len(values)} values, expected at least {math.ceil(1 / LEFT_OUT) - 1}")
    ordered = sorted(values)
    return ordered[rank - 1], ordered[-rank]


def residuals(runs: Sequence[PublishedStep]) -> list[float]:
    """For each run of a chip, the logarithm of its factor over the median of the runs on other pages; empty if there is
    only one page. So each is what a user sees whose run is on none of the pages."""
    found = []
    for run in runs:
        if others := [x for x in runs if x.page != run.page]:
            found.append(math.log(_on_one_device(run) / _median(others)))
    return found


def spread(chip: Sequence[PublishedStep], every: Sequence[Sequence[PublishedStep]]) -> Spread:
    """The factor of one device of a chip, and its limits.

    The factor is the median of the chip's runs. The limits are those of the `residuals` of `every` chip's runs, because
    a chip whose runs are all of one page does not show how far another page's would be.
    """
    value = _median(chip)
    low, high = limits([x for runs in every for x in residuals(runs)])
    return Spread(value, value * math.exp(low), value * math.exp(high))


def _on_one_device(run: PublishedStep) -> float:
    return run.times_roofline / published_scaling().times(run.devices)


def _median(runs: Sequence[PublishedStep]) -> float:
    return statistics.median(_on_one_device(run) for run in runs)


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
    """The chip whose published runs are taken for a chip: itself, or one like it."""
    return _file()["like"].get(chip, chip)


@cache
def published_scaling() -> Scaling:
    """The line through all published points of one model on more and more devices."""
    (curve,) = _file()["scaling"]
    return fit_scaling(curve["mfu"])


@cache
def beyond_roofline(chip: str, devices: int) -> Spread:
    """How many times longer than its roofline a step on `devices` of a chip takes, by the published runs on that chip,
    or one like it, of which there must be one."""
    found = spread(published_steps(measured_like(chip)), [published_steps(name) for name in _file()["runs"]])
    times = published_scaling().times(devices)
    return Spread(found.value * times, found.low * times, found.high * times)
