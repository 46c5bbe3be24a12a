"""A family's parameters as one table: the name, role and shape of every layer that has some. Layouts on a mesh,
strategies, counts, memory, costs, initial weights and the shapes in files all follow from the table (`PARAMETERS` in
`models/<family>/config.py`). A new kind of weight is a new role, or a function from one table to another, here."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

BLOCK = "blocks.{i}"  # name of block i; its layers' names are relative to it
LORA_A, LORA_B = "lora_a", "lora_b"  # an adapter's parameters [rank, columns] and [rows, rank] (LoRA)


@dataclass(frozen=True)
class Role:
    """How tensor-parallel devices share a layer's parameters. `weight_axis`, `bias_axis`: the axis they split; None:
    each holds all of it. `linear`: a linear layer of a block; optimizer sharding takes the weights of those.
    `by_groups`: each device gets complete heads of keys and values; if their number does not divide evenly, every
    device holds all of them."""

    name: str
    weight_axis: int | None = None
    bias_axis: int | None = None
    linear: bool = False
    by_groups: bool = False


COLUMN = Role("column", 0, 0, linear=True)  # split by outputs
ROW = Role("row", 1, None, linear=True)  # split by inputs; partial sums are added, then the bias
KEY_VALUE = Role("key_value", 0, 0, linear=True, by_groups=True)  # column-parallel by heads of keys and values
VOCABULARY = Role("vocabulary", 0, 0)  # a table with a row for each token, or the output layer
TABLE = Role("table")  # another table; every device holds all of it
LAYER_NORM = Role("layer_norm")
RMS_NORM = Role("rms_norm")


NUMBERS, SCALES = ".numbers", ".scales"  # what follows the name of a matrix that is rounded to integers
GROUP = 64  # numbers of a 4-bit matrix that share a scale


def held_bytes(shape: tuple[int, ...], held: str) -> int:
    """Bytes of a parameter whose numbers are fp32, fp16, bf16, int8 or int4, with its scales."""
    if held == "int8":
        return math.prod(shape) + 4 * shape[0]
    if held == "int4":
        return shape[0] * (-(-shape[1] // 2) + 4 * -(-shape[1] // GROUP))
    return math.prod(shape) * (4 if held == "fp32" else 2)


@dataclass(frozen=True)
class LayerParameter:
    """One parameter of a layer. `axis`: the one that tensor-parallel devices split, if any."""

    name: str
    shape: tuple[int, ...]
    axis: int | None
    layer: Layer

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def matrix(self) -> bool:
        return self.layer.role.linear and len(self.shape) == 2

    def axis_on(self, config: Any, tensor: int) -> int | None:
        """The axis that `tensor` devices split; None: each holds all of it."""
        whole = tensor == 1 or (self.layer.role.by_groups and config.num_kv_groups % tensor != 0)
        return None if whole else self.axis

    def shared_by_replicas(self, config: Any, tensor: int, tables: bool) -> bool:
        """Whether optimizer sharding splits its rows. It splits only weights of linear layers; tables, norms and biases
        are not split (CodeGeeX release), but with `tables` those of tokens are, unless two layers share one. Nor are
        weights that tensor parallelism does not split: MindSpore 2.9 shards those over replicas but gathers them over
        neighbouring ranks, so that the training is wrong (an executed rehearsal shows it)."""
        table = tables and self.layer.role is VOCABULARY and len(self.shape) == 2
        if table and any(layer.copy_of for layer in config.table.last):
            return False
        return (self.matrix or table) and (tensor == 1 or self.axis_on(config, tensor) is not None)

    @property
    def product(self) -> bool:
        return self.matrix or (self.layer.output and len(self.shape) == 2)


@dataclass(frozen=True)
class Layer:
    """One line of the table: a layer with a weight [rows, columns], or [rows], and a bias [rows] if `bias`. `rows`,
    `columns` and `std` (standard deviation of the initial weight) name attributes of the family's config. `output`:
    whether it is an output layer with a separate weight. `copy_of`: the layer that this one repeats on another pipeline
    stage; it exists only there and is not counted."""

    name: str
    role: Role
    rows: str
    columns: str = ""
    bias: bool = False
    std: str = "init_std"
    output: bool = False
    copy_of: str = ""

    def inside(self, prefix: str) -> Layer:
        return replace(self, name=f"{prefix}.{self.name}")

    def numbered(self, block: int) -> Layer:
        return replace(self, name=self.name.replace("{i}", str(block)))

    def shape(self, config: Any) -> tuple[int, ...]:
        return tuple(getattr(config, size) for size in (self.rows, self.columns) if size)

    def parameters(self, config: Any) -> tuple[LayerParameter, ...]:
        """The layer's parameters: weight, then bias."""
        shape = self.shape(config)
        weight = LayerParameter(f"{self.name}.weight", shape, self.role.weight_axis, self)
        if not self.bias:
            return (weight,)
        return weight, LayerParameter(f"{self.name}.bias", shape[:1], self.role.bias_axis, self)


def norms_of(layers: Sequence[Layer]) -> list[Layer]:
    return [layer for layer in layers if layer.role in (LAYER_NORM, RMS_NORM)]


@dataclass(frozen=True)
class ParameterTable:
    """A family's layers, in the order of its parameters, by the pipeline stage that has them. `first`: of the first
    stage. `block`: of one block, named relative to it; blocks are distributed evenly. `last`: of the last stage;
    `last_blocks` of them count as blocks when the blocks are distributed. `fused`: layers of a block that the
    original's PyTorch classes compute as one. Their adapters share the factor A, as in PEFT."""

    first: tuple[Layer, ...]
    block: tuple[Layer, ...]
    last: tuple[Layer, ...]
    last_blocks: int = 0
    fused: tuple[tuple[str, ...], ...] = ()

    @property
    def patterns(self) -> tuple[Layer, ...]:
        return (*self.first, *(layer.inside(BLOCK) for layer in self.block), *self.last)

    def layers(self, num_layers: int) -> Iterator[Layer]:
        """Every layer of a model with `num_layers` blocks, except the copies."""
        yield from self.first
        for i in range(num_layers):
            yield from (layer.inside(BLOCK).numbered(i) for layer in self.block)
        yield from (layer for layer in self.last if not layer.copy_of)

    def layer(self, name: str) -> Layer:
        """The layer of that name: a full name, or one relative to a block if no layer outside the blocks has it."""
        pattern = re.sub(r"^blocks\.(\d+|\{i\})\.", "", name)
        places = self.block if pattern != name else (*self.first, *self.last, *self.block)
        match = next((layer for layer in places if layer.name == pattern), None)
        if match is None:
            raise KeyError(f"no layer {name} in the family's table")
        return match

    def has_factor(self, name: str, adapted: Collection[str]) -> str:
        """The layer that has the factor A of the adapter of layer `name`: the first of the `adapted` ones that are
        fused with it. Names are full, or relative to a block."""
        own = re.sub(r"^blocks\.\d+\.", "", name)
        prefix = name.removesuffix(own)
        together = next((layers for layers in self.fused if own in layers), (own,))
        return next(prefix + layer for layer in together if prefix + layer in adapted)
