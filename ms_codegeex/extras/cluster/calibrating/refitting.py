"""The figures of a hardware file from the profiles of runs: what `calibrate` fits, and how well.

    product     seconds = flops / (peak · share · k / (k + start) · fill)
    vector      seconds = start of a kernel + bytes / memory bandwidth
    message     seconds = latency · rounds + bytes sent / rate of the link
    step        seconds = factor · (kernels · (1 + gaps) + messages · (1 - overlap) + pipeline)

Each is fitted by least squares of relative errors, weighted by time. What the profiles do not show is taken from the
chip and listed as assumed.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.hardware import Chip
from ms_codegeex.config import RunConfig
from ms_codegeex.config.chosen_hardware import hardware_of
from ms_codegeex.extras.cluster.calibrating.profile_files import KernelRun, MessageRun, RankProfile, StepTrace
from ms_codegeex.extras.cluster.plans.planner import Plan
from ms_codegeex.planning.hardware_files import ChipRates, HardwareFile, Products, StepFactor
from ms_codegeex.planning.operators import K_START, MATMUL_PEAK, whole_tiles

LARGE = 1 << 20  # bytes of a vector kernel that are not served by a cache alone
NO_VECTOR_WORK = re.compile("mat_?mul|attention|conv|hcom|hccl|allreduce|allgather|reducescatter|send|receive", re.I)
NO_VECTOR_CORES = ("AI_CPU", "AICPU", "HCCL", "COMMUNICATION", "MIX_AIC", "MIX_AIV")
SHOWN = 30  # residuals of each kind in the file
# Student's t that one value in ten exceeds, by degrees of freedom; the last one also for more.
ONE_IN_TEN = (3.078, 1.886, 1.638, 1.533, 1.476, 1.440, 1.415, 1.397, 1.383, 1.372)
EIGHT_OF_TEN = 1.2816  # standard deviations of a normal distribution
MIN_RANGE_TO_EACH_SIDE = 0.01


@dataclass(frozen=True)
class ProfiledRun:
    """A run with its profiles, and the seconds of its steps that were neither compiled nor recorded."""

    name: str
    config: RunConfig
    step_seconds: tuple[float, ...]
    profiles: tuple[RankProfile, ...]


@dataclass(frozen=True)
class MeasuredPoint:
    """Equal kernels or messages: their seconds (median), how many there are, and what they are, for people."""

    seconds: float
    count: int
    what: dict[str, Any]

    @property
    def weight(self) -> float:
        """Seconds of all of them."""
        return self.seconds * self.count


@dataclass(frozen=True)
class Residuals:
    """How far the fit is from each point: relative, and over all of them weighted by time."""

    points: tuple[MeasuredPoint, ...]
    errors: tuple[float, ...]

    @property
    def rms(self) -> float:
        """Root of the mean square; 0 without points."""
        total = sum(x.weight for x in self.points)
        squares = sum(x.weight * error**2 for x, error in zip(self.points, self.errors, strict=True))
        return math.sqrt(squares / total) if total else 0.0

    def shown(self) -> list[dict[str, Any]]:
        """Those that take longest, as plain values."""
        pairs = sorted(zip(self.points, self.errors, strict=True), key=lambda pair: -pair[0].weight)[:SHOWN]
        return [{**x.what, "runs": x.count, "seconds": x.seconds, "error": round(error, 4)} for x, error in pairs]


def least_squares(columns: Sequence[Sequence[float]], points: Sequence[MeasuredPoint]) -> list[float]:
    """Factors of the columns, none negative, whose sum is closest to the points' seconds, in relative terms."""
    seconds = np.array([x.seconds for x in points])
    root = np.sqrt([x.weight for x in points])
    scaled = np.array(columns, dtype=float) / seconds * root
    found = np.linalg.lstsq(scaled.T, root, rcond=None)[0]
    if (found >= 0).all() or len(columns) == 1:
        return [float(x) for x in found]
    kept = [i for i in range(len(columns)) if i != int(np.argmin(found))]
    rest = iter(least_squares([columns[i] for i in kept], points))
    return [next(rest) if i in kept else 0.0 for i in range(len(columns))]


def _residuals(points: Sequence[MeasuredPoint], fitted: Iterable[float]) -> Residuals:
    return Residuals(tuple(points), tuple(y / x.seconds - 1 for x, y in zip(points, fitted, strict=True)))


def _points(groups: dict[tuple, list[float]], names: Sequence[str]) -> list[MeasuredPoint]:
    return [
        MeasuredPoint(statistics.median(seconds), len(seconds), dict(zip(names, key, strict=True)))
        for key, seconds in groups.items()
    ]


