"""The verdict of an execution: its ranks are compared with one device, with each other and with the plan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ms_codegeex.base.reading import read_json
from ms_codegeex.config import RunConfig
from ms_codegeex.extras.cluster.rehearsal.job import (
    EQUAL_STEPS,
    UNCLIPPED,
    RehearsalJob,
    clip_of,
    initial_value,
    overflows_in,
)
from ms_codegeex.extras.cluster.rehearsal.plan_checks import execution_problems, state_checks
from ms_codegeex.extras.cluster.rehearsal.schedule import schedule_check
from ms_codegeex.parallel.sharding import ParameterLayout, Placement, layouts_of

MIN_RELATIVE_UPDATE = 0.01  # smaller updates would hide errors
MIN_UPDATES = 3
ADAMW_LIMIT = 1e-4  # error relative to the movement, against the formula in float64
LOSS_FALL_LIMITS = (0.7, 1.3)  # over what the gradient predicts for a short step


@dataclass(frozen=True)
class Tolerances:
    """Allowed relative errors of the loss and of a parameter's movement.

    A movement counts as at least `still` times the median movement, because some gradients are only rounding errors,
    such as that of the key bias.
    """

    loss: float
    parameter: float
    still: float


TOLERANCES = {"fp32": Tolerances(1e-5, 1e-4, 0.01), "fp16": Tolerances(1e-3, 1e-2, 0.05)}


@dataclass(frozen=True)
class ParameterError:
    """The largest deviation of one parameter on any rank, relative to its movement on one device."""

    name: str
    rank: int
    error: float


@dataclass(frozen=True)
class Comparison:
    """Everything that was compared; `problems` are one line each, and empty if the plan is right."""

    steps: int
    skipped_steps: int
    clipped_steps: int
    unclipped_steps: int
    adamw_error: float  # relative to a parameter's movement, against the formula
    loss_fall: float  # in a short step, over what the gradient predicts; nan if there was no such step
    update: float  # norm of the weights' change over the weights' norm
    loss_error: float
    evaluation_error: float | None  # relative, of the loss that a pipeline's evaluation gives; None without a pipeline
    parameter_errors: tuple[ParameterError, ...]  # worst first
    replicas_equal: bool
    problems: tuple[str, ...]

    @property
    def parameter_error(self) -> float:
        """The error of the worst parameter."""
        return self.parameter_errors[0].error


def compare(job: RehearsalJob) -> Comparison:
    """Compare what the reference and the ranks have left in the job's directory."""
    config, mesh = job.config, job.config.mesh
    tolerances = TOLERANCES[config.training.precision]
    trained = read_json(job.file("json"))
    reference = np.array(trained["outputs"])
    with np.load(job.file("npz"), allow_pickle=False) as file:
        final = dict(file)
    plan = {layout.name: layout for layout in layouts_of(config)}
    facts = [read_json(job.file("json", rank)) for rank in range(mesh.world)]
    runs = [read_json(job.file("run.json", rank)) for rank in range(mesh.world)]
    outputs = [np.array(run["outputs"]) for run in runs]
    problems = [p for rank, fact in enumerate(facts) for p in _layout_problems(plan, config, rank, fact["windows"])]
    graph = config.of_a_call
    problems += [p for rank, fact in enumerate(facts) for p in execution_problems(graph, rank, fact["collectives"])]
    problems += [p for rank, fact in enumerate(facts) for p in _graph_problems(graph, rank, fact)]
    problems += _thawed(plan, final)
    loss_error, scalar_problems = _scalars(reference, outputs, tolerances)
    errors, replica_problems = _parameters(job, plan, facts, final, tolerances.still)
    adamw_error, adamw_problems = _adamw([run["adamw"] for run in runs])
    fall, fall_problems = _fall(config, reference)
    evaluations = [run["evaluation"] for run in runs]
    evaluation_error, evaluation_problems = _evaluation(trained["evaluation"], evaluations, tolerances.loss)
    problems += scalar_problems + evaluation_problems + replica_problems + adamw_problems + fall_problems
    order = {name: number for number, name in enumerate(plan)}
    wrong = sorted((e for e in errors if not e.error <= tolerances.parameter), key=lambda e: order[e.name])
    if wrong:
        problems.append(
            f"{wrong[0].name}: rank {wrong[0].rank} differs from one device by {wrong[0].error:.1e} of its movement "
            f"(limit {tolerances.parameter:.0e}); {len(wrong)} of {len(errors)} parameters differ"
        )
    before = {name: initial_value(name, value.shape) for name, value in final.items() if plan[name].trained}
    update = _norm(final[name] - value for name, value in before.items()) / _norm(before.values())
    finite, norms = reference[:, 5] > 0, reference[:, 2]
    clips = np.array([clip_of(config, step) or UNCLIPPED for step in range(len(reference))])
    clipped = int(np.sum(finite & (norms > clips)))
    problems += _weaknesses(config, update, int(np.sum(finite)), len(reference), clipped)
    return Comparison(
        steps=len(reference),
        skipped_steps=int(np.sum(~finite)),
        clipped_steps=clipped,
        unclipped_steps=int(np.sum(finite)) - clipped,
        adamw_error=adamw_error,
        loss_fall=fall,
        update=update,
        loss_error=loss_error,
        evaluation_error=evaluation_error,
        parameter_errors=tuple(sorted(errors, key=lambda e: -e.error)),
        replicas_equal=not replica_problems,
        problems=tuple(problems),
    )


