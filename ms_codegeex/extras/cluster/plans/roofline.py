"""Time of one training step from a roofline over the real operators.

A matrix product takes the longer of its arithmetic and its traffic. Arithmetic runs at

    peak · MATMUL_PEAK · k / (k + K_START) · fill

MATMUL_PEAK is what a tuned product of the paper reaches with a long inner dimension (0.89 of 315 TFLOP/s), K_START the
inner length at which loading the first tiles costs as much as the arithmetic, fill the share of useful work after
rounding m and n up to tiles of 128. The two constants, and the clock in the peak of the Ascend 910, are fitted to the
seven tuned products of the CodeGeeX release (`published.py`); bandwidth is taken as published, with no factor. Vector
work takes its bytes at full bandwidth, collectives theirs at the links' nominal rates, and nothing overlaps.

What then remains between this and a step is `published.outside_roofline`, or what runs have measured.

`hidden_seconds` estimates by a rule how much of it compiled graphs overlap, without compiling. The rule was derived
from simulations of small graphs and checked on others, at full size (docs/plan.md has both). Each group has a stream of
its own, so a collective is hidden if enough computation does not wait for it:

- Without micro-batches, only the first bucket of gathered weights and the last one of gradients are exposed. Every
  operator of a block waits for its tensor-parallel collectives, except that in the backward pass the gradients of
  weights and other work can be done meanwhile.
- With micro-batches, gradients are reduced after the last backward pass, when nothing is left to compute, and calls of
  the compiled network follow each other, so tensor-parallel collectives are exposed.
- Two parts of a micro-batch (`parallel.overlap.parts`) hide each other's tensor-parallel collectives: nearly all
  without micro-batches (buckets then overlap less), half of them with micro-batches.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from ms_codegeex.base.hardware import Chip
from ms_codegeex.config.chosen_hardware import fused_kernels
from ms_codegeex.parallel.sharding import NEWTON_SCHULZ_STEPS, layouts_of
from ms_codegeex.planning.communication import PlannedCollective, collectives, seconds
from ms_codegeex.planning.cost_model import MatMul, ModelPart, Vector, executed_products, runs_again
from ms_codegeex.planning.hardware_files import hardware_of
from ms_codegeex.planning.memory import muon_shapes, parameter_sums
from ms_codegeex.planning.model_parts import parts_of
from ms_codegeex.planning.operators import kernel_seconds, matmul_seconds, moved_bytes

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig

PARTS_HIDE_OF_TENSOR_COLLECTIVES = {True: 0.5, False: 0.9}  # whether there are micro-batches
PARTS_HIDE_OF_WEIGHTS_AND_GRADIENTS = 0.5  # without micro-batches


@dataclass(frozen=True)
class Work:
    """Seconds of one device for one micro-batch, by kind and direction; `recompute` is what the backward repeats."""

    matmul_forward: float = 0.0
    matmul_backward: float = 0.0
    matmul_recompute: float = 0.0
    vector_forward: float = 0.0
    vector_backward: float = 0.0
    vector_recompute: float = 0.0

    @property
    def total(self) -> float:
        """All seconds together."""
        return sum(vars(self).values())


def part_work(part: ModelPart, chip: Chip, precision: str) -> dict[str, float]:
    """Seconds of one such part, by the fields of `Work`."""
    times = dict.fromkeys(asdict(Work()), 0.0)
    for operator in part.operators:
        again = runs_again(part.recompute, operator.recompute)
        if isinstance(operator, Vector):
            forward, backward = (kernel_seconds((), x, chip, precision) for x in (operator.forward, operator.backward))
            times["vector_forward"] += forward
            times["vector_backward"] += backward
            times["vector_recompute"] += again * forward
            continue
        forward = matmul_seconds(operator, chip, precision)
        times["matmul_forward"] += forward
        times["matmul_recompute"] += again * forward
        times["matmul_backward"] += operator.replays * forward
        times["matmul_backward"] += kernel_seconds(operator.transposed(), 0, chip, precision)
    return times


def matmul_flops(config: RunConfig, stage: int, chip: Chip) -> Counter[str]:
    """FLOPs by precision of all (Batch)MatMul nodes that a device of `stage` executes in a step, with recomputation."""
    flops, times = Counter[str](), config.accumulation * config.parallel.overlap.parts
    for part in parts_of(config, chip):
        for product in executed_products(part) if part.stage == stage else ():
            flops["fp32" if product.fp32 else config.training.precision] += part.count * product.flops * times
    flops["fp32"] += sum(product.flops for product in muon_products(config, stage))
    return flops


def muon_products(config: RunConfig, stage: int) -> list[MatMul]:
    """The products of an update by Muon on one device of a stage, all iterations of each together."""
    products = []
    for shape in muon_shapes(config, stage):
        small, large = sorted(shape)
        for k, n in ((large, small), (small, small), (small, large)):
            products.append(MatMul("muon", small, k, n, NEWTON_SCHULZ_STEPS, fp32=True))
    return products


def executed_flops(config: RunConfig, chip: Chip) -> int:
    mesh = config.mesh
    return mesh.stage_size * sum(matmul_flops(config, stage, chip).total() for stage in range(mesh.pipeline))


def model_flops(config: RunConfig) -> int:
    tokens = config.training.global_batch * config.seq_length
    return config.model.sizes.flops_per_token(config.seq_length, frozen=config.lora.rank > 0) * tokens


def update_seconds(config: RunConfig, chip: Chip, stage: int) -> float:
    """Gradient norm, scaling, AdamW, Muon and the micro-batches' sums: bytes over bandwidth, and Muon's products."""
    held = parameter_sums(config)[stage]
    own = held.own_trained
    whole = own
    if not config.mesh.shards_sums:
        whole += held.shared_trained - held.shared_trained // config.mesh.optimizer_shard
    fused = fused_kernels(config, chip.fused)
    adam = (
        moved_bytes("AdamWeightDecay", [4] * 4, ()) if "optimizer" in fused else 36 if "graph_kernel" in fused else 168
    )
    muon = 100 if "graph_kernel" in fused else 224  # counted, as AdamW's, from what each operator reads and writes
    scaling = 12 if "graph_kernel" in fused else 20
    sums = config.accumulation * config.parallel.overlap.parts  # each part of a micro-batch is added alone
    # set to zero (compared, cast from a Boolean, assigned: `_zeros` of the train step), added to
    summed = (18 + 12 * sums) * whole if config.accumulation > 1 else 0
    if (calls := config.reductions) > 1:  # each call selects what its buffer becomes, and takes the norm
        summed += (12 * calls + 18 * (calls - 1)) * whole + 8 * (calls - 1) * own
    if config.parallel.short_gradients and config.mesh.stage_size > 1:  # scaled and cast, sent, cast and scaled
        summed += (6 if "graph_kernel" in fused else 14) * (whole + own)
    summed += (muon - adam) * sum(map(math.prod, muon_shapes(config, stage)))
    return kernel_seconds(muon_products(config, stage), own * (adam + scaling) + summed, chip, "fp32")


@dataclass(frozen=True)
class StageTime:
    """Seconds of one device: `work` and `activations` (its collectives) per micro-batch, the rest per step."""

    work: Work
    activations: float
    gradients: float
    update: float

    @property
    def micro_batch(self) -> float:
        return self.work.total + self.activations


@dataclass(frozen=True)
class StepTime:
    """A step by the roofline, before `outside_roofline`. The slowest stage decides; nothing overlaps."""

    stages: tuple[StageTime, ...]
    micro_batches: int
    virtual_stages: int = 1
    calls: int = 1

    @property
    def pipeline(self) -> float:
        times = [stage.micro_batch for stage in self.stages]
        return self.micro_batches * max(times) + self.calls * (sum(times) - max(times)) / self.virtual_stages

    @property
    def bubble(self) -> float:
        busy = self.micro_batches * sum(stage.micro_batch for stage in self.stages) / len(self.stages)
        return 1.0 - busy / self.pipeline

    @property
    def gradients(self) -> float:
        return max(stage.gradients for stage in self.stages)

    @property
    def update(self) -> float:
        return max(stage.update for stage in self.stages)

    @property
    def slowest(self) -> StageTime:
        return max(self.stages, key=lambda stage: stage.micro_batch)

    @property
    def computing(self) -> float:
        return self.micro_batches * max(stage.work.total for stage in self.stages) + self.update

    @property
    def total(self) -> float:
        """Seconds of a step by the roofline."""
        return self.pipeline + self.gradients + self.update


def collective_seconds(config: RunConfig, chip: Chip, collective: PlannedCollective) -> float:
    """Time of a collective's calls in one step; gradients start once a bucket, not once a parameter."""
    buckets = None if collective.purpose == "activation" else config.parallel.fusion.allreduce_groups or None
    buckets = buckets and buckets * config.reductions
    return seconds(collective, config.mesh, chip, config.parallel.server_devices, buckets)


