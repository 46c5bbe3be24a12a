"""How long a step takes with the overlap that compiled graphs allow: an estimate by rule, without compiling.

The rule was derived from timelines of small graphs and checked on others, at full size (docs/plan.md has both). Each
group has a stream of its own, so a collective is hidden if enough computation does not wait for it:

- Without micro-batches, only the first bucket of gathered weights and the last one of gradients are exposed. Every
  operator of a block waits for its tensor-parallel collectives, except that in the backward pass the gradients of
  weights and other work can be done meanwhile.
- With micro-batches, gradients are reduced after the last backward pass, when nothing is left to compute, and calls of
  the compiled network follow each other, so tensor-parallel collectives are exposed.
- Two parts of a micro-batch (`parallel.overlap.parts`) hide each other's tensor-parallel collectives: nearly all
  without micro-batches (buckets then overlap less), half of them with micro-batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ms_codegeex.base.hardware import Device
from ms_codegeex.parallel.sharding import layouts_of
from ms_codegeex.planning.communication import PlannedCollective
from ms_codegeex.planning.roofline import StepTime, collective_seconds

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig

PARTS_HIDE = {True: 0.5, False: 0.9}  # of the tensor-parallel collectives; whether there are micro-batches
BUCKETS_HIDE_WITH_PARTS = 0.5  # of weights and gradients, without micro-batches


def hidden_seconds(config: RunConfig, chip: Device, time: StepTime, planned: Sequence[PlannedCollective]) -> float:
    """Seconds of collectives that run under computation in one step, of the slowest stage; before the factor."""
    micro, parts = config.accumulation, config.parallel.overlap.parts > 1
    stage = max(range(len(time.stages)), key=lambda i: time.stages[i].micro_batch)
    sums = dict.fromkeys(("forward", "backward", "weight", "gradient"), 0.0)
    for collective in planned:
        if collective.stage != stage:
            continue
        key = collective.purpose
        if key == "activation":
            if collective.group != "tensor":
                continue
            key = "backward" if collective.phase == "backward" else "forward"
        if key in sums:
            sums[key] += collective_seconds(config, chip, collective)
    work = time.stages[stage].work
    if parts:
        share = PARTS_HIDE[micro > 1]
        activations = min(share * (sums["forward"] + sums["backward"]), micro * work.total)
    elif micro > 1:
        activations = 0.0
    else:
        activations = min(sums["backward"], work.matmul_backward + work.vector_backward)
    buckets = config.parallel.fusion.allreduce_groups or sum(x.stage == stage for x in layouts_of(config))
    share = 1 - 1 / buckets
    if micro > 1:
        weights = share * sums["weight"]
    else:
        weights = (BUCKETS_HIDE_WITH_PARTS if parts else share) * (sums["weight"] + sums["gradient"])
    return activations + min(weights, micro * work.total)