def _weaknesses(config: RunConfig, update: float, updates: int, steps: int, clipped: int) -> list[str]:
    """Reasons why the execution could not have shown an error."""
    weaknesses = []
    if not update >= MIN_RELATIVE_UPDATE:
        weaknesses.append(f"the weights moved by {update:.1%} of their norm: too little to show an error")
    if updates < MIN_UPDATES:
        weaknesses.append(f"{updates} of {steps} steps updated the weights: too few to show an error; increase --steps")
    if config.training.clip_norm and not clipped:
        weaknesses.append("no step was clipped, so clipping was not tested")
    if overflows_in(config, steps) is not None and updates == steps:
        weaknesses.append("no step overflowed, so skipping was not tested; increase --steps")
    return weaknesses


def _norm(arrays: Iterable[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.square(a, dtype=np.float64).sum() for a in arrays)))


def _adamw(errors: list[dict[str, float]]) -> tuple[float, list[str]]:
    rank, name = max(((r, n) for r, by_name in enumerate(errors) for n in by_name), key=lambda x: errors[x[0]][x[1]])
    worst = errors[rank][name]
    if worst <= ADAMW_LIMIT:
        return worst, []
    return worst, [
        f"AdamW, {name}: rank {rank} differs from the formula by {worst:.1e} of its movement (limit {ADAMW_LIMIT:.0e})"
    ]


def _fall(config: RunConfig, reference: np.ndarray) -> tuple[float, list[str]]:
    """How far the loss of a batch fell in the shortest step, over what the gradient predicts: its norm times the length
    of the step. It is the only test of the gradients' scale that also catches a mistake in the step itself, which
    reference and ranks share."""
    loss, norms, rates, finite = reference[:, 0], reference[:, 2], reference[:, 3], reference[:, 5] > 0
    lengths = [rates[k] * min(norms[k], clip_of(config, k) or UNCLIPPED) for k in range(len(reference))]
    usable = [
        step
        for step in range(len(reference) - 1)
        if finite[step] and rates[step] > 0 and step // EQUAL_STEPS == (step + 1) // EQUAL_STEPS
    ]
    if not usable:
        return float("nan"), ["no update is followed by a step with the same batch; increase --steps"]
    step = min(usable, key=lambda x: lengths[x])
    predicted = lengths[step] * norms[step]
    fall = float((loss[step] - loss[step + 1]) / predicted)
    if LOSS_FALL_LIMITS[0] <= fall <= LOSS_FALL_LIMITS[1]:
        return fall, []
    return fall, [
        f"step {step + 1}: the loss fell by {loss[step] - loss[step + 1]:.3g}, its gradient predicts {predicted:.3g}: "
        "the gradients or their norm have the wrong scale"
    ]


SCALARS = ("loss", "counted tokens", "gradient norm", "learning rate", "loss scale", "finite gradients")


def _scalars(reference: np.ndarray, outputs: list[np.ndarray], tolerances: Tolerances) -> tuple[float, list[str]]:
    """Relative error of the losses, and the first figure of a step that differs between a rank and one device. Loss and
    norm may differ by rounding; everything else must be equal."""
    largest = np.array([tolerances.loss, 0.0, tolerances.parameter, 0.0, 0.0, 0.0])
    worst, problems = 0.0, []
    for rank, values in enumerate(outputs):
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.abs(values - reference) / np.abs(reference)
        error[(values == reference) | (np.isnan(values) & np.isnan(reference))] = 0.0
        error[~np.isfinite(error)] = np.inf
        worst = float(np.max([worst, *error[:, 0]]))
        if not problems and not np.all(error <= largest):
            step, column = (int(i) for i in np.argwhere(~(error <= largest))[0])
            problems.append(
                f"{SCALARS[column]}: rank {rank} has {values[step, column]:.8g} in step {step + 1}, one device "
                f"{reference[step, column]:.8g}"
            )
    return worst, problems