def step_time(config: RunConfig, chip: Chip) -> StepTime:
    """The roofline of one step."""
    mesh, training = config.mesh, config.training
    works = [asdict(Work()) for _ in range(mesh.pipeline)]
    for part in parts_of(config, chip):
        for kind, time in part_work(part, chip, training.precision).items():
            works[part.stage][kind] += part.count * config.parallel.overlap.parts * time
    activations, gradients = [0.0] * mesh.pipeline, [0.0] * mesh.pipeline
    for collective in collectives(config, chip):
        time = collective_seconds(config, chip, collective)
        if collective.purpose == "activation":
            activations[collective.stage] += time / config.accumulation
        else:
            gradients[collective.stage] += time
    stages = tuple(
        StageTime(Work(**work), activations[stage], gradients[stage], update_seconds(config, chip, stage))
        for stage, work in enumerate(works)
    )
    return StepTime(stages, config.accumulation, mesh.virtual_stages, config.reductions)


def hidden_seconds(config: RunConfig, chip: Chip, time: StepTime, planned: Sequence[PlannedCollective]) -> float:
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
        share = PARTS_HIDE_OF_TENSOR_COLLECTIVES[micro > 1]
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
        weights = (PARTS_HIDE_OF_WEIGHTS_AND_GRADIENTS if parts else share) * (sums["weight"] + sums["gradient"])
    return activations + min(weights, micro * work.total)


