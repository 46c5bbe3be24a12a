"""Compares what one rank's graph holds and sends with the plan.

Weights, moments and summed gradients must agree by name, in shape and element type. Collectives must agree in
operation, members of the group, element type, bytes and number of calls, and so must the buckets in which the back end
fuses them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ms_codegeex.base.mesh import Mesh
from ms_codegeex.config import RunConfig
from ms_codegeex.config.chosen_hardware import hardware_of
from ms_codegeex.formats.tensors import SHORT_NAMES
from ms_codegeex.parallel.sharding import GRADIENT_SUMS, MOMENTS, layouts_of, moments_of, recompute_of_blocks
from ms_codegeex.planning.communication import PlannedCollective, collectives, group_ranks, parameter_collectives
from ms_codegeex.planning.model_parts import parts_of

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int32": "int32"}
SCALAR_BYTES = 4
# Beginnings of the names of parameters that are not weights.
STATE = ("optimizer.", GRADIENT_SUMS, "loss_scale.", "faults.", "accumulated.", "rehearsal.")

Calls = Counter[tuple[str, tuple[int, ...], str, int]]  # op, members, dtype, bytes of the whole tensor -> calls
Buckets = Counter[tuple[str, tuple[int, ...], int]]  # op, members, fusion id -> calls


@dataclass(frozen=True)
class PlanCheck:
    """One property of a compiled graph: what the plan says and what was found."""

    name: str
    expected: str
    found: str

    @property
    def ok(self) -> bool:
        return self.expected == self.found


def state_checks(config: RunConfig, stage: int, parameters: Mapping[str, Sequence]) -> list[PlanCheck]:
    """Shapes and element types of each kind. `parameters`: those of everything that a rank of `stage` holds.

    All are FP32, but frozen matrices and tables may have 16 bits. Moments are sharded as their weights are. At
    `parallel.optimizer_level` 1 the gradients of micro-batches are summed before the optimizer's shards are taken.
    Frozen weights have neither.
    """
    weights, moments, sums = {}, {}, {}
    for layout in (x for x in layouts_of(config) if x.stage == stage):
        summed = layout if config.mesh.shards_sums else replace(layout, optimizer_sharded=False)
        local, whole = (list(x.local_shape(config.mesh)) for x in (layout, summed))
        weights[layout.name] = f"{local} {SHORT_NAMES[layout.held]}"
        moments |= {prefix + layout.name: f"{local} float32" for prefix in moments_of(config, layout)}
        if layout.trained and config.accumulation > 1:
            sums[GRADIENT_SUMS + layout.name] = f"{whole} float32"
    found = {name: f"{list(shape)} {dtype}" for name, (shape, dtype) in parameters.items()}
    return [
        _check("parameters", weights, {name: x for name, x in found.items() if not name.startswith(STATE)}),
        _check("moments", moments, {name: x for name, x in found.items() if name.startswith(MOMENTS)}),
        _check("summed gradients", sums, {name: x for name, x in found.items() if name.startswith(GRADIENT_SUMS)}),
    ]


def _check(kind: str, planned: Mapping[str, str], found: Mapping[str, str]) -> PlanCheck:
    wrong = sorted(x for x in planned.keys() | found.keys() if planned.get(x) != found.get(x))
    if not wrong:
        return PlanCheck(f"shapes of {kind}", "as planned", "as planned")
    expected, actual = (known.get(wrong[0], "none") for known in (planned, found))
    return PlanCheck(f"shapes of {kind}", f"{wrong[0]} {expected}", f"{actual} ({len(wrong)} differ)")


def members(mesh: Mesh, collective: PlannedCollective, rank: int) -> tuple[int, ...]:
    """The global ranks of a planned collective that `rank` takes part in, in the order of the group."""
    return tuple(sorted(group_ranks(mesh, collective.group, rank, collective.phase)))


def _of_rank(config: RunConfig, rank: int) -> Iterator[tuple[PlannedCollective, tuple]]:
    for x in collectives(config):
        if x.stage == config.mesh.coordinates(rank)[0]:
            yield x, (x.op, members(config.mesh, x, rank), DTYPES[x.dtype], x.bytes_each)


def planned_calls(config: RunConfig, rank: int) -> Calls:
    """The plan's collectives of a rank, in the form in which a graph shows them."""
    calls = _receives(config, rank)
    for x, key in _of_rank(config, rank):
        calls[key] += x.count
    return calls


