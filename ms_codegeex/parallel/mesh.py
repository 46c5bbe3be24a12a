"""The mesh of devices: pipeline stages x data-parallel replicas x tensor-parallel shards, and every rule it obeys.

MindSpore numbers ranks stage by stage, and inside a stage replica by replica:
rank = (stage·data + replica)·tensor + shard.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ms_codegeex.errors import UserError
from ms_codegeex.parallel.hardware import hardware_of

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig

# MindSpore 2.9.0 refuses other sizes when it compiles (device_manager.cc: CheckDeviceConfig), and ranks above 4095.
SMALL_WORLDS, WORLD_MULTIPLE, LARGEST_WORLD = (1, 2, 4), 8, 4096


@dataclass(frozen=True)
class Mesh:
    """Sizes of the axes. `optimizer_shard` consecutive replicas share one copy of weights and optimizer state."""

    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    optimizer_shard: int = 1

    @property
    def stage_size(self) -> int:
        """Devices of one pipeline stage."""
        return self.data * self.tensor

    @property
    def world(self) -> int:
        """Devices."""
        return self.stage_size * self.pipeline

    def coordinates(self, rank: int) -> tuple[int, int, int]:
        """stage, replica and shard of a rank"""
        return rank // self.stage_size, rank // self.tensor % self.data, rank % self.tensor

    def rank(self, stage: int, replica: int, shard: int) -> int:
        """The inverse of `coordinates`."""
        return stage * self.stage_size + replica * self.tensor + shard

    def stage_group(self, rank: int) -> list[int]:
        """All ranks of this rank's stage."""
        first = rank // self.stage_size * self.stage_size
        return list(range(first, first + self.stage_size))

    def tensor_group(self, rank: int) -> list[int]:
        """The ranks that hold the other shards of this rank's matrices."""
        first = rank // self.tensor * self.tensor
        return list(range(first, first + self.tensor))

    def data_group(self, rank: int) -> list[int]:
        """The ranks that do the same with other samples."""
        stage, _, shard = self.coordinates(rank)
        return [self.rank(stage, replica, shard) for replica in range(self.data)]

    def optimizer_group(self, rank: int) -> list[int]:
        """The ranks that share one copy of a weight and its optimizer state."""
        group = self.data_group(rank)
        first = group.index(rank) // self.optimizer_shard * self.optimizer_shard
        return group[first : first + self.optimizer_shard]

    def replica_group(self, rank: int) -> list[int]:
        """The ranks that hold the same optimizer shard as this one."""
        group = self.data_group(rank)
        return group[group.index(rank) % self.optimizer_shard :: self.optimizer_shard]

    def tied_group(self, rank: int) -> list[int]:
        """First and last stage at this rank's place: the two that hold the word table."""
        _, replica, shard = self.coordinates(rank)
        return [self.rank(0, replica, shard), self.rank(self.pipeline - 1, replica, shard)]

    def __str__(self) -> str:
        text = f"data {self.data} x tensor {self.tensor} x pipeline {self.pipeline}"
        return f"{text}, optimizer shards {self.optimizer_shard}" if self.optimizer_shard > 1 else text


def _divides(key: str, part: int, whole_key: str, whole: int) -> None:
    if whole % part:
        raise UserError(f"{key}: {part} does not divide {whole_key} {whole}; change {key} or {whole_key}")


def check_world(key: str, world: int) -> None:
    """`UserError` for `key` if the engine cannot partition a graph for `world` devices."""
    if (world not in SMALL_WORLDS and world % WORLD_MULTIPLE) or world > LARGEST_WORLD:
        raise UserError(
            f"{key}: MindSpore cannot partition for {world} devices, only for 2, 4 or a multiple of {WORLD_MULTIPLE} "
            f"up to {LARGEST_WORLD}; choose such a number"
        )


def check_mesh(config: RunConfig) -> None:
    """All rules of meshes in one place; a `UserError` names the key to change."""
    parallel = config.parallel
    hardware_of(config)
    fixed = parallel.tensor * parallel.pipeline
    if config.devices % fixed:
        raise UserError(
            f"parallel.tensor: tensor {parallel.tensor} x pipeline {parallel.pipeline} = {fixed} does not divide "
            f"devices: {config.devices}; change parallel.tensor, parallel.pipeline or devices"
        )
    mesh = config.mesh
    if mesh.world != config.devices:
        raise UserError(
            f"parallel.data: {mesh.data} replicas x {fixed} do not use devices: {config.devices}; "
            f"set it to {config.devices // fixed} or leave parallel.data out"
        )
    if config.partitioned:
        check_world("devices", mesh.world)
    _check_batch(config, mesh)
    _check_tensor(config, mesh)
    _check_pipeline(config, mesh)
    _check_optimizer_shards(config, mesh)


