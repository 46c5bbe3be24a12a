"""The mesh of devices: pipeline stages x data-parallel replicas x tensor-parallel shards. MindSpore numbers ranks stage
by stage, and within a stage replica by replica: rank = (stage·data + replica)·tensor + shard."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

from ms_codegeex.base.errors import UserError

# MindSpore 2.9.0 refuses other sizes when compiling (device_manager.cc: CheckDeviceConfig), and ranks above 4095.
SMALL_WORLDS, WORLD_MULTIPLE, MAX_WORLD = (1, 2, 4), 8, 4096


@dataclass(frozen=True)
class Mesh:
    """Sizes of the axes. `optimizer_shard` consecutive replicas share one copy of weights and optimizer state;
    `optimizer_level` says what else they share (`parallel.optimizer_level`). `stage_layers`: the number of layers of
    each stage; if empty, the numbers differ by one at most. `virtual_stages`: the number of parts of neighbouring
    layers in each stage; the stages' parts follow one another in turn."""

    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    optimizer_shard: int = 1
    stage_layers: tuple[int, ...] = ()
    virtual_stages: int = 1
    optimizer_level: int = 1

    @property
    def shards_sums(self) -> bool:
        """Whether gradient sums are sharded like the optimizer state."""
        return self.optimizer_shard > 1 and self.optimizer_level > 1

    def shards_tables(self, vocabulary: bool) -> bool:
        """Whether token tables are sharded like the gradient sums. `vocabulary`: tensor parallelism splits them."""
        return self.shards_sums and (vocabulary or self.tensor == 1)

    @property
    def gathers_twice(self) -> bool:
        """Whether weights are gathered again for the backward pass instead of being kept after the forward pass."""
        return self.optimizer_shard > 1 and self.optimizer_level == 3

    @property
    def stage_size(self) -> int:
        return self.data * self.tensor

    @property
    def world(self) -> int:
        return self.stage_size * self.pipeline

    def coordinates(self, rank: int) -> tuple[int, int, int]:
        return rank // self.stage_size, rank // self.tensor % self.data, rank % self.tensor

    def stage_of(self, layer: int, layers: int) -> int:
        return self.part_of(layer, layers) % self.pipeline

    def part_of(self, layer: int, layers: int) -> int:
        """Return the virtual stage of `layer`, one of `layers`, counted over all stages in layer order."""
        if not self.stage_layers:
            return layer * self.pipeline * self.virtual_stages // layers
        return bisect_right(list(accumulate(self.stage_layers)), layer)

    def stages_of(self, layers: int) -> list[int]:
        return [self.stage_of(layer, layers) for layer in range(layers)]

    def layers_per_stage(self, layers: int) -> list[int]:
        stages = self.stages_of(layers)
        return [stages.count(stage) for stage in range(self.pipeline)]

    def rank(self, stage: int, replica: int, shard: int) -> int:
        return stage * self.stage_size + replica * self.tensor + shard

    def stage_group(self, rank: int) -> list[int]:
        first = rank // self.stage_size * self.stage_size
        return list(range(first, first + self.stage_size))

    def tensor_group(self, rank: int) -> list[int]:
        first = rank // self.tensor * self.tensor
        return list(range(first, first + self.tensor))

    def data_group(self, rank: int) -> list[int]:
        stage, _, shard = self.coordinates(rank)
        return [self.rank(stage, replica, shard) for replica in range(self.data)]

    def optimizer_group(self, rank: int) -> list[int]:
        """Return the ranks over which a weight and its optimizer state are sharded."""
        group = self.data_group(rank)
        first = group.index(rank) // self.optimizer_shard * self.optimizer_shard
        return group[first : first + self.optimizer_shard]

    def replica_group(self, rank: int) -> list[int]:
        group = self.data_group(rank)
        return group[group.index(rank) % self.optimizer_shard :: self.optimizer_shard]

    def tied_group(self, rank: int) -> list[int]:
        _, replica, shard = self.coordinates(rank)
        return [self.rank(0, replica, shard), self.rank(self.pipeline - 1, replica, shard)]

    def __str__(self) -> str:
        text = f"data {self.data} x tensor {self.tensor} x pipeline {self.pipeline}"
        text += f", virtual stages {self.virtual_stages}" if self.virtual_stages > 1 else ""
        if self.optimizer_shard == 1:
            return text
        level = f" at level {self.optimizer_level}" if self.optimizer_level > 1 else ""
        return f"{text}, optimizer shards {self.optimizer_shard}{level}"


def check_world(key: str, world: int) -> None:
    """Raise `UserError`, naming `key`, if the engine cannot partition a graph for `world` devices."""
    if (world not in SMALL_WORLDS and world % WORLD_MULTIPLE) or world > MAX_WORLD:
        possible = f"2, 4 or a multiple of {WORLD_MULTIPLE} up to {MAX_WORLD}"
        wrong = f"MindSpore cannot partition for {world} devices, only for {possible}"
        raise UserError(f"{key}: {wrong}; choose such a number")