def _receives(config: RunConfig, rank: int) -> Calls:
    calls: Calls = Counter()
    for x in collectives(config):
        source = (rank + config.mesh.stage_size * (1 if x.phase == "backward" else -1)) % config.mesh.world
        if x.op == "Send" and x.stage == config.mesh.coordinates(source)[0]:
            calls["Receive", members(config.mesh, x, source), DTYPES[x.dtype], x.bytes_each] += x.count
    return calls


def called_blocks(config: RunConfig, rank: int) -> Calls:
    """The plan's collectives for a graph that calls its blocks as functions instead of inlining them.

    MindSpore then gathers FP32 weights outside the function and casts them inside, and sums a sharded weight's
    gradient over replicas inside before scattering it outside, once for each part of a micro-batch. The program leaves
    block inputs whole, which MindSpore cannot slice there. Called blocks are equal: the first one sums the gradient of
    its input, too, which nothing needs under adapters.
    """
    if config.accumulation > 1:  # the network is called as a whole
        return planned_calls(config, rank)
    mesh, calls = config.mesh, _receives(config, rank)
    for x, (op, ranks, dtype, size) in _of_rank(config, rank):
        if x.group == "optimizer" and op == "AllGather":
            dtype, size = "float32", size * (1 if x.dtype == "fp32" else 2)
        elif x.group == "replica":
            size *= mesh.optimizer_shard
        elif x.phase == "recompute" and op == "AllGather" and not config.parallel.sequence:
            continue
        calls[op, ranks, dtype, size] += x.count
    stage = mesh.coordinates(rank)[0]
    blocks = [x for x in parts_of(config, hardware_of(config)) if x.stage == stage and x.name == "block"]
    if config.lora.rank and len(blocks) > 1:
        ranks = tuple(sorted(group_ranks(mesh, "tensor", rank)))
        for x in (Counter(blocks[1].collectives) - Counter(blocks[0].collectives)).elements():
            if x.phase == "backward":
                calls[x.op, ranks, DTYPES[x.dtype], x.size] += config.parallel.overlap.parts
    for layout in layouts_of(config):
        if layout.stage == mesh.coordinates(rank)[0] and _in_block(layout.name):
            for op, group, size, dtype, _ in parameter_collectives(config, layout):
                if op == "AllReduce":
                    size *= mesh.optimizer_shard if group == "replica" else 1
                    key = (op, group_ranks(mesh, group, rank), DTYPES[dtype], size)
                    calls[key] += config.parallel.overlap.parts - 1
    return +calls


def _in_block(name: str) -> bool:
    return name.partition(".")[0] not in ("embedding", "head") and name.count(".") > 1


BACKWARD = 2000  # what MindSpore adds to the fusion id of a weight that it gathers for the backward pass


def bucket_of(config: RunConfig, name: str, called: bool = False) -> int:
    """The fusion id of a parameter's gradient and of its gathered weight. Blocks are numbered in order; embeddings
    belong to the first bucket, what follows the blocks to the last. `called`: equal blocks use the bucket of the first
    of them."""
    groups, layers = config.parallel.fusion.allreduce_groups, config.model.sizes.num_layers
    recomputed = recompute_of_blocks(config)
    part, _, rest = name.partition(".")
    if part == "blocks":
        block = int(rest.partition(".")[0])
        block = recomputed.index(recomputed[block]) if called else block
        return block * groups // layers + 1 if groups else 0
    return min(groups, 1) if part == "embedding" else groups


