"""Bytes of memory that one device of each stage needs, by category. They depend on the order in which a stage of a
pipeline runs its micro-batches, and on how many of them it has open: 1F1B, and with several virtual stages interleaved
1F1B (Narayanan et al., Efficient large-scale language model training on GPU clusters using Megatron-LM,
arXiv:2104.04473, section 2.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from ms_codegeex.base.hardware import Chip
from ms_codegeex.base.mesh import Mesh
from ms_codegeex.config.sections import LoraConfig
from ms_codegeex.models.decoder_config import DecoderConfig
from ms_codegeex.parallel.sharding import layouts_on
from ms_codegeex.planning.communication import collectives
from ms_codegeex.planning.communicators import Communicator, communicators_of
from ms_codegeex.planning.cost_model import MatMul, ModelPart, runs_again
from ms_codegeex.planning.model_parts import parts_of

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig

FP32 = 4


@dataclass(frozen=True)
class StageMemory:
    """Bytes on one device of a stage at the moment when it needs most. gathered_weights: whole weights that optimizer
    sharding gathers for the step, and copies in the compute dtype that wait for the backward pass. workspace:
    temporaries of a single operator. communication: buffers of communicators."""

    weights: int
    gradients: int
    optimizer_state: int
    gathered_weights: int = 0
    activations: int = 0
    workspace: int = 0
    communication: int = 0

    @property
    def total(self) -> int:
        return sum(vars(self).values())


def passes(stages: int, virtual_stages: int, micro_batches: int, backward: bool = False) -> list[tuple[int, int]]:
    numbers = range(virtual_stages)
    return [
        (micro, number)
        for first in range(0, micro_batches, stages)
        for number in (reversed(numbers) if backward else numbers)
        for micro in range(first, min(first + stages, micro_batches))
    ]


def warm_up(stages: int, virtual_stages: int, stage: int) -> int:
    later = stages - 1 - stage
    return later if virtual_stages == 1 else 2 * later + stages * (virtual_stages - 1)


@lru_cache(maxsize=512)
def open_passes(stages: int, virtual_stages: int, micro_batches: int, stage: int) -> tuple[tuple[int, ...], ...]:
    """What a stage has open at its peaks: for each virtual stage, how many micro-batches have run forward but not
    backward. The peaks are the times after each forward pass, without repetitions."""
    if virtual_stages == 1:
        return ((min(micro_batches, stages - stage),),)
    forward = passes(stages, virtual_stages, micro_batches)
    backward = passes(stages, virtual_stages, micro_batches, backward=True)
    ahead, counts, peaks = warm_up(stages, virtual_stages, stage), [0] * virtual_stages, {}
    for done, (_, number) in enumerate(forward):
        counts[number] += 1
        peaks[tuple(counts)] = None
        if done >= ahead:
            counts[backward[done - ahead][1]] -= 1
    return tuple(peaks)


def saved_bytes(part: ModelPart) -> float:
    """Bytes that one micro-batch of one such part keeps from its forward to its backward pass."""
    if part.recompute == "full":
        return part.kept
    return sum(o.saved for o in part.operators if not runs_again(part.recompute, o.recompute))


def replayed_bytes(part: ModelPart) -> float:
    """Bytes that exist again while one such part runs backward."""
    return sum(o.saved for o in part.operators if runs_again(part.recompute, o.recompute))


def kept_bytes(parts: Sequence[ModelPart]) -> float:
    """Bytes that one micro-batch keeps, and those of the part that is run again last."""
    kept = sum(part.count * saved_bytes(part) for part in parts)
    return kept + max((replayed_bytes(part) for part in parts), default=0.0)


def _activations(config: RunConfig, parts: list[ModelPart], stage: int, head: bool) -> tuple[float, float]:
    """Bytes kept or recomputed, and transient ones, of the micro-batches that the stage has open, at the worst moment
    of the head's backward pass, or of those of the other parts, when the head's values are gone; and the constant
    table of what is later, from which masks are made."""
    mesh, runs = config.mesh, config.parallel.overlap.parts
    later = 0 if config.parallel.fusion.documents else FP32 * config.seq_length**2
    saved, moments = [0.0] * mesh.virtual_stages, [(0.0, 0.0)]
    for part in parts:
        own, transient = replayed_bytes(part), max((getattr(o, "transient", 0.0) for o in part.operators), default=0.0)
        if part.name == "head":  # of the one micro-batch whose backward pass begins
            own += saved_bytes(part)
        else:
            saved[part.virtual_stage] += part.count * saved_bytes(part)
        if (part.name == "head") == head:
            moments.append((own, transient))
    own, transient = max(moments, key=sum)
    return runs * (_most_open(config, saved, stage) + own) + later, runs * transient


@dataclass(frozen=True)
class ParameterSums:
    """Elements on one device of a stage: its shards; the whole weights of what replicas share; the same of what is
    trained, and the number of such parameters; the shapes of the trained matrices of blocks. `bytes`, `shared_bytes`:
    of its shards, and of the whole weights that replicas share. `tables`, `output`: whole tables of tokens that
    replicas share, and the one of them that is the output layer."""

    own: int
    shared: int
    own_trained: int
    shared_trained: int
    shared_count: int
    matrices: tuple[tuple[int, ...], ...]
    bytes: int
    shared_bytes: int
    tables: int = 0
    output: int = 0


@lru_cache(maxsize=256)
def _sums(
    mesh: Mesh, model: DecoderConfig, vocabulary: bool, targets: tuple[str, ...], rank: int, frozen: str
) -> tuple[ParameterSums, ...]:
    layouts = layouts_on(mesh, model, LoraConfig(rank=rank, targets=list(targets), frozen=frozen), vocabulary)
    result = []
    for stage in range(mesh.pipeline):
        local = [(x, x.local_size(mesh)) for x in layouts if x.stage == stage]
        shared = [(x, size * mesh.optimizer_shard) for x, size in local if x.optimizer_sharded]
        trained = [size for x, size in shared if x.trained]
        own = sum(size for _, size in local), sum(size for x, size in local if x.trained)
        matrices = tuple(x.local_shape(mesh) for x, _ in local if x.trained and x.matrix)
        whole = sum(size for _, size in shared)
        held, split = (sum(x.local_bytes(mesh) for x, _ in each) for each in (local, shared))
        counts = own[0], whole, own[1], sum(trained), len(trained)
        tables = [[size for x, size in shared if not x.matrix and x.product >= output] for output in (False, True)]
        split *= mesh.optimizer_shard
        result.append(ParameterSums(*counts, matrices, held, split, *map(sum, tables)))
    return tuple(result)


def parameter_sums(config: RunConfig) -> tuple[ParameterSums, ...]:
    lora, parallel = config.lora, config.parallel
    return _sums(config.mesh, config.model.sizes, parallel.vocabulary, tuple(lora.targets), lora.rank, lora.frozen)


def muon_shapes(config: RunConfig, stage: int) -> tuple[tuple[int, ...], ...]:
    return parameter_sums(config)[stage].matrices if config.training.optimizer.name == "muon" else ()


def _gathered(
    config: RunConfig, sums: ParameterSums, parts: list[ModelPart], stage: int, chip: Chip, head: bool
) -> float:
    """Whole weights, gathered once a step in the compute type and kept; casts to 16 bits of those that no optimizer
    shards, or one block's if they are recomputed. The parts of a single micro-batch cast what is gathered in FP32. A
    network that is called for every micro-batch casts in each call, and keeps that until the call's backward pass.
    Weights that are gathered twice exist in two buckets, the one in use and the next; while the head's backward pass
    begins, in none."""
    narrow, twice = config.parallel.overlap.parts == 1 or config.accumulation > 1, config.mesh.gathers_twice
    buckets = 0 if head else 2 * _bucket(config, sums, sums.shared)
    whole = FP32 * (buckets + sums.output) if twice else float(sums.shared_bytes)
    if config.training.precision == "fp32" or config.lora.frozen != "fp32":
        return whole  # what is held in 16 bits needs no cast; those of adapters are small
    if config.mesh.optimizer_shard > 1 and narrow:  # cast before they are gathered, but for the table that is looked up
        whole = whole / 2 + (0 if twice else 2 * (sums.tables - sums.output))
        parts = [part for part in parts if part.name == "head" and not sums.output]
    casts = [(2 * sum(o.k * o.n for o in part.operators if isinstance(o, MatMul) and o.weight), part) for part in parts]
    forgotten = ("full", "selective") if chip.kind == "ascend" else ("full",)
    again = max((size for size, part in casts if part.recompute in forgotten), default=0)
    kept = [0.0] * config.mesh.virtual_stages
    for size, part in casts:
        kept[part.virtual_stage] += size * part.count * (part.recompute not in forgotten)
    calls = config.parallel.overlap.parts if config.accumulation > 1 else 1
    return whole + again + calls * _most_open(config, kept, stage)


def _bucket(config: RunConfig, sums: ParameterSums, elements: int) -> float:
    """Elements of a bucket of the blocks' whole weights or gradients. `elements`: those of the stage, with tables."""
    groups, layers = config.parallel.fusion.allreduce_groups, config.model.sizes.attention_layers
    buckets = min(groups, layers) / config.mesh.pipeline if groups else sums.shared_count
    return (elements - sums.tables) / max(1, buckets)