def _check_batch(config: RunConfig, mesh: Mesh) -> None:
    parallel, training = config.parallel, config.training
    if training.global_batch % mesh.data:
        raise UserError(
            f"training.global_batch: {training.global_batch} does not divide by the {mesh.data} "
            "data-parallel devices; change training.global_batch or devices"
        )
    if parallel.micro_batches and training.micro_batch:
        if parallel.micro_batches * training.micro_batch != config.local_batch:
            raise UserError(
                f"parallel.micro_batches: {parallel.micro_batches} of training.micro_batch {training.micro_batch} are "
                f"not the {config.local_batch} sequences of a replica; leave one of the two keys out"
            )
    elif parallel.micro_batches and config.local_batch % parallel.micro_batches:
        raise UserError(
            f"parallel.micro_batches: {parallel.micro_batches} does not divide the {config.local_batch} sequences of a "
            "replica; choose a divisor or change training.global_batch"
        )
    if config.local_batch % config.micro_batch:
        raise UserError(
            f"training.micro_batch: {config.micro_batch} does not divide the {config.local_batch} sequences of a "
            "device; choose a divisor"
        )


def _check_tensor(config: RunConfig, mesh: Mesh) -> None:
    parallel, model = config.parallel, config.model_config()
    if mesh.tensor == 1:
        if parallel.sequence:
            raise UserError("parallel.sequence: shards rows over parallel.tensor, which is 1; set it to false")
        return
    for field in ("num_heads", "intermediate_size"):  # heads divide the hidden size
        _divides("parallel.tensor", mesh.tensor, f"model.{field}", getattr(model, field))
    groups = model.num_kv_groups
    if groups % mesh.tensor and mesh.tensor % groups:
        raise UserError(
            f"parallel.tensor: {mesh.tensor} devices cannot share model.num_kv_groups {groups} evenly; choose a "
            "divisor or a multiple"
        )
    if parallel.vocabulary:
        _divides("parallel.tensor", mesh.tensor, "model.vocab_size", model.vocab_size)
    if parallel.server_devices % mesh.tensor:
        raise UserError(
            f"parallel.tensor: groups of {mesh.tensor} devices do not fit into servers of "
            f"{parallel.server_devices} (parallel.server_devices); choose a divisor, tensor-parallel traffic must stay "
            "inside a server"
        )
    if config.micro_batch % mesh.tensor:
        raise UserError(
            f"training.micro_batch: {config.micro_batch} sequences of a replica cannot be loaded in equal parts by its "
            f"{mesh.tensor} devices (parallel.tensor); choose a multiple"
        )


def _check_pipeline(config: RunConfig, mesh: Mesh) -> None:
    if mesh.pipeline == 1:
        return
    layers = config.model_config().num_layers
    if mesh.pipeline > layers:
        raise UserError(
            f"parallel.pipeline: {mesh.pipeline} stages for model.num_layers {layers}; choose at most that many"
        )
    if config.accumulation < mesh.pipeline:
        raise UserError(
            f"parallel.micro_batches: {config.accumulation} cannot fill parallel.pipeline {mesh.pipeline} stages; "
            "give at least as many micro-batches as stages"
        )


def _check_optimizer_shards(config: RunConfig, mesh: Mesh) -> None:
    shard, model = mesh.optimizer_shard, config.model_config()
    if shard == 1:
        return
    if mesh.data % shard:
        raise UserError(
            f"parallel.optimizer_shard: {shard} does not divide the {mesh.data} data-parallel replicas; choose a "
            "divisor or change devices"
        )
    rows = {
        "hidden_size": model.hidden_size // mesh.tensor,
        "intermediate_size": model.intermediate_size // mesh.tensor,
    }
    if model.num_kv_groups % mesh.tensor == 0:  # else keys and values are whole
        rows["num_kv_groups"] = model.num_kv_groups * model.head_dim // mesh.tensor
    for field, size in rows.items():
        if size % shard:
            raise UserError(
                f"parallel.optimizer_shard: {shard} does not divide the {size} rows that parallel.tensor {mesh.tensor} "
                f"leaves of a weight (model.{field} {getattr(model, field)}); MindSpore would silently keep it whole. "
                "Choose a divisor"
            )
