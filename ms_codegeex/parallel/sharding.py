"""How one parameter lies on a mesh: its stage, the axis tensor parallelism cuts, whether replicas share it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ms_codegeex.mesh import Mesh
from ms_codegeex.models.registry import family

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig


@dataclass(frozen=True)
class ParameterLayout:
    """Place of a parameter. Optimizer sharding cuts axis 0 of what tensor parallelism leaves.

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
        """On how many devices of its stage each element lies."""
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


@lru_cache(maxsize=64)
def _layouts(name: str, model: Any, mesh: Mesh, vocabulary: bool) -> tuple[ParameterLayout, ...]:
    return tuple(family(name).parallel.parameter_layouts(model, mesh, vocabulary))


def layouts_of(config: RunConfig) -> tuple[ParameterLayout, ...]:
    """Where every parameter of the run lies."""
    return _layouts(config.family, config.model.sizes, config.mesh, config.parallel.vocabulary)
