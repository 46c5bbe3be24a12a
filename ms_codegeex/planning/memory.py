"""Bytes of memory that one device of each stage needs, by category."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ms_codegeex.hardware import Device
from ms_codegeex.parallel.sharding import layouts_of
from ms_codegeex.planning.cost_model import MatMul, ModelPart, runs_again
from ms_codegeex.planning.model_parts import parts_of

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig

COMMUNICATION_BUFFERS = 2 * 200 * 2**20  # HCCL_BUFFSIZE: 200 MB in and 200 MB out by default
FP32 = 4


@dataclass(frozen=True)
class StageMemory:
    """Bytes on one device of a stage.

    gathered_weights: whole weights that optimizer sharding gathers for the step, and copies in the compute dtype that
    wait for the backward pass. workspace: temporaries of a single operator or collective.
    """

    weights: int
    gradients: int
    optimizer_state: int
    gathered_weights: int
    activations: int
    workspace: int

    @property
    def total(self) -> int:
        """Sum of all categories."""
        return sum(asdict(self).values())


def saved_bytes(part: ModelPart, recompute: str) -> float:
    """Bytes that one micro-batch of one such part keeps from its forward to its backward pass."""
    if part.recomputed and recompute == "full":
        return part.kept
    return sum(o.saved for o in part.operators if not runs_again(o, part, recompute))


def replayed_bytes(part: ModelPart, recompute: str) -> float:
    """Bytes that exist again while one such part runs backward."""
    return sum(o.saved for o in part.operators if runs_again(o, part, recompute))


def _activations(config: RunConfig, parts: list[ModelPart], stage: int) -> tuple[float, float]:
    """Bytes kept or recomputed, and transient ones. 1F1B: stage s has at most `stages - s` micro-batches open."""
    recompute = config.training.recompute
    flying = min(config.accumulation, config.mesh.pipeline - stage)
    kept = flying * sum(part.count * saved_bytes(part, recompute) for part in parts)
    replayed = max((replayed_bytes(part, recompute) for part in parts), default=0.0)
    transient = max((getattr(o, "transient", 0.0) for part in parts for o in part.operators), default=0.0)
    return kept + replayed, transient


def _gathered(config: RunConfig, layouts: list, parts: list[ModelPart]) -> float:
    """Whole weights, gathered once a step in the compute type and kept; casts to 16 bits of those that no optimizer
    shards, or one part's if they are recomputed."""
    mesh = config.mesh
    whole = sum(FP32 * x.local_size(mesh) * mesh.optimizer_shard for x in layouts if x.optimizer_sharded)
    if config.training.precision == "fp32":
        return whole
    if mesh.optimizer_shard > 1:  # cast before they are gathered
        whole, parts = whole / 2, [part for part in parts if part.name == "head"]
    casts = [(2 * sum(o.k * o.n for o in part.operators if isinstance(o, MatMul) and o.weight), part) for part in parts]
    if config.training.recompute == "full":
        return whole + max((size for size, _ in casts), default=0)
    return whole + sum(size * part.count for size, part in casts)


def _gradients(config: RunConfig, layouts: list) -> float:
    """FP32. Sharded ones exist whole only until their bucket is reduce-scattered; accumulation keeps them whole until
    the last micro-batch, and one buffer more as large as the parameters."""
    mesh = config.mesh
    own = FP32 * sum(x.local_size(mesh) for x in layouts)
    whole = FP32 * sum(x.local_size(mesh) * mesh.optimizer_shard for x in layouts if x.optimizer_sharded)
    if config.accumulation > 1 or mesh.pipeline > 1:
        return 2 * own + whole
    alone = sum(x.optimizer_sharded for x in layouts)
    return own + whole / (config.parallel.fusion.allreduce_groups or max(1, alone))


def stage_memory(config: RunConfig, chip: Device) -> list[StageMemory]:
    """Memory of one device of each stage at its peak."""
    mesh, result = config.mesh, []
    every_layout, every_part = layouts_of(config), parts_of(config, chip)
    for stage in range(mesh.pipeline):
        layouts = [x for x in every_layout if x.stage == stage]
        parts = [x for x in every_part if x.stage == stage]
        weights = FP32 * sum(x.local_size(mesh) for x in layouts)
        activations, transient = _activations(config, parts, stage)
        buffers = COMMUNICATION_BUFFERS if mesh.world > 1 else 0
        result.append(
            StageMemory(
                weights=weights,
                gradients=int(_gradients(config, layouts)),
                optimizer_state=2 * weights,
                gathered_weights=int(_gathered(config, layouts, parts)),
                activations=int(activations),
                workspace=int(transient + buffers),
            )
        )
    return result