def planned_buckets(config: RunConfig, rank: int, called: bool = False) -> Buckets:
    """The collectives that the plan fuses: those of weights and gradients of the rank's stage with a fusion id.

    What is gathered again for the backward pass has buckets of its own. Micro-batches that gather twice gather and
    scatter each weight alone.
    """
    mesh, stage = config.mesh, config.mesh.coordinates(rank)[0]
    buckets: Buckets = Counter()
    for layout in layouts_of(config):
        gathered = 0
        for op, group, *_ in parameter_collectives(config, layout):
            fusion = bucket_of(config, layout.name, called and op == "AllReduce")
            if mesh.gathers_twice and op != "AllReduce" and config.accumulation > 1:
                fusion = 0
            elif mesh.gathers_twice and op == "AllGather":
                fusion, gathered = fusion + gathered, BACKWARD
            if layout.stage == stage and fusion:
                again = called and op == "AllReduce" and _in_block(layout.name)
                calls = config.parallel.overlap.parts if again else 1
                buckets[op, group_ranks(mesh, group, rank), fusion] += calls
    return buckets


def found_calls(listed: Iterable[Mapping[str, Any]]) -> Calls:
    """The collectives of a graph, without groups of one rank."""
    calls: Calls = Counter()
    for x in listed:
        if len(x["ranks"]) > 1:
            calls[x["op"], tuple(x["ranks"]), x["dtype"], x["bytes"]] += x["calls"]
    return calls


def found_buckets(listed: Iterable[Mapping[str, Any]]) -> Buckets:
    """The collectives of a graph that have a fusion id."""
    buckets: Buckets = Counter()
    for x in listed:
        if x["fusion"] and len(x["ranks"]) > 1:
            buckets[x["op"], tuple(x["ranks"]), x["fusion"]] += x["calls"]
    return buckets


def joined(planned: Calls, actual: Calls) -> Calls:
    """`actual` with pairs of reduce-scatter and all-gather counted as the all-reduces that were planned in their place.

    They move the same bytes. Which of them MindSpore uses for an embedding depends on what follows the lookup.
    """
    result = Counter(actual)
    for key in [key for key in planned if key[0] == "AllReduce"]:
        halves = [(op, *key[1:]) for op in ("ReduceScatter", "AllGather")]
        pairs = min(planned[key] - result[key], *(result[half] - planned[half] for half in halves))
        if pairs > 0:
            result[key] += pairs
            for half in halves:
                result[half] -= pairs
    return +result


def differences(planned: Counter, actual: Counter) -> list[tuple[str, int, int]]:
    differing = sorted(key for key in planned.keys() | actual.keys() if planned[key] != actual[key])
    return [(_named(*key), planned[key], actual[key]) for key in differing]


def _named(op: str, ranks: tuple[int, ...], *rest: Any) -> str:
    shown = ", ".join(map(str, ranks)) if len(ranks) <= 4 else f"{ranks[0]}, {ranks[1]}, … {ranks[-1]}"
    who = f"of ranks {shown}" + (f" ({len(ranks)} in all)" if len(ranks) > 4 else "")
    if len(rest) == 1:
        return f"{op} {who} in bucket {rest[0]}"
    return f"{op} of {rest[1]:,} bytes {rest[0]} {who}"


def execution_problems(config: RunConfig, rank: int, listed: Iterable[Mapping[str, Any]]) -> list[str]:
    """The first collective of an executed graph that differs from the plan. A pipeline's network is inlined for each
    micro-batch, so MindSpore merges some scalars, and puts only one micro-batch's gradients in buckets; both are left
    out."""
    listed = list(listed)
    large = {key: count for key, count in found_calls(listed).items() if key[3] > SCALAR_BYTES}
    expected = Counter({key: count for key, count in planned_calls(config, rank).items() if key[3] > SCALAR_BYTES})
    wrong = differences(expected, joined(expected, Counter(large)))
    alone = "ReduceScatter" if config.mesh.shards_sums and config.mesh.pipeline > 1 else None
    buckets = planned_buckets(config, rank), found_buckets(listed)
    wrong += differences(*(Counter({key: x for key, x in each.items() if key[0] != alone}) for each in buckets))
    return [f"rank {rank}, {name}: {actual} calls per step, planned {planned}" for name, planned, actual in wrong[:1]]
