"""The results of a ladder: the law of each value of the varied setting, its forecast, and comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.cluster.ladder.fit import FEWEST, INTERVAL, Point, PowerLaw, band, bootstrap, fit
from ms_codegeex.extras.cluster.ladder.settings import LadderSettings, Rung

FURTHER = (10.0, 100.0)  # times the compute of the largest run
CURVE = 30  # points of the drawn frontier
NOISE = 2.0  # standard errors


@dataclass(frozen=True)
class Result:
    """A run of a ladder that has ended; `loss` None: it diverged."""

    size: int
    parameters: int
    tokens: int
    flops: int
    seed: int
    value: Any
    loss: float | None
    directory: str


def result_of(rung: Rung, summary: Mapping[str, Any] | None) -> Result:
    """The figures of a finished run; `summary` None: it diverged."""
    config = rung.config
    tokens = config.steps * config.training.global_batch * config.seq_length
    return Result(
        size=rung.size,
        parameters=config.model.sizes.parameter_count(),
        tokens=tokens,
        flops=config.model.sizes.flops_per_token(config.seq_length) * tokens,
        seed=rung.seed,
        value=rung.value,
        loss=summary["validation_loss"] if summary else None,
        directory=rung.directory.name,
    )


def analyse(settings: LadderSettings, results: Sequence[Result]) -> dict[str, Any]:
    """Fits the laws and returns the content of ladder.json."""
    values = settings.vary.values or [None]
    return {
        "settings": asdict(settings),
        "interval_percent": INTERVAL,
        "runs": [asdict(result) for result in results],
        "laws": [_law(value, [x for x in results if x.value == value]) for value in values],
        "comparisons": comparisons(values, results) if len(values) > 1 else [],
    }


def _law(value: Any, results: Sequence[Result]) -> dict[str, Any]:
    """The law of the runs with one value: its numbers, forecasts, frontier, and a test on the largest runs."""
    points = [Point(x.parameters, x.tokens, x.loss) for x in results if x.loss is not None]
    try:
        law = fit(points)
    except UserError as error:
        return {"value": value, "law": None, "reason": str(error)}
    laws = bootstrap(points, law)
    flops = [6.0 * p.parameters * p.tokens for p in points]
    minimum, maximum = min(flops), max(flops)
    error = float(np.sqrt(np.mean([(p.loss - law.loss(p.parameters, p.tokens)) ** 2 for p in points])))
    intervals = {
        f"{name}_interval": np.percentile([getattr(x, name) for x in laws], INTERVAL).tolist()
        for name in ("alpha", "beta", "e")
    }
    frontier = np.geomspace(minimum, maximum * FURTHER[-1], CURVE)
    return {
        "value": value,
        "law": asdict(law),
        "undetermined": law.undetermined,
        "error": error,
        **intervals,
        "held_out": _held_out(points),
        "forecasts": [_forecast(law, laws, maximum * times, maximum) for times in FURTHER],
        "frontier": [_forecast(law, laws, flops, maximum) for flops in frontier],
    }


def _forecast(law: PowerLaw, laws: Sequence[PowerLaw], flops: float, maximum: float) -> dict[str, float]:
    """The lowest loss for `flops` by the law: `times` the compute of the largest run, and its interval."""
    parameters, tokens = law.best(flops)
    low, high = band(laws, parameters, tokens)
    point = {"times": flops / maximum, "flops": float(flops), "parameters": parameters, "tokens": tokens}
    return {**point, "loss": law.loss(parameters, tokens), "low": low, "high": high}


def _held_out(points: Sequence[Point]) -> dict[str, Any] | None:
    """The largest runs as forecast from all others; None if too few are left."""
    largest = max(points, key=lambda p: p.parameters * p.tokens)
    same = [p for p in points if (p.parameters, p.tokens) == (largest.parameters, largest.tokens)]
    rest = [p for p in points if p not in same]
    if min(len({p.parameters for p in rest}), len({p.tokens for p in rest})) < FEWEST:
        return None
    law = fit(rest)
    low, high = band(bootstrap(rest, law), largest.parameters, largest.tokens)
    return {
        "parameters": largest.parameters,
        "tokens": largest.tokens,
        "measured": float(np.mean([p.loss for p in same])),
        "forecast": law.loss(largest.parameters, largest.tokens),
        "low": low,
        "high": high,
    }


def comparisons(values: Sequence[Any], results: Sequence[Result]) -> list[dict[str, Any]]:
    """For each size and number of tokens: the mean loss of every value, and whether the best differs from the first by
    more than the seeds do."""
    cells: dict[tuple[int, int, int], dict[int, list[float]]] = {}
    for x in results:
        measured = cells.setdefault((x.parameters, x.tokens, x.size), {}).setdefault(values.index(x.value), [])
        measured += [] if x.loss is None else [x.loss]
    spread = _spread([losses for cell in cells.values() for losses in cell.values()])
    rows = []
    for (parameters, tokens, size), cell in sorted(cells.items()):
        means = {number: float(np.mean(losses)) for number, losses in cell.items() if losses}
        best = min(means, key=means.__getitem__) if means else None
        row = {"parameters": parameters, "tokens": tokens, "size": size, "best": best}
        row["losses"] = [means.get(number) for number in range(len(values))]
        row |= {"difference": None, "noise": None}
        if best is not None and 0 in means:
            row["difference"] = means[best] - means[0]
            if spread is not None:
                row["noise"] = NOISE * spread * float(np.sqrt(1 / len(cell[best]) + 1 / len(cell[0])))
        rows.append(row)
    return rows


def _spread(groups: Sequence[Sequence[float]]) -> float | None:
    """The standard deviation between seeds, from all groups of runs that differ in nothing else."""
    freedom = sum(len(losses) - 1 for losses in groups if losses)
    if not freedom:
        return None
    return float(np.sqrt(sum(np.square(np.array(x) - np.mean(x)).sum() for x in groups if x) / freedom))