def balanced_layers(config: RunConfig) -> list[int]:
    """`parallel.stage_layers` with the shortest slowest stage: the first and the last one also compute embedding, head
    and loss. Of equal stages, later ones, which keep fewer micro-batches, get more. With a layer for each stage and no
    more, or without a pipeline, all have equally many."""
    stages, layers = config.mesh.pipeline, config.model.sizes.attention_layers
    counts = [1] * stages
    if stages == 1 or layers == stages:
        return [layers] if stages == 1 else counts
    fewest = _stage_seconds(config, [*counts[:-1], layers - stages + 1])
    moved = _stage_seconds(config, [2, *counts[1:-1], layers - stages])
    block = moved[0] - fewest[0]
    seconds = [*fewest[:-1], fewest[-1] - (layers - stages) * block]
    for _ in range(layers - stages):
        stage = min(reversed(range(stages)), key=lambda number: seconds[number])
        seconds[stage] += block
        counts[stage] += 1
    return counts


def _stage_seconds(config: RunConfig, layers: list[int]) -> list[float]:
    """Seconds of one micro-batch on each stage with these layers."""
    training = replace(config.training, recompute_blocks=None)  # all blocks then cost the same
    moved = replace(config, training=training, parallel=replace(config.parallel, stage_layers=layers))
    return [stage.micro_batch for stage in step_time(moved, hardware_of(config)).stages]
