"""How the factors of `plans/published_steps.yaml` follow from its runs: their medians, and conformal limits."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ms_codegeex.extras.cluster.plans.published import PublishedStep, Spread

LEFT_OUT = 0.1  # of further runs, on either side of a range
MINDSPEED = {128: 0.538, 512: 0.532, 1024: 0.527, 2048: 0.515, 7968: 0.505}  # GPT3-175B: MFU by devices, its README


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
    return run.times_roofline / fit_scaling(MINDSPEED).times(run.devices)


def _median(runs: Sequence[PublishedStep]) -> float:
    return statistics.median(_on_one_device(run) for run in runs)