def _evaluation(
    expected: list[float] | None, sums: list[list[float] | None], limit: float
) -> tuple[float | None, list[str]]:
    """The largest relative error of a rank's evaluation, and a problem if it is too large. Given are Σ mask·nll and
    Σ mask, of one device and of each rank."""
    if expected is None:
        return None, []
    loss, tokens = expected[0] / expected[1], expected[1]
    whole = [count == tokens and np.isfinite(value) for value, count in sums]
    errors = [abs(v / n / loss - 1) if right else np.inf for right, (v, n) in zip(whole, sums, strict=True)]
    worst = float(max(errors))
    if worst <= limit:
        return worst, []
    rank = errors.index(max(errors))
    value, count = sums[rank]
    return worst, [
        f"evaluation: rank {rank} has loss {value / max(count, 1.0):.8g} of {count:g} tokens, one device {loss:.8g} of "
        f"{tokens:g}"
    ]


def _layout_problems(
    plan: dict[str, ParameterLayout], config: RunConfig, rank: int, windows: dict[str, Any]
) -> list[str]:
    stage, placement = config.mesh.coordinates(rank)[0], Placement(config, rank)
    mine = {name for name in plan if placement.here(name)}
    for name in sorted(mine ^ set(windows)):
        where = "should not be" if name in windows else "is missing"
        return [f"{name}: {where} on rank {rank}, which belongs to stage {stage}"]
    for name in (name for name in plan if name in mine):
        expected = [[part.start, part.stop] for part in placement.window(name)]
        if windows[name] != expected:
            given, wanted = (" x ".join(f"{a}:{b}" for a, b in window) for window in (windows[name], expected))
            return [f"{name}: the engine gave rank {rank} the shard {given}, the plan says {wanted}"]
    return []


def _graph_problems(config: RunConfig, rank: int, fact: dict[str, Any]) -> list[str]:
    stage = config.mesh.coordinates(rank)[0]
    checks = state_checks(config, stage, fact["parameters"])
    if fact["passes"]:
        checks.append(schedule_check(config, stage, fact["passes"]))
    return [f"rank {rank}, {x.name}: {x.found}, planned {x.expected}" for x in checks if not x.ok][:1]


def _thawed(plan: dict[str, ParameterLayout], final: dict[str, np.ndarray]) -> list[str]:
    """The first frozen weight that changed on one device. A rank that made the same mistake would agree with it."""
    frozen = (name for name in final if not plan[name].trained)
    started = ((name, initial_value(name, final[name].shape).astype(final[name].dtype)) for name in frozen)
    changed = [name for name, value in started if np.any(final[name] != value)]
    return [f"{name}: is frozen, but has changed ({len(changed)} frozen weights have)" for name in changed[:1]]


def _parameters(
    job: RehearsalJob,
    plan: dict[str, ParameterLayout],
    facts: list[dict[str, Any]],
    final: dict[str, np.ndarray],
    still: float,
) -> tuple[list[ParameterError], list[str]]:
    movement = {n: float(np.max(np.abs(v - initial_value(n, v.shape)))) for n, v in final.items()}
    trained = [movement[n] for n in final if plan[n].trained]
    minimum = max(still * float(np.median(trained)), float(np.finfo(np.float32).tiny))
    worst: dict[str, ParameterError] = {}
    seen: dict[tuple, tuple[int, bytes]] = {}
    unequal: list[str] = []
    for rank, fact in enumerate(facts):
        with np.load(job.file("npz", rank), allow_pickle=False) as file:
            values = dict(file)
        for name, window in fact["windows"].items():
            layout = plan.get(name)
            owner = (layout.copy_of if layout else None) or name
            part = tuple(slice(start, stop) for start, stop in window)
            expected = final[owner][part]
            # weights are rounded to FP32; where one moves little, rounding alone is 1e-4 of its movement
            error = np.maximum(np.abs(values[name] - expected) - np.spacing(np.abs(expected)), 0.0)
            error = float(np.max(error)) / max(movement[owner], minimum)
            error = error if np.isfinite(error) else float("inf")  # comparisons with NaN are always false
            if name not in worst or error > worst[name].error:
                worst[name] = ParameterError(name, rank, error)
            key = (owner, *map(tuple, window))
            first, data = seen.setdefault(key, (rank, values[name].tobytes()))
            if data != values[name].tobytes() and not unequal:
                unequal.append(f"{name}: rank {rank} and rank {first} hold the same shard with different values")
    return list(worst.values()), unequal
