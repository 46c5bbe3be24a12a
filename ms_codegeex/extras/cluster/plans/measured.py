"""What runs have taken against what a plan counts: the factor of `plan --measured`. A profile adds where the time goes.

A step takes the factor times what the plan counts. Eight of ten steps of other plans should lie in its range, which is
as wide as the scatter of the steps, half of what the roofline leaves unexplained, and the difference between the runs.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.printing import table
from ms_codegeex.config import RunConfig
from ms_codegeex.config.chosen_hardware import hardware_of
from ms_codegeex.extras.cluster.plans.planner import Plan
from ms_codegeex.planning.hardware_files import HardwareFile, StepFactor
from ms_codegeex.runs.files.records import read_log
from ms_codegeex.runs.files.resolved_config import read_config
from ms_codegeex.runs.files.run_directory import RunDirectory

KERNELS = "kernel_details.csv"  # of MindSpore Profiler on Ascend, level 1 or 2
KIND, SECONDS = "Type", "Duration(us)"  # its columns
SHOWN_KINDS = 12
# Student's t that one value in ten exceeds, by degrees of freedom; the last one also for more.
ONE_IN_TEN = (3.078, 1.886, 1.638, 1.533, 1.476, 1.440, 1.415, 1.397, 1.383, 1.372)
EIGHT_OF_TEN = 1.2816  # standard deviations of a normal distribution
MIN_RANGE_TO_EACH_SIDE = 0.01


@dataclass(frozen=True)
class MeasuredRun:
    """A run with the seconds of its steps that neither compiled nor were recorded, and the seconds of each kind of
    kernel in its profile, if there is one."""

    name: str
    config: RunConfig
    step_seconds: tuple[float, ...]
    kernels: Mapping[str, float]

    @property
    def seconds(self) -> float:
        return statistics.median(self.step_seconds)

    @property
    def counted(self) -> float:
        """Seconds of a step by the plan of the run, without a factor."""
        return Plan(self.config, hardware_of(self.config)).counted_seconds


def measured_run(path: Path) -> MeasuredRun:
    """Read a run directory. `UserError` if it is none, ran on a CPU, or has no step that did not compile."""
    run = RunDirectory(path)
    config = read_config(run)
    if config.device == "cpu":
        raise UserError(f"--measured: {path} ran on a CPU; name a run on the accelerator that is planned for")
    steps = [x for x in read_log(run.log) if not x["compiling"] and x["step_seconds"]]
    plain = [x for x in steps if x["step"] not in config.profile.window]
    if not steps:
        raise UserError(f"--measured: {path} has no step that did not compile; train a few more steps")
    seconds = tuple(x["step_seconds"] for x in plain or steps)
    return MeasuredRun(str(path), config, seconds, kernel_seconds(sorted(run.profile.rglob(KERNELS))))


def kernel_seconds(files: Iterable[Path]) -> Mapping[str, float]:
    """Seconds of each kind of kernel in tables of the profiler."""
    found: Counter[str] = Counter()
    for file in files:
        try:
            with file.open(encoding="utf-8-sig", newline="") as stream:
                for row in csv.DictReader(stream):
                    found[row[KIND].strip()] += float(row[SECONDS]) / 1e6
        except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError, AttributeError, TypeError):
            remedy = "copy it again, or move it away to plan without it"
            raise UserError(f"{file}: not a table of kernels by MindSpore Profiler 2.6 to 2.9; {remedy}") from None
    return found


def measured_hardware(runs: Sequence[MeasuredRun], planned: RunConfig) -> HardwareFile:
    """The factor of these runs, for plans on the chip and in the precision of `planned`, which the runs must share."""
    for run in runs:
        for key, values in (
            ("parallel.hardware", [hardware_of(x).name for x in (run.config, planned)]),
            ("training.precision", [x.training.precision for x in (run.config, planned)]),
        ):
            if values[0] != values[1]:
                what = f"{run.name} has {key}={values[0]}, the plan {values[1]}"
                raise UserError(f"--measured: {what}; name a run like the plan, or set the plan's {key}")
    factors = [run.seconds / run.counted for run in runs]
    value = statistics.geometric_mean(factors)
    width = max(statistics.fmean(map(_width, runs, factors)), between(factors))
    return HardwareFile(
        base=hardware_of(planned).name,
        source=f"{sum(len(run.step_seconds) for run in runs)} steps of {', '.join(run.name for run in runs)}",
        factor=StepFactor(value, value * math.exp(-width), value * math.exp(width)),
    )


def _width(run: MeasuredRun, factor: float) -> float:
    scatter = statistics.pvariance([math.log(x / run.seconds) for x in run.step_seconds])
    return max(MIN_RANGE_TO_EACH_SIDE, EIGHT_OF_TEN * math.sqrt(scatter + (math.log(factor) / 2) ** 2))


def between(factors: Sequence[float]) -> float:
    """The logarithm of how many times one more run's factor exceeds the mean of these with a chance of one in ten, if
    their logarithms are normally distributed; 0 for one factor."""
    number = len(factors)
    if number < 2:
        return 0.0
    deviation = statistics.stdev(map(math.log, factors))
    return ONE_IN_TEN[min(number - 1, len(ONE_IN_TEN)) - 1] * deviation * math.sqrt(1 + 1 / number)


def to_dict(runs: Sequence[MeasuredRun], found: HardwareFile) -> dict[str, Any]:
    """Plain values for `--json`: the factor, and of each run its steps and the seconds of its kernels."""
    shown = [
        {
            "run": run.name,
            "steps": len(run.step_seconds),
            "step_seconds": run.seconds,
            "counted_seconds": run.counted,
            "kernel_seconds": dict(run.kernels),
        }
        for run in runs
    ]
    return {"factor": found.factor.value, "low": found.factor.low, "high": found.factor.high, "runs": shown}


def text(runs: Sequence[MeasuredRun], found: HardwareFile) -> str:
    """The factor, and the shares of each kind of kernel, as tables."""
    header = ("measured", "devices", "steps", "step, s", "counted, s", "times")
    rows = [
        (
            run.name,
            f"{run.config.devices:,}",
            f"{len(run.step_seconds)}",
            f"{run.seconds:.4g}",
            f"{run.counted:.4g}",
            f"{run.seconds / run.counted:.3f}",
        )
        for run in runs
    ]
    factor = found.factor
    blocks = [
        f"{table(header, rows)}\n"
        f"a step takes {factor.value:.3f} ({factor.low:.3f} to {factor.high:.3f}) times what the plan counts"
    ]
    for run in runs:
        total, ranked = sum(run.kernels.values()), Counter(run.kernels).most_common()
        if total:
            shares = [(kind, f"{seconds / total:.1%}") for kind, seconds in ranked[:SHOWN_KINDS]]
            rest = sum(seconds for _, seconds in ranked[SHOWN_KINDS:])
            shares += [(f"{len(ranked) - SHOWN_KINDS} other kinds", f"{rest / total:.1%}")] if rest else []
            blocks.append(table((f"kernels of {run.name}", "share"), shares))
    return "\n\n".join(blocks)