def fit_products(kernels: Sequence[KernelRun], chip: Chip, precision: str) -> tuple[Products | None, Residuals]:
    """Share of the peak and starting length, from the products of the run's precision that arithmetic limits."""
    width, peak = 4 if precision == "fp32" else 2, chip.peak(precision)
    groups = defaultdict(list)
    for kernel in kernels:
        if kernel.product and kernel.width == width and kernel.seconds > 0:
            m, k, n, batch = kernel.product
            traffic = batch * (m * k + k * n + m * n) * width / chip.memory_bandwidth
            if 2 * batch * m * k * n / peak >= traffic:
                groups[kernel.product].append(kernel.seconds)
    points = _points(groups, ("m", "k", "n", "batch"))
    if not points:
        return None, Residuals((), ())
    ideal = []
    for x in points:
        m, k, n, batch = x.what.values()
        ideal.append(2 * batch * m * k * n / (peak * whole_tiles(m, n)))
    lengths = [x.what["k"] for x in points]
    if len(set(lengths)) > 1:
        one, start = least_squares([ideal, [t / k for t, k in zip(ideal, lengths, strict=True)]], points)
    else:
        (one,) = least_squares([[t * (1 + K_START / k) for t, k in zip(ideal, lengths, strict=True)]], points)
        start = one * K_START
    if one <= 0:
        return None, Residuals((), ())
    return Products(1 / one, start / one), _residuals(
        points, (t * (one + start / k) for t, k in zip(ideal, lengths, strict=True))
    )


def fit_vectors(kernels: Sequence[KernelRun]) -> tuple[tuple[float, float] | None, Residuals]:
    """Seconds of starting a kernel and bytes/s, from kernels that only move data."""
    groups = defaultdict(list)
    for x in kernels:
        vector = x.moved and x.product is None and not NO_VECTOR_WORK.search(x.kind)
        if vector and x.seconds > 0 and x.core not in NO_VECTOR_CORES:
            groups[x.kind, x.moved].append(x.seconds)
    points = _points(groups, ("kind", "bytes"))
    points = [x for x in points if x.what["bytes"] >= LARGE] or points
    return _fit_rate(points, [1.0] * len(points))


def fit_link(messages: Sequence[MessageRun], link: str, devices: int) -> tuple[tuple[float, float] | None, Residuals]:
    """Latency of a round and bytes/s of one kind of link; `devices`: of the groups that use it."""
    groups = defaultdict(list)
    for x in messages:
        if x.link == link:
            groups[x.op, x.group, x.bytes].append(x.seconds)
    points = _points(groups, ("op", "group", "bytes"))
    return _fit_rate(points, [_rounds(x.what["op"], devices) for x in points])


def _fit_rate(points: Sequence[MeasuredPoint], starts: Sequence[float]) -> tuple[tuple[float, float] | None, Residuals]:
    """Seconds of a start and bytes/s, from points that start so often."""
    if not points:
        return None, Residuals((), ())
    sizes = [x.what["bytes"] for x in points]
    columns = [starts, sizes] if len(set(sizes)) > 1 else [sizes]
    found = least_squares(columns, points)
    start, each = found if len(found) == 2 else (0.0, *found)
    if each <= 0:
        return None, Residuals((), ())
    return (start, 1 / each), _residuals(points, (start * n + each * x for n, x in zip(starts, sizes, strict=True)))


def _rounds(op: str, devices: int) -> float:
    """How often a message starts, as a plan counts it."""
    if re.search("send|receive", op, re.I):
        return 1.0
    return (2 if re.search("all_?reduce", op, re.I) else 1) * math.ceil(math.log2(max(2, devices)))


def calibrate(runs: Sequence[ProfiledRun]) -> HardwareFile:
    """The hardware file of what these runs have shown.

    Raises:
        UserError: they are of different chips, or one of them has too few steps.
    """
    chips = {hardware_of(run.config).name: hardware_of(run.config) for run in runs}
    precisions = {run.config.training.precision for run in runs}
    if len(chips) > 1 or len(precisions) > 1:
        found = " and ".join(sorted(chips if len(chips) > 1 else precisions))
        raise UserError(f"calibrate: runs of {found}; give runs of one chip and one precision")
    for run in runs:
        if not run.step_seconds:
            raise UserError(f"{run.name}: log.jsonl has no step that was not compiled; train a few more steps")
    (chip,), (precision,) = chips.values(), precisions
    kernels = [x for run in runs for profile in run.profiles for x in profile.kernels]
    messages = [x for run in runs for profile in run.profiles for x in profile.messages]
    traces = [x for run in runs for profile in run.profiles for x in profile.steps]
    assumed: list[str] = []

    vectors, of_vectors = fit_vectors(kernels)
    start, bandwidth = vectors or (0.0, chip.memory_bandwidth)
    assumed += [] if vectors else ["memory_bandwidth"]
    chip = replace(chip, memory_bandwidth=bandwidth)
    products, of_products = fit_products(kernels, chip, precision)
    assumed += [] if products else ["products"]
    rates, of_messages = _rates(messages, chip, runs[0].config, assumed)
    overlap, gaps = _overlap_and_gaps(traces, start, len([x for x in kernels if x.moved and not x.product]), assumed)
    names = ", ".join(run.name for run in runs)
    steps = sum(len(run.step_seconds) for run in runs)
    found = HardwareFile(
        base=chip.name,
        source=f"{steps} steps of {names}",
        rates=rates,
        products=products or Products(MATMUL_PEAK, K_START),
        overlap=overlap,
        gaps=gaps,
        factor=StepFactor(1.0, 1.0, 1.0),
        assumed=assumed,
    )
    factor, of_steps = _factor(found, runs, chip, of_products.rms, of_vectors.rms, of_messages.rms)
    residuals = {
        "steps": of_steps,
        "products": of_products.shown(),
        "vector_kernels": of_vectors.shown(),
        "messages": of_messages.shown(),
    }
    return replace(found, factor=factor, residuals=residuals)


