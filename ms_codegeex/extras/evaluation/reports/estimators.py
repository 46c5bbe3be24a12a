"""Estimate from verdicts: unbiased pass@k, with confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

RESAMPLES, SEED, LEVEL = 2000, 0, 0.95
FEW_PROBLEMS = 10
ROUNDED_AWAY = 0.0005  # tables show per cent with one decimal
QUANTILE = NormalDist().inv_cdf((1 + LEVEL) / 2)
INTERVALS = "95 % intervals, bootstrapped over problems; Wilson's where these touch 0 or 100 % or have no width"
MAX_CURVE_K = 200


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The probability that at least one of k samples passes, drawn without replacement from `samples` of which
    `passed` pass: 1 - C(n-c, k) / C(n, k), computed as the product of 1 - k/i for i from n-c+1 to n, which neither
    overflows nor cancels (Chen et al. 2021)."""
    if not 0 <= passed <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {passed} passed in {samples} samples")
    if samples - passed < k:
        return 1.0
    return 1.0 - float(np.prod(1.0 - k / np.arange(samples - passed + 1, samples + 1)))


def table(counts: Sequence[tuple[int, int]], ks: Sequence[int]) -> np.ndarray:
    """float64 [problems, len(ks)]: `pass_at_k` of each (samples, passed)."""
    known = {pair: [pass_at_k(*pair, k) for k in ks] for pair in set(counts)}
    return np.array([known[pair] for pair in counts], np.float64).reshape(len(counts), len(ks))


def wilson(mean: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share whose mean over `count` trials is `mean` (Wilson 1927)."""
    square = QUANTILE**2
    centre = (mean + square / (2 * count)) / (1 + square / count)
    half = QUANTILE / (1 + square / count) * math.sqrt(mean * (1 - mean) / count + square / (4 * count**2))
    return 0.0 if mean <= 0 else centre - half, 1.0 if mean >= 1 else centre + half  # rounding aside


def rate_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of shares `[problems]`: the bootstrap's, or Wilson's if that one touches 0 or 1 or
    has hardly any width: resampling three problems that were all solved always gives 100 %. For fewer than
    `FEW_PROBLEMS` problems it is never narrower than Wilson's."""
    low, high = map(float, interval(values[:, None])[:, 0])
    minimum, maximum = wilson(float(values.mean()), len(values))
    if low < ROUNDED_AWAY or high > 1 - ROUNDED_AWAY or high - low < ROUNDED_AWAY:
        return minimum, maximum
    return (min(low, minimum), max(high, maximum)) if len(values) < FEW_PROBLEMS else (low, high)


def difference_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of differences between shares `[problems]`: the bootstrap's. If all are nearly
    equal, or there are fewer than `FEW_PROBLEMS`, it reaches at least as far from the mean as Wilson's upper limit
    for 0 of that many problems."""
    low, high = map(float, interval(values[:, None])[:, 0])
    if high - low < ROUNDED_AWAY or len(values) < FEW_PROBLEMS:
        mean, margin = float(values.mean()), wilson(0.0, len(values))[1]
        return max(min(low, mean - margin), -1.0), min(max(high, mean + margin), 1.0)
    return low, high


def interval(values: np.ndarray) -> np.ndarray:
    """float64 [2, columns]: the 95 % percentile bootstrap interval of each column's mean, always the same: how it would
    vary over other problems of this kind. Problems (rows) are drawn with replacement, samples within one are not."""
    rows = len(values)
    drawn = np.random.default_rng(SEED).multinomial(rows, np.full(rows, 1 / rows), RESAMPLES)
    return np.quantile(drawn @ values / rows, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)


def pass_rate(counts: Sequence[tuple[int, int]]) -> dict[str, float]:
    return mean_share([passed / samples for samples, passed in counts])


def pass_rates(counts: Sequence[tuple[int, int]], ks: Sequence[int]) -> dict[str, dict]:
    """{k: {value, low, high}} for each k, {k: {missing: why}} for those for which a problem has too few samples."""
    fewest = min(samples for samples, _ in counts)
    possible = [k for k in ks if k <= fewest]
    columns = zip(possible, table(counts, possible).T, strict=True)
    missing = {str(k): f"a problem has {fewest} samples, pass@{k} needs {k} of each" for k in ks[len(possible) :]}
    return {str(k): mean_share(values) for k, values in columns} | {k: {"missing": why} for k, why in missing.items()}


def curve(counts: Sequence[tuple[int, int]]) -> list[float]:
    fewest = min(min(samples for samples, _ in counts), MAX_CURVE_K)
    return [float(value) for value in table(counts, range(1, fewest + 1)).mean(axis=0)]


def mean_share(shares: Sequence[float] | np.ndarray) -> dict[str, float]:
    """The mean of shares, one for each problem, with its interval."""
    values = np.asarray(shares, np.float64)
    low, high = rate_interval(values)
    return {"value": float(values.mean()), "low": low, "high": high}
