"""The placement of each parameter on a mesh: its stage, the axis that tensor parallelism splits, whether replicas share
it; and what a rank loads, holds and saves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from ms_codegeex.base.mesh import Mesh
from ms_codegeex.models.decoder_config import DecoderConfig
from ms_codegeex.models.parameters import BLOCK, LORA_A, LORA_B, VOCABULARY, Layer, LayerParameter, held_bytes

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig
    from ms_codegeex.config.sections import LoraConfig

MOMENTS = ("optimizer.m.", "optimizer.v.")
NEWTON_SCHULZ_STEPS = 5  # iterations of an update by Muon
GRADIENT_SUMS = "accu_grads."  # prefix of the buffers that sum gradients over micro-batches


@dataclass(frozen=True)
class ParameterLayout:
    """The placement of a parameter. Optimizer sharding splits axis 0 of the tensor-parallel shard. `copy_of`: the
    parameter on another stage that this one always equals; checkpoints hold only the other one. A parameter that is not
    `trained` has neither gradient nor optimizer state. `matrix`: whether it is the weight of a linear layer in a block;
    `product`: of any linear layer. `held`: the type of its elements."""

    name: str
    shape: tuple[int, ...]
    stage: int = 0
    tensor_axis: int | None = None
    optimizer_sharded: bool = False
    copy_of: str | None = None
    trained: bool = True
    matrix: bool = False
    product: bool = False
    held: str = "fp32"

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def local_shape(self, mesh: Mesh) -> tuple[int, ...]:
        """Return the shape on one device of its stage."""
        shape = list(self.shape)
        if self.tensor_axis is not None:
            shape[self.tensor_axis] //= mesh.tensor
        if self.optimizer_sharded:
            shape[0] //= mesh.optimizer_shard
        return tuple(shape)

    def local_size(self, mesh: Mesh) -> int:
        return math.prod(self.local_shape(mesh))

    def local_bytes(self, mesh: Mesh) -> int:
        """Return the bytes on one device of its stage."""
        return held_bytes(self.local_shape(mesh), self.held)

    def replication(self, mesh: Mesh) -> int:
        return mesh.stage_size * self.local_size(mesh) // self.size

    def window(self, mesh: Mesh, rank: int) -> tuple[slice, ...]:
        """Return the slice of the whole parameter that `rank` of its stage holds."""
        _, replica, shard = mesh.coordinates(rank)
        starts, local = [0] * len(self.shape), self.local_shape(mesh)
        if self.tensor_axis is not None:
            starts[self.tensor_axis] = shard * (self.shape[self.tensor_axis] // mesh.tensor)
        if self.optimizer_sharded:
            starts[0] += replica % mesh.optimizer_shard * local[0]
        return tuple(slice(start, start + size) for start, size in zip(starts, local, strict=True))

    def saved_by(self, mesh: Mesh, rank: int) -> bool:
        """Return whether `rank` saves its part: the first rank that holds a part does. Copies are not saved."""
        stage, replica, shard = mesh.coordinates(rank)
        if self.copy_of or self.stage != stage:
            return False
        first_replica = replica < mesh.optimizer_shard if self.optimizer_sharded else replica == 0
        return first_replica and (self.tensor_axis is not None or shard == 0)


def recompute_of_blocks(config: RunConfig) -> tuple[str, ...]:
    """Return the recomputation of each block, with the tail last: `training.recompute` in the first `recompute_blocks`
    blocks of each stage, and the next cheaper setting in its other blocks."""
    mesh, layers, training = config.mesh, config.model.sizes.attention_layers, config.training
    if training.recompute_blocks is None:
        return (training.recompute,) * layers
    other = "selective" if training.recompute == "full" else "none"
    left, settings = list(training.recompute_blocks), []
    for stage in mesh.stages_of(layers):
        settings.append(training.recompute if left[stage] > 0 else other)
        left[stage] -= 1
    return tuple(settings)


def borders_of_recomputation(config: RunConfig) -> list[int]:
    """Return the blocks that recompute less than the preceding block of their stage. None is in the tail."""
    mesh, model, settings = config.mesh, config.model.sizes, recompute_of_blocks(config)
    places = mesh.stages_of(model.attention_layers)
    return [i for i in range(1, model.num_layers) if settings[i] != settings[i - 1] and places[i] == places[i - 1]]


@lru_cache(maxsize=64)
def parameter_layouts(model: DecoderConfig, mesh: Mesh, vocabulary: bool = True) -> tuple[ParameterLayout, ...]:
    """Return the placement of every parameter, in the table's order. `vocabulary`: split tables of tokens, too. The
    sizes of all but the copies sum to `model.parameter_count()`."""
    first, blocks, ends = _parameters(model)
    last = mesh.pipeline - 1
    of_blocks = ((each, mesh.stage_of(i, model.attention_layers)) for i, block in enumerate(blocks) for each in block)
    of_ends = ((each, last) for each in ends if last or not each.layer.copy_of)
    tables, layouts = mesh.shards_tables(vocabulary), []
    for each, stage in (*((each, 0) for each in first), *of_blocks, *of_ends):
        axis = None if each.layer.role is VOCABULARY and not vocabulary else each.axis_on(model, mesh.tensor)
        sharded = mesh.optimizer_shard > 1 and each.shared_by_replicas(model, mesh.tensor, tables)
        copy_of = f"{each.layer.copy_of}.weight" if each.layer.copy_of else None
        kinds = {"matrix": each.matrix, "product": each.product}
        layouts.append(ParameterLayout(each.name, each.shape, stage, axis, sharded, copy_of, **kinds))
    return tuple(layouts)


def moments_of(config: RunConfig, layout: ParameterLayout) -> tuple[str, ...]:
    """Return the prefixes of the moments that the optimizer keeps for a parameter."""
    if not layout.trained:
        return ()
    return MOMENTS[:1] if layout.matrix and config.training.optimizer.name == "muon" else MOMENTS


def checkpoint_bytes(config: RunConfig, rank: int) -> int:
    """Return the bytes of FP32 weights and moments that a rank saves."""
    saved = (x for x in layouts_of(config) if x.trained and x.saved_by(config.mesh, rank))
    return sum(4 * x.local_size(config.mesh) * (1 + len(moments_of(config, x))) for x in saved)


def muon_matrices(config: RunConfig) -> frozenset[str]:
    return frozenset(layout.name for layout in layouts_of(config) if moments_of(config, layout) == MOMENTS[:1])


@lru_cache(maxsize=8)  # a search asks hundreds of times
def _parameters(model: DecoderConfig) -> tuple[list[LayerParameter], list[list[LayerParameter]], list[LayerParameter]]:
    table = model.table

    def of(layers: Iterable[Layer]) -> list[LayerParameter]:
        return [parameter for layer in layers for parameter in layer.parameters(model)]

    block = [layer.inside(BLOCK) for layer in table.block]
    blocks = [of(layer.numbered(i) for layer in block) for i in range(model.num_layers)]
    return of(table.first), blocks, of(table.last)


def layouts_of(config: RunConfig) -> tuple[ParameterLayout, ...]:
    return layouts_on(config.mesh, config.model.sizes, config.lora, config.parallel.vocabulary)


def layouts_on(
    mesh: Mesh, model: DecoderConfig, lora: LoraConfig, vocabulary: bool = True
) -> tuple[ParameterLayout, ...]:
    """Return the placement on a mesh of every parameter of a model and of its adapters."""
    layouts = parameter_layouts(model, mesh, vocabulary)
    if not lora.rank:
        return layouts
    adapters = model.adapter_shapes(lora.targets, lora.rank)
    return tuple(each for layout in layouts for each in _with_adapter(layout, adapters, lora.frozen))


def _with_adapter(
    layout: ParameterLayout, adapters: Mapping[str, tuple[int, ...]], held: str
) -> Iterator[ParameterLayout]:
    """Yield a frozen parameter, which optimizer sharding splits like a trained one, and those of its adapter, if it has
    one: A is split like the columns of the matrix, B like its rows. Both are small, so every replica holds them whole.
    `held`: the type of frozen matrices and tables; if matrices are integers, tables are FP16."""
    held = held if layout.matrix or not held.startswith("int") else "fp16"
    yield replace(layout, trained=False, held=held if len(layout.shape) == 2 else "fp32")
    if not layout.name.endswith(".weight"):
        return
    layer, axis = layout.name.removesuffix(".weight"), layout.tensor_axis
    for name, splits in ((f"{layer}.{LORA_A}", 1), (f"{layer}.{LORA_B}", 0)):
        if name in adapters:
            yield ParameterLayout(name, adapters[name], layout.stage, splits if axis == splits else None)


def loaded_rows(config: RunConfig, rank: int) -> slice:
    """Return the rows of a global batch that a rank loads. The devices of its stage share them equally."""
    devices = config.mesh.stage_size
    local = config.training.global_batch // devices
    return slice(rank % devices * local, (rank % devices + 1) * local)


def split_moment(name: str) -> tuple[str, str]:
    prefix = next((prefix for prefix in (*MOMENTS, GRADIENT_SUMS) if name.startswith(prefix)), "")
    return prefix, name.removeprefix(prefix)


class Placement:
    """The tensors that a rank holds: weights, and their moments, which are sharded like the weights."""

    def __init__(self, config: RunConfig, rank: int):
        self.mesh, self.rank = config.mesh, rank
        self.layouts: dict[str, ParameterLayout] | None = None
        if config.partitioned:
            self.layouts = {layout.name: layout for layout in layouts_of(config)}

    def _layout(self, name: str) -> tuple[str, ParameterLayout]:
        prefix, weight = split_moment(name)
        return prefix, self.layouts[weight]

    def here(self, name: str) -> bool:
        return self.layouts is None or self._layout(name)[1].stage == self.mesh.coordinates(self.rank)[0]

    def elsewhere(self, name: str) -> bool:
        """Return whether the tensor, which may be any that a step keeps, belongs to a weight of another stage."""
        return self.layouts is not None and split_moment(name)[1] in self.layouts and not self.here(name)

    def stored_name(self, name: str) -> str:
        """Return the tensor's name in checkpoints: for a copy, that of the original."""
        if self.layouts is None:
            return name
        prefix, layout = self._layout(name)
        return prefix + (layout.copy_of or layout.name)

    def window(self, name: str) -> tuple[slice, ...] | None:
        """Return the slice of the whole tensor that this rank holds; None for all of it."""
        return None if self.layouts is None else self._layout(name)[1].window(self.mesh, self.rank)

    def shape(self, name: str, local: tuple[int, ...]) -> tuple[int, ...]:
        return local if self.layouts is None else self._layout(name)[1].shape

    def writes(self, name: str) -> bool:
        """Return whether this rank saves its shard: the first rank that holds a shard does."""
        if self.layouts is None:
            return self.rank == 0
        return self._layout(name)[1].saved_by(self.mesh, self.rank)
