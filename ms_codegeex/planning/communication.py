"""Every collective that a device takes part in during one training step: operation, group, bytes, links."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from ms_codegeex.base.hardware import Chip
from ms_codegeex.base.mesh import Mesh
from ms_codegeex.config.sections import LoraConfig
from ms_codegeex.models.decoder_config import DecoderConfig
from ms_codegeex.parallel.sharding import ParameterLayout, layouts_on
from ms_codegeex.planning.hardware_files import hardware_of
from ms_codegeex.planning.model_parts import parts_of

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig

GROUPS = ("tensor", "data", "stage", "optimizer", "replica", "tied", "pipeline", "world")
FP32 = 4


@dataclass(frozen=True)
class PlannedCollective:
    """`count` equal calls in one step of a device of `stage`. `bytes_each` is the whole tensor: the input of AllReduce
    and ReduceScatter, the output of AllGather, the message of Send. `group`: tensor, data, stage (data x tensor:
    parameters that tensor parallelism leaves whole), optimizer, replica (devices with the same optimizer shard), tied
    (first and last stage), pipeline, world. `purpose`: input, activation (forward or backward of a micro-batch),
    gradient, weight, scalar."""

    op: str
    group: str
    group_size: int
    count: int
    bytes_each: int
    dtype: str
    link: str
    stage: int
    purpose: str
    phase: str = "step"

    @property
    def bytes(self) -> int:
        """Bytes of all calls."""
        return self.count * self.bytes_each


@lru_cache(maxsize=1024)  # a plan asks for each group a hundred times
def group_ranks(mesh: Mesh, group: str, rank: int, phase: str = "forward") -> tuple[int, ...]:
    """The ranks of the group of `rank`, in order; in a pipeline this one and the one that it sends to in this phase."""
    if group == "world":
        return tuple(range(mesh.world))
    if group == "pipeline":
        return (rank, (rank + mesh.stage_size * (-1 if phase == "backward" else 1)) % mesh.world)
    return tuple(getattr(mesh, f"{group}_group")(rank))


@lru_cache(maxsize=1024)  # as above
def spread(ranks: tuple[int, ...], board_devices: int, server_devices: int) -> tuple[int, int, int]:
    """How many members are on the first member's board, boards of its server have members, servers have members."""
    board = [rank for rank in ranks if rank // board_devices == ranks[0] // board_devices]
    server = [rank for rank in ranks if rank // server_devices == ranks[0] // server_devices]
    boards = len({rank // board_devices for rank in server})
    return len(board), boards, len({rank // server_devices for rank in ranks})


def link_of(ranks: Sequence[int], server_devices: int) -> str:
    return "server" if min(ranks) // server_devices == max(ranks) // server_devices else "cluster"


def seconds(
    collective: PlannedCollective, mesh: Mesh, chip: Chip, server_devices: int, calls: int | None = None
) -> float:
    ranks = group_ranks(mesh, collective.group, mesh.rank(collective.stage, 0, 0), collective.phase)
    return transfer_seconds(collective.op, ranks, collective.bytes, collective.count, chip, server_devices, calls)


def transfer_seconds(
    op: str, ranks: Sequence[int], size: int, count: int, chip: Chip, server_devices: int, calls: int | None = None
) -> float:
    """Time of `count` equal collectives over `ranks` of `size` bytes in all, if nothing else uses the links.
    Hierarchical: reduced over the board, its share over the server's boards, that share over servers, each step at its
    own link's rate (Patarasu and Yuan, Bandwidth optimal all-reduce, JPDC 2009). `calls`: after fusion, for latency."""
    if len(ranks) < 2 or set(ranks) == {ranks[0]}:
        return 0.0
    board, boards, servers = spread(tuple(ranks), chip.board_devices, server_devices)
    start = chip.calibration.cluster_latency if chip.calibration and servers > 1 else chip.latency
    if op in ("Send", "Receive"):
        rate = chip.cluster_bandwidth if servers > 1 else chip.server_bandwidth if boards > 1 else chip.board_bandwidth
        return count * start + size / rate
    per_byte = (board - 1) / board / chip.board_bandwidth
    per_byte += (boards - 1) / boards / board / chip.server_bandwidth
    per_byte += (servers - 1) / servers / (board * boards) / chip.cluster_bandwidth
    passes = 2 if op == "AllReduce" else 1
    latency = start * passes * math.ceil(math.log2(len(ranks)))
    started = count if calls is None else min(calls, count)
    return passes * per_byte * size + started * latency


def _activations(config: RunConfig, chip: Chip) -> Counter[tuple]:
    calls: Counter[tuple] = Counter()
    mesh, runs = config.mesh, config.accumulation * config.parallel.overlap.parts
    for part in parts_of(config, chip):
        for collective in part.collectives:
            key = (collective.op, "tensor", collective.size, collective.dtype)
            key += (part.stage, "activation", collective.phase)
            calls[key] += part.count * runs
    message = config.micro_batch // config.parallel.overlap.parts * config.seq_length * config.model.sizes.hidden_size
    message //= mesh.tensor if config.parallel.sequence else 1  # each device sends the rows it has
    size, dtype = message * (4 if config.training.precision == "fp32" else 2), config.training.precision
    for stage in range(mesh.pipeline):  # each virtual stage sends to the next one, backward to the one before it
        for phase, end in (("forward", mesh.pipeline - 1), ("backward", 0)):
            messages = mesh.virtual_stages - (stage == end)
            if messages:
                calls["Send", "pipeline", size, dtype, stage, "activation", phase] += messages * runs
    return calls


def _inputs_and_sums(config: RunConfig) -> Counter[tuple]:
    """Collectives that distribute the loaded batch, and those that sum the loss over all replicas. Micro-batches and
    parts are slices of the stage's whole batch, so MindSpore gathers all of it. Ids are needed everywhere (each stage
    forms the mask), and with dropout the sample numbers; labels and loss mask on the last stage."""
    calls: Counter[tuple] = Counter()
    mesh, rows, parts = config.mesh, config.training.global_batch, config.parallel.overlap.parts
    runs = config.accumulation * parts
    last, group = mesh.pipeline - 1, "stage" if runs > 1 else "tensor"
    size = FP32 * config.seq_length * (rows if group == "stage" else rows // mesh.data)
    for stage in range(mesh.pipeline if config.partitioned else 0):
        if len(group_ranks(mesh, group, mesh.rank(stage, 0, 0))) > 1:
            calls["AllGather", group, size, "int32", stage, "input", "step"] += 2 if stage == last else 1
            if config.training.dropout or config.training.attention_rate or config.lora.rank * config.lora.dropout > 0:
                calls["AllGather", group, size // config.seq_length, "int32", stage, "input", "step"] += 1
            if stage == last:
                calls["AllGather", group, size, "fp32", stage, "input", "step"] += 1
    if mesh.data > 1 and config.partitioned:
        # masked loss and tokens; the count needs no gradient, and the parts of a single micro-batch share it
        backward = 1 if config.accumulation == 1 else runs
        for phase, count in (("forward", 2 * runs), ("backward", backward)):
            calls["AllReduce", "data", FP32, "fp32", last, "scalar", phase] += count
    if mesh.world > 1:  # loss, tokens, squared gradient norm
        for stage in range(mesh.pipeline):
            calls["AllReduce", "world", 3 * FP32, "fp32", stage, "scalar", "step"] += 1
    return calls


def parameter_collectives(config: RunConfig, layout: ParameterLayout) -> list[tuple[str, str, int, str, str]]:
    """(operation, group, bytes, dtype, purpose) of one parameter in one step. A weight is cast before it is gathered,
    but not a table that is looked up, nor for the parts of a single micro-batch; its gradient is reduced in FP32, or as
    a short gradient in 16 bits. `parallel.optimizer_level` says what each micro-batch does."""
    mesh, precision = config.mesh, config.training.precision
    sent, width = (precision, 2) if config.parallel.short_gradients else ("fp32", 1)
    if not layout.product or (config.parallel.overlap.parts > 1 and config.accumulation == 1):
        precision = "fp32"
    gathers = config.accumulation * (1 + layout.product) if mesh.gathers_twice else 1
    sums = config.accumulation if mesh.shards_sums else 1
    size = FP32 * layout.local_size(mesh)
    calls = []
    if layout.optimizer_sharded:
        gathered = size * mesh.optimizer_shard
        narrow = gathered if precision == "fp32" else gathered // 2
        calls += [("AllGather", "optimizer", narrow, precision, "weight")] * gathers
    if not layout.trained:
        return calls
    if layout.optimizer_sharded:
        calls += [("ReduceScatter", "optimizer", gathered // width, sent, "gradient")] * sums
        if mesh.data > mesh.optimizer_shard:
            calls.append(("AllReduce", "replica", size // width, sent, "gradient"))
    elif layout.tensor_axis is None and mesh.tensor > 1:
        # every tensor-parallel device computes the same; MindSpore sums over the whole stage and divides
        calls.append(("AllReduce", "stage", size // width, sent, "gradient"))
    elif mesh.data > 1:
        calls.append(("AllReduce", "data", size // width, sent, "gradient"))
    return calls


def _kinds_of_layouts(config: RunConfig) -> tuple[tuple[ParameterLayout, int], ...]:
    lora, vocabulary = config.lora, config.parallel.vocabulary
    return _kinds(config.mesh, config.model.sizes, vocabulary, tuple(lora.targets), lora.rank, lora.frozen)


@lru_cache(maxsize=256)  # a search varies much that does not change layouts
def _kinds(
    mesh: Mesh, model: DecoderConfig, vocabulary: bool, targets: tuple[str, ...], rank: int, frozen: str
) -> tuple[tuple[ParameterLayout, int], ...]:
    layouts = layouts_on(mesh, model, LoraConfig(rank=rank, targets=list(targets), frozen=frozen), vocabulary)
    return tuple(Counter(replace(layout, name="") for layout in layouts).items())


def collectives(config: RunConfig, chip: Chip | None = None) -> list[PlannedCollective]:
    """All collectives of a step, stage by stage, equal ones together: those of activations once a micro-batch, those
    of weights and gradients in each call of the graph."""
    chip, mesh = chip or hardware_of(config), config.mesh
    if config.reductions > 1:
        return [replace(x, count=x.count * config.reductions) for x in collectives(config.of_a_call, chip)]
    calls = _activations(config, chip) + _inputs_and_sums(config)
    for layout, count in _kinds_of_layouts(config):
        for op, group, size, dtype, purpose in parameter_collectives(config, layout):
            calls[op, group, size, dtype, layout.stage, purpose, "step"] += count
        if layout.copy_of and layout.trained:  # owner and copy add their gradients, so that both stay equal
            for stage in (0, layout.stage):
                calls["AllReduce", "tied", FP32 * layout.local_size(mesh), "fp32", stage, "gradient", "step"] += count
    listed = []
    for (op, group, size, dtype, stage, purpose, phase), count in calls.items():
        ranks = group_ranks(mesh, group, mesh.rank(stage, 0, 0), phase)
        link = link_of(ranks, config.parallel.server_devices)
        listed.append(PlannedCollective(op, group, len(ranks), count, size, dtype, link, stage, purpose, phase))
    return sorted(listed, key=lambda c: (c.stage, GROUPS.index(c.group), c.op, -c.bytes_each, c.phase))
