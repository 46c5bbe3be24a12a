"""Where each parameter lies on a mesh: its stage, the axis tensor parallelism splits, whether replicas share it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from ms_codegeex.mesh import Mesh
from ms_codegeex.models.decoder_config import DecoderConfig
from ms_codegeex.models.parameters import BLOCK, VOCABULARY, LayerParameter

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig


@dataclass(frozen=True)
class ParameterLayout:
    """Place of a parameter. Optimizer sharding splits axis 0 of what tensor parallelism leaves.

    `copy_of`: the parameter on another stage that this one always equals; checkpoints hold only that one.
    """

    name: str
    shape: tuple[int, ...]
    stage: int = 0
    tensor_axis: int | None = None
    optimizer_sharded: bool = False
    copy_of: str | None = None

    @property
    def size(self) -> int:
        """Elements of the whole parameter."""
        return math.prod(self.shape)

    def local_shape(self, mesh: Mesh) -> tuple[int, ...]:
        """Shape on one device of its stage."""
        shape = list(self.shape)
        if self.tensor_axis is not None:
            shape[self.tensor_axis] //= mesh.tensor
        if self.optimizer_sharded:
            shape[0] //= mesh.optimizer_shard
        return tuple(shape)

    def local_size(self, mesh: Mesh) -> int:
        """Elements on one device of its stage."""
        return math.prod(self.local_shape(mesh))

    def replication(self, mesh: Mesh) -> int:
        """How many devices of its stage hold each element."""
        return mesh.stage_size * self.local_size(mesh) // self.size

    def window(self, mesh: Mesh, rank: int) -> tuple[slice, ...]:
        """The part of the whole parameter that `rank` of its stage holds."""
        _, replica, shard = mesh.coordinates(rank)
        starts, local = [0] * len(self.shape), self.local_shape(mesh)
        if self.tensor_axis is not None:
            starts[self.tensor_axis] = shard * (self.shape[self.tensor_axis] // mesh.tensor)
        if self.optimizer_sharded:
            starts[0] += replica % mesh.optimizer_shard * local[0]
        return tuple(slice(start, start + size) for start, size in zip(starts, local, strict=True))


def stage_of_block(model: DecoderConfig, stages: int, block: int) -> int:
    """Stage of a block; the stages hold neighbouring blocks, in numbers that differ by one at most.

    A block after the others (CodeGeeX's top query layer) is number `num_layers` and counts as one more.
    """
    return block * stages // model.attention_layers


def _layout(
    parameter: LayerParameter, model: DecoderConfig, mesh: Mesh, stage: int, vocabulary: bool
) -> ParameterLayout:
    """Where the parameter of a layer lies, by the layer's role."""
    layer = parameter.layer
    axis = None if layer.role is VOCABULARY and not vocabulary else parameter.axis_on(model, mesh.tensor)
    sharded = mesh.optimizer_shard > 1 and parameter.shared_by_replicas(model, mesh.tensor)
    copy_of = f"{layer.copy_of}.weight" if layer.copy_of else None
    return ParameterLayout(parameter.name, parameter.shape, stage, axis, sharded, copy_of)


@lru_cache(maxsize=64)
def parameter_layouts(model: DecoderConfig, mesh: Mesh, vocabulary: bool = True) -> tuple[ParameterLayout, ...]:
    """Where every parameter lies, in the table's order; `vocabulary`: tables of tokens are split, too.

    The sizes of all but the copies sum to `model.parameter_count()`.
    """
    table, last = model.table, mesh.pipeline - 1
    blocks = (
        (layer.inside(BLOCK).numbered(i), stage_of_block(model, mesh.pipeline, i))
        for i in range(model.num_layers)
        for layer in table.block
    )
    ends = ((layer, last) for layer in table.last if last or not layer.copy_of)
    return tuple(
        _layout(parameter, model, mesh, stage, vocabulary)
        for layer, stage in (*((layer, 0) for layer in table.first), *blocks, *ends)
        for parameter in layer.parameters(model)
    )


def layouts_of(config: RunConfig) -> tuple[ParameterLayout, ...]:
    """Where every parameter of the run lies."""
    return parameter_layouts(config.model.sizes, config.mesh, config.parallel.vocabulary)
