"""Parse the value of `data.blend`: datasets and their weights, in stages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ms_codegeex.base.errors import UserError

LONGEST_PERIOD = 1_000_000
KEY = "data.blend"


@dataclass(frozen=True)
class BlendStage:
    """What is mixed from step `from_step` on: dataset directories and their integer weights."""

    from_step: int
    corpora: tuple[str, ...]
    weights: tuple[int, ...]
    rounded: bool = False  # whether weights were rounded to fit LONGEST_PERIOD


Weights = dict[str, int | float | str]  # dataset directory -> weight
BlendWeights = Weights | list[dict[str, int | Weights]]  # one stage's weights, or a list of {from_step, weights}


def parse_blend(blend: Any) -> list[BlendStage]:
    """Return the stages of `data.blend`: a list of {from_step, weights}, or the weights alone for one stage. Weights
    are numbers, or texts such as "1/3"; decimals are exact, not binary approximations."""
    if isinstance(blend, Mapping):
        if "weights" in blend and isinstance(blend["weights"], Mapping):
            raise UserError(f"{KEY}: found one stage, expected a list of them; write - {{from_step: 0, weights: …}}")
        return [_stage(0, blend, KEY)]
    if not isinstance(blend, Sequence) or isinstance(blend, str) or not blend:
        raise UserError(f"{KEY}: found {blend!r}, expected {{directory: weight}} or a list of {{from_step, weights}}")
    stages: list[BlendStage] = []
    for number, given in enumerate(blend):
        where = f"{KEY}[{number}]"
        if not isinstance(given, Mapping) or set(given) != {"from_step", "weights"}:
            raise UserError(f"{where}: found {given!r}, expected the keys from_step and weights")
        step, minimum = given["from_step"], stages[-1].from_step + 1 if stages else 0
        if type(step) is not int or step < minimum or (not stages and step):
            expected = f"a step after the one before, {minimum} or later" if stages else "0, where a run begins"
            raise UserError(f"{where}.from_step: found {step!r}, expected {expected}")
        stages.append(_stage(step, given["weights"], f"{where}.weights"))
    return stages


def checked_blend(blend: Any) -> BlendWeights | None:
    """Return `blend` unchanged if `parse_blend` accepts it."""
    if blend is not None:
        parse_blend(blend)
    return blend


def _stage(step: int, weights: Any, where: str) -> BlendStage:
    if not isinstance(weights, Mapping) or not weights:
        raise UserError(f"{where}: found {weights!r}, expected {{directory: weight}}")
    values = []
    for name, weight in weights.items():
        if not isinstance(name, str) or not name:
            raise UserError(f"{where}: found {name!r}, expected the name of a dataset directory; quote it")
        values.append(_fraction(weight, f"{where}.{name}"))
    whole, rounded = _whole(values)
    if 0 in whole:
        name = list(weights)[whole.index(0)]
        wrong = f"{weights[name]} is less than one in {2 * LONGEST_PERIOD:,} samples"
        raise UserError(f"{where}.{name}: {wrong}; give more, or leave it out")
    return BlendStage(step, tuple(weights), tuple(whole), rounded)


def _fraction(given: Any, where: str) -> Fraction:
    weight = given
    try:
        if isinstance(weight, bool) or not isinstance(weight, int | float | str):
            raise ValueError
        if isinstance(weight, str) and "/" not in weight:  # also 1e-3, which our YAML reads as text
            weight = float(weight)
        value = Fraction(repr(weight) if isinstance(weight, float) else weight)
        if value <= 0:
            raise ValueError
    except (ValueError, ZeroDivisionError):
        raise UserError(f"{where}: found {given!r}, expected a weight above 0; leave out what is not wanted") from None
    return value


def _whole(values: Sequence[Fraction]) -> tuple[list[int], bool]:
    total = sum(values)
    shares = [value / total for value in values]
    period = math.lcm(*(share.denominator for share in shares))
    if period <= LONGEST_PERIOD:
        return [int(share * period) for share in shares], False
    whole = [math.floor(share * LONGEST_PERIOD) for share in shares]
    missing = LONGEST_PERIOD - sum(whole)
    by_remainder = sorted(range(len(shares)), key=lambda i: (whole[i] - shares[i] * LONGEST_PERIOD, i))
    for i in by_remainder[:missing]:
        whole[i] += 1
    divisor = math.gcd(*whole)
    return [w // divisor for w in whole], True


def corpora_of(stages: Sequence[BlendStage]) -> list[str]:
    """Return the names of the corpora, in the order in which the stages introduce them."""
    return list(dict.fromkeys(name for stage in stages for name in stage.corpora))
