"""What a rank's graph holds against the plan, name by name: weights, moments and summed gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ms_codegeex.formats.tensors import SHORT_NAMES
from ms_codegeex.parallel.sharding import BUFFERS, MOMENTS, layouts_of, moments_of
from ms_codegeex.rehearsal.traffic import PlanCheck

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig

STATE = (
    "optimizer.",
    BUFFERS,
    "loss_scale.",
    "faults.",
    "accumulated.",
    "rehearsal.",
)  # parameters that are not weights


def held_checks(config: RunConfig, stage: int, parameters: Mapping[str, Sequence]) -> list[PlanCheck]:
    """Shapes and element types of each kind. `parameters`: those of everything that a rank of `stage` holds.

    All are FP32, but frozen matrices and tables may have 16 bits. Moments are sharded as their weights are. The
    gradients of micro-batches are summed before the optimizer's shards are taken. Frozen weights have neither.
    """
    weights, moments, sums = {}, {}, {}
    for layout in (x for x in layouts_of(config) if x.stage == stage):
        local, whole = (list(x.local_shape(config.mesh)) for x in (layout, replace(layout, optimizer_sharded=False)))
        weights[layout.name] = f"{local} {SHORT_NAMES[layout.held]}"
        moments |= {prefix + layout.name: f"{local} float32" for prefix in moments_of(config, layout)}
        if layout.trained:
            sums[BUFFERS + layout.name] = f"{whole} float32"
    found = {name: f"{list(shape)} {dtype}" for name, (shape, dtype) in parameters.items()}
    return [
        _check("parameters", weights, {name: x for name, x in found.items() if not name.startswith(STATE)}),
        _check("moments", moments, {name: x for name, x in found.items() if name.startswith(MOMENTS)}),
        _check(
            "summed gradients",
            sums if config.accumulation > 1 else {},
            {name: x for name, x in found.items() if name.startswith(BUFFERS)},
        ),
    ]


def _check(kind: str, planned: Mapping[str, str], found: Mapping[str, str]) -> PlanCheck:
    """All of one kind; the first that differs, if one does."""
    wrong = sorted(x for x in planned.keys() | found.keys() if planned.get(x) != found.get(x))
    if not wrong:
        return PlanCheck(f"shapes of {kind}", "as planned", "as planned")
    expected, actual = (known.get(wrong[0], "none") for known in (planned, found))
    return PlanCheck(f"shapes of {kind}", f"{wrong[0]} {expected}", f"{actual} ({len(wrong)} differ)")