def _most_open(config: RunConfig, sizes: Sequence[float], stage: int) -> float:
    """The largest sum of bytes at any time, with those that an open micro-batch keeps in each virtual stage."""
    mesh = config.mesh
    peaks = open_passes(mesh.pipeline, mesh.virtual_stages, config.graph_micro_batches, stage)
    return max(sum(count * size for count, size in zip(peak, sizes, strict=True)) for peak in peaks)


def _gradients(config: RunConfig, sums: ParameterSums, head: bool = False) -> float:
    """FP32. Sharded ones exist whole only until their bucket is reduce-scattered; accumulation keeps them whole until
    the last micro-batch unless their sums are sharded, and one buffer more as large as the parameters. `head`: while
    the head's backward pass begins, when only buffers of earlier micro-batches exist."""
    own, whole, accumulates = sums.own_trained, sums.shared_trained, config.accumulation > 1 or config.mesh.pipeline > 1
    if head:
        return FP32 * accumulates * (own + (0 if config.mesh.shards_sums else whole))
    if not accumulates or config.mesh.shards_sums:
        whole = _bucket(config, sums, whole) + max(sums.output, sums.tables - sums.output)
    return FP32 * ((1 + accumulates) * own + whole)


def state_memory(config: RunConfig) -> list[StageMemory]:
    return [
        StageMemory(
            weights=sums.bytes,
            gradients=int(_gradients(config, sums)),
            optimizer_state=FP32 * (2 * sums.own_trained - sum(map(math.prod, muon_shapes(config, stage)))),
        )
        for stage, sums in enumerate(parameter_sums(config))
    ]