def _rates(
    messages: Sequence[MessageRun], chip: Chip, config: RunConfig, assumed: list[str]
) -> tuple[ChipRates, Residuals]:
    """Rates and latencies of the links. On one board, a server's rate is the board's."""
    planned = Counter[tuple[str, int]]()
    for x in Plan(config, chip).collectives:
        planned[x.link, x.group_size] += x.bytes
    sizes = {
        link: max((n for n in planned if n[0] == link), key=planned.__getitem__, default=(link, 2))[1]
        for link in ("server", "cluster")
    }
    found = {
        link: fit_link(messages, link, sizes["cluster" if link == "cluster" else "server"])
        for link in ("board", "server", "cluster")
    }
    fits = {link: fit for link, (fit, _) in found.items()}
    if chip.board_devices == chip.server_devices:
        fits["server"] = fits["server"] or fits["board"]
    values: dict[str, float] = {}
    for link, fit in fits.items():
        name = f"{link}_bandwidth"
        values[name] = fit[1] if fit else getattr(chip, name)
        assumed += [] if fit else [name]
    for name, fit in (("latency", fits["board"] or fits["server"]), ("cluster_latency", fits["cluster"])):
        values[name] = fit[0] if fit else chip.latency
        assumed += [] if fit else [name]
    residuals = [x for _, x in found.values()]
    everything = Residuals(sum((x.points for x in residuals), ()), sum((x.errors for x in residuals), ()))
    return ChipRates(memory_bandwidth=chip.memory_bandwidth, **values), everything


def _overlap_and_gaps(
    traces: Sequence[StepTrace], start: float, kernels: int, assumed: list[str]
) -> tuple[float, float]:
    """The share of messages under kernels, and the seconds of standing still, and of starting kernels, for each second
    of their work."""
    computing, sent = sum(x.computing for x in traces), sum(x.messages for x in traces)
    starting = min(start * kernels, computing / 2)
    assumed += [] if traces and sent else ["overlap"]
    assumed += [] if computing else ["gaps"]
    overlap = sum(x.overlapped for x in traces) / sent if sent else 0.0
    gaps = (sum(x.free for x in traces) + starting) / (computing - starting) if computing else 0.0
    return min(overlap, 0.999), gaps


def _factor(
    found: HardwareFile, runs: Sequence[ProfiledRun], chip: Chip, products: float, vectors: float, messages: float
) -> tuple[StepFactor, list[dict[str, Any]]]:
    """Measured over counted steps, and its limits: from the residuals of all parts by their share in the step, from the
    steps' own scatter, and from how far the factors are from one and from each other."""
    factors, widths, shown = [], [], []
    for run in runs:
        plan = Plan(run.config, found.chip(chip, "fitted"))
        step, counted, time = statistics.median(run.step_seconds), plan.counted_seconds, plan.time
        factors.append(step / counted)
        work, micro = time.slowest.work, time.micro_batches
        in_products = micro * (work.matmul_forward + work.matmul_backward + work.matmul_recompute)
        in_vectors = micro * work.total - in_products + time.update
        parts = ((in_products, products), (in_vectors, vectors), (time.total - time.computing, messages))
        variance = sum((seconds / time.total * rms) ** 2 for seconds, rms in parts)
        variance += statistics.pvariance([math.log(x / step) for x in run.step_seconds])
        variance += (math.log(factors[-1]) / 2) ** 2
        widths.append(max(MIN_RANGE_TO_EACH_SIDE, EIGHT_OF_TEN * math.sqrt(variance)))
        shown.append({"run": run.name, "seconds": step, "counted": counted, "error": round(counted / step - 1, 4)})
    value = statistics.geometric_mean(factors)
    width = max(statistics.fmean(widths), between(factors))
    return StepFactor(value, value * math.exp(-width), value * math.exp(width)), shown


def between(factors: Sequence[float]) -> float:
    """The logarithm of how many times one more run's factor exceeds the mean of these with a chance of one in ten, if
    their logarithms are normally distributed; 0 for one factor."""
    number = len(factors)
    if number < 2:
        return 0.0
    deviation = statistics.stdev(map(math.log, factors))
    return ONE_IN_TEN[min(number - 1, len(ONE_IN_TEN)) - 1] * deviation * math.sqrt(1 + 1 / number)
