"""The communicators that a device takes part in, and the memory that the communication library keeps for each. A
communicator belongs to a set of ranks: groups with the same members share one. The tied word table has its own; so have
messages between stages, over all stages, unless these are all ranks. Compiled graphs show this."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ms_codegeex.base.mesh import Mesh
from ms_codegeex.planning.communication import GROUPS, PlannedCollective, collectives, group_ranks
from ms_codegeex.planning.hardware_files import hardware_of

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig

Messages = dict[tuple[str, int], int]  # group, stage -> bytes
MIB = 2**20
# CANN's reference, HCCL_BUFFSIZE: each communicator takes two buffers, to send and to receive, 200 MB each unless it is
# set to another size; one as large as the message is recommended, longer messages are sent in pieces.
LONGEST = 200
SHORTEST = 16  # MiB, assumed: scalars need no more
# Of a communicator of NCCL, assumed: a receiver's buffers of the three protocols (NCCL's source: 4 MiB, 512 KiB and
# 4.7 MiB) in each of 24 rings, as between GPUs with NVLink
NCCL_BYTES = 24 * (4 * MIB + 512 * 1024 + 8 * 640 * 120 * 8)
ACROSS_STAGES = ("tied", "pipeline", "world")


@dataclass(frozen=True)
class Communicator:
    """`groups`: those of the plan that use it; none: MindSpore makes it, and nothing uses it. `message`: bytes of
    the largest one. `buffer`: MiB of one of its two buffers (HCCL); None: the library's choice (NCCL)."""

    groups: tuple[str, ...]
    ranks: tuple[int, ...]
    message: int
    buffer: int | None

    @property
    def bytes(self) -> int:
        return NCCL_BYTES if self.buffer is None else 2 * self.buffer * MIB


def largest_messages(config: RunConfig, listed: Iterable[PlannedCollective]) -> Messages:
    """Bytes of the largest message of each group of each stage; groups across stages have the largest of all stages, so
    that all members find the same. A bucket of weights or gradients is one message; all are taken as equally long."""
    buckets = config.parallel.fusion.allreduce_groups
    largest, fused = Counter(), Counter()
    for x in listed:
        key = _key(x.group, x.stage)
        largest[key] = max(largest[key], x.bytes_each)
        if buckets and x.purpose in ("weight", "gradient"):
            fused[key, x.op, x.stage] += x.bytes
    for (key, *_), size in fused.items():
        largest[key] = max(largest[key], math.ceil(size / config.reductions / buckets))
    return dict(largest)


def _key(group: str, stage: int) -> tuple[str, int]:
    return group, -1 if group in ACROSS_STAGES else stage


def communicators_of(
    config: RunConfig, rank: int, listed: Sequence[PlannedCollective] | None = None
) -> list[Communicator]:
    """The communicators of one rank. `listed`: the plan's collectives, if they are known."""
    listed = collectives(config, hardware_of(config)) if listed is None else listed
    messages = largest_messages(config, listed)
    mesh, stage = config.mesh, config.mesh.coordinates(rank)[0]
    found = {x.group for x in listed if x.stage == stage}
    members: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
    sizes: Counter[tuple[int, ...]] = Counter()  # MindSpore is told one for a set of ranks
    every_stage = tuple(range(rank % mesh.stage_size, mesh.world, mesh.stage_size))
    for group in filter(found.__contains__, GROUPS):
        ranks = every_stage if group == "pipeline" else group_ranks(mesh, group, rank)
        if len(ranks) > 1:
            alone = group == "tied" or (group == "pipeline" and len(ranks) < mesh.world)
            members[group if alone else "", ranks].append(group)
            sizes[ranks] = max(sizes[ranks], messages[_key(group, stage)])
    if unused := unused_by(mesh, rank):
        members["unused", unused] = []
    return [
        Communicator(tuple(groups), ranks, sizes[ranks], _buffer(config, sizes[ranks]))
        for (_, ranks), groups in members.items()
    ]


def unused_by(mesh: Mesh, rank: int) -> tuple[int, ...]:
    """Ranks of a communicator that MindSpore makes in a pipeline for optimizer shards of what tensor parallelism does
    not split, although such weights are not sharded (MindSpore 2.9, met on its Ascend plugin). Whether HCCL gives it
    buffers before it is used is not known."""
    if mesh.pipeline == 1 or mesh.tensor == 1 or mesh.optimizer_shard in (1, mesh.data):
        return ()
    return tuple(sorted(x for holder in mesh.optimizer_group(rank) for x in mesh.tensor_group(holder)))


def _buffer(config: RunConfig, message: int) -> int | None:
    if hardware_of(config).kind == "gpu":
        return None
    return config.cluster.buffer_size or min(LONGEST, max(SHORTEST, math.ceil(message / MIB)))


def buffer_variables(config: RunConfig, ranks: Iterable[int]) -> dict[str, str]:
    """The variables that give the communicators of these ranks on Ascend their buffers. MindSpore passes HCCL a size
    for each communicator that it creates, also for those of its own groups. It takes the size from `MS_DEV_HCCL_CONF`
    if the ranks are listed there, as first, last and step, otherwise from `HCCL_BUFFSIZE`."""
    if config.cluster.buffer_size:
        return {"HCCL_BUFFSIZE": str(config.cluster.buffer_size)}
    if config.devices == 1:
        return {}
    listed = collectives(config, hardware_of(config))
    found = {x.ranks: x.buffer for rank in ranks for x in communicators_of(config, rank, listed)}
    sizes = [
        f"{ranks[0]}-{ranks[-1]}:{ranks[1] - ranks[0]}={size}MB"
        for ranks, size in sorted(found.items())
        if size != SHORTEST
    ]
    own = f"enable_hccl_config:True,hccl_stride_config:{'|'.join(sizes)}"
    return {"HCCL_BUFFSIZE": str(SHORTEST), **({"MS_DEV_HCCL_CONF": own} if sizes else {})}
