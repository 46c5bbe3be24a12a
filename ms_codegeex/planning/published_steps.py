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
# Student's t that one value in ten exceeds, by degrees of freedom; the last one also for more.
ONE_IN_TEN = (3.078, 1.886, 1.638, 1.533, 1.476, 1.440, 1.415, 1.397, 1.383, 1.372)


@dataclass(frozen=True)
class PublishedStep:
    """A published step on `devices`, over the roofline of our plan of it."""

    name: str
    devices: int
    times_roofline: float
    source: str


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
    """Factors that were seen: their geometric mean, and the limits between which eight of ten further ones lie."""

    value: float
    low: float
    high: float


def spread(factors: Sequence[float], others: Sequence[Sequence[float]] = ()) -> Spread:
    """The 80 % interval for one more factor, of which the logarithms are taken to be normally distributed.

    Args:
        factors: at least one.
        others: groups of factors. If these and the others together are spread more widely around the means of their
            groups than these alone, that counts: a few runs of one source say little about the next one.
    """
    own, *groups = ([math.log(x) for x in group] for group in (factors, *others))
    widths = [_width([own], len(own)), _width([own, *groups], len(own))]
    mean = statistics.fmean(own)
    return Spread(*(math.exp(mean + sign * max(widths)) for sign in (0, -1, 1)))


def _width(groups: Sequence[Sequence[float]], number: int) -> float:
    """From the mean of `number` values to the limit that one more exceeds with a chance of one in ten."""
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return 0.0
    squares = sum((x - statistics.fmean(group)) ** 2 for group in groups for x in group)
    return ONE_IN_TEN[min(freedom, len(ONE_IN_TEN)) - 1] * math.sqrt(squares / freedom * (1 + 1 / number))


@cache
def _file() -> dict[str, Any]:
    return read_yaml_file(FILE)


@cache
def published_steps(chip: str) -> tuple[PublishedStep, ...]:
    """The published runs on a chip, by its name; none: empty."""
    return tuple(PublishedStep(**run) for run in _file()["runs"].get(chip, ()))


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
    or one like it, of which there must be one. Their spread is at least that of all chips' runs."""
    scaling, chip = published_scaling(), measured_like(chip)
    names = [chip, *(name for name in _file()["runs"] if name != chip)]
    own, *others = ([run.times_roofline / scaling.times(run.devices) for run in published_steps(x)] for x in names)
    found, times = spread(own, others), scaling.times(devices)
    return Spread(found.value * times, found.low * times, found.high * times)