def stage_memory(config: RunConfig, chip: Chip) -> list[StageMemory]:
    """Memory of one device of each stage at its peak."""
    mesh, listed = config.mesh, collectives(config, chip)
    groups = [communicators_of(config, mesh.rank(stage, 0, 0), listed) for stage in range(mesh.pipeline)]
    return with_buffers(memory_without_buffers(config, chip), groups)


def with_buffers(memory: Sequence[StageMemory], groups: Sequence[Sequence[Communicator]]) -> list[StageMemory]:
    return [replace(x, communication=sum(y.bytes for y in listed)) for x, listed in zip(memory, groups, strict=True)]


def memory_without_buffers(config: RunConfig, chip: Chip) -> list[StageMemory]:
    """Bytes on one device of each stage, without the buffers of communicators, which need all collectives."""
    result, every_part = [], parts_of(config, chip)
    for stage, (sums, state) in enumerate(zip(parameter_sums(config), state_memory(config), strict=True)):
        parts, matrices = [x for x in every_part if x.stage == stage], muon_shapes(config, stage)
        # an iteration of Muon: its matrix before and after, the product, the momentum; three small squares
        muon = max((FP32 * (4 * math.prod(shape) + 3 * min(shape) ** 2) for shape in matrices), default=0)
        moments = []
        for head in (False, True):
            activations, transient = _activations(config, parts, stage, head)
            moments.append(
                replace(
                    state,
                    gradients=int(_gradients(config, sums, head)),
                    gathered_weights=int(_gathered(config, sums, parts, stage, chip, head)),
                    activations=int(activations),
                    workspace=int(max(transient, 0 if head else muon)),
                )
            )
        result.append(max(moments, key=lambda moment: moment.total))
    return result
