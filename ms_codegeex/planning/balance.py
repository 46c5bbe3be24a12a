"""How many layers each stage of a pipeline should have: the ends also compute embedding, head and loss."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ms_codegeex.config.chosen_hardware import hardware_of
from ms_codegeex.planning.roofline import step_time

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig


def balanced_layers(config: RunConfig) -> list[int]:
    """`parallel.stage_layers` with the shortest slowest stage by the roofline; of equal ones, later stages, which keep
    fewer micro-batches, get more. With a layer for each stage and no more, or without a pipeline, all have equally
    many."""
    stages, layers = config.mesh.pipeline, config.model.sizes.attention_layers
    found = [1] * stages
    if stages == 1 or layers == stages:
        return [layers] if stages == 1 else found
    fewest = _stage_seconds(config, [*found[:-1], layers - stages + 1])
    moved = _stage_seconds(config, [2, *found[1:-1], layers - stages])
    block = moved[0] - fewest[0]
    seconds = [*fewest[:-1], fewest[-1] - (layers - stages) * block]
    for _ in range(layers - stages):
        stage = min(reversed(range(stages)), key=lambda number: seconds[number])
        seconds[stage] += block
        found[stage] += 1
    return found


def _stage_seconds(config: RunConfig, layers: list[int]) -> list[float]:
    """Seconds of one micro-batch on each stage with these layers."""
    training = replace(config.training, recompute_blocks=None)  # all blocks then cost the same
    moved = replace(config, training=training, parallel=replace(config.parallel, stage_layers=layers))
    return [stage.micro_batch for stage in step_time(moved, hardware_of(config)).stages]
