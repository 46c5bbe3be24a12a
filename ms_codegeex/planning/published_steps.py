"""Published step times of others, from `published_steps.yaml`: what they say about a step beyond its roofline."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ms_codegeex.base.yaml_reading import read_yaml_file

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
    """The chip whose published runs are taken for a chip: itself, or one like it."""
    return _file()["like"].get(chip, chip)


def beyond_roofline(chip: str, devices: int) -> Spread:
    """How many times longer than its roofline a step on `devices` of a chip takes, by the published runs on that chip,
    or one like it, of which there must be one."""
    value, low, high = _file()["factors"][measured_like(chip)]
    times = 1 + _file()["growth"] * math.log2(devices)
    return Spread(value * times, low * times, high * times)
