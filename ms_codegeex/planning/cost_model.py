"""What a device computes in one micro-batch, as data: matrix products, vector work and collectives of a model's parts.
`model_parts.py` lists them for a model. All sizes are those of one device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ms_codegeex.base.hardware import Chip
from ms_codegeex.config.chosen_hardware import documents_of_a_row, flat_cells, fused_kernels
from ms_codegeex.parallel.sharding import recompute_of_blocks

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig


def runs_again(setting: str, minimum: str) -> bool:
    """Whether the backward pass repeats an operator. `setting`: what its block recomputes: none, selective or full.
    `minimum`: the cheapest setting that repeats this operator: selective or full; "" if none does."""
    return bool(minimum) and setting in ("full", minimum)


TILE = 128  # rows and columns that a kernel for products computes together


def causal_share(tokens: int) -> float:
    tiles = math.ceil(tokens / TILE)
    return (tiles + 1) / (2 * tiles)


@dataclass(frozen=True)
class MatMul:
    """`batch` products [m, k] x [k, n]. `weight`: the right operand is a parameter, held in FP32 and cast before each
    use. `replays`: forward products that a fused backward kernel repeats although nothing is recomputed. `recompute`:
    the least setting that runs it again in the backward pass ("" never: nothing there needs its result). `left`,
    `right`: whether the backward pass needs the gradient of that operand. `stored_output`: the result goes through
    device memory, not only through the chip (a fused attention's does not). `fp32`: computed in FP32 whatever the
    precision of the run. `share`: the part of it that is computed, in the time of the whole: what a fused attention
    skips, its softmax takes (docs/plan.md)."""

    name: str
    m: int
    k: int
    n: int
    batch: int = 1
    weight: bool = False
    recompute: str = "full"
    replays: int = 0
    stored_output: bool = True
    saved: float = 0.0
    left: bool = True
    right: bool = True
    fp32: bool = False
    share: float = 1.0

    @property
    def flops(self) -> int:
        return round(self.whole * self.share)

    @property
    def whole(self) -> int:
        return 2 * self.batch * self.m * self.k * self.n

    def transposed(self) -> tuple[MatMul, ...]:
        """The products of the backward pass: gradient of the left and of the right operand, where they are needed."""
        kept = {"stored_output": self.stored_output, "fp32": self.fp32, "share": self.share}
        left = MatMul(self.name, self.m, self.n, self.k, self.batch, **kept)
        right = MatMul(self.name, self.k, self.m, self.n, self.batch, **kept)
        return tuple(product for product, needed in ((left, self.left), (right, self.right)) if needed)


@dataclass(frozen=True)
class Vector:
    """Element-wise work and reductions, costed by the bytes they move through device memory. `saved`: bytes kept for
    the backward pass. `transient`: bytes alive only while its backward runs."""

    name: str
    forward: float
    backward: float
    saved: float = 0.0
    transient: float = 0.0
    recompute: str = "full"


@dataclass(frozen=True)
class TensorCollective:
    """A collective inside the tensor-parallel group: `op` of a tensor of `size` bytes in `phase`."""

    op: str
    size: int
    phase: str  # forward, backward or recompute
    dtype: str


@dataclass(frozen=True)
class ModelPart:
    """`count` equal parts of a model on one stage that recompute `recompute`: none, selective or full. `kept`: bytes of
    its input that full recomputation keeps. `virtual_stage`: the one of its stage, from 0."""

    name: str
    stage: int
    count: int
    operators: tuple[MatMul | Vector, ...]
    collectives: tuple[TensorCollective, ...] = ()
    kept: float = 0.0
    recompute: str = "none"
    virtual_stage: int = 0


@dataclass(frozen=True)
class MicroBatch:
    """What the operators of one device for one micro-batch depend on, apart from the model's sizes. `blocks`: what each
    block recomputes, for each virtual stage of all `stages` in the order of the layers; `tail`: the same of blocks
    after the others; `recompute`: what this one does. `adapted`: the linear layers of a block with adapters of `rank`;
    none: all weights are trained. `shards`: replicas over which weights are sharded that are cast once a step;
    `micro_batches`: of a step. `saved_all_reduces`: recomputation finds the results of tensor-parallel all-reduces
    saved. `kept_masks`: MindSpore keeps masks of composed dropout that are to be computed again: Ascend's back end
    merges both (MindSpore 2.9). A part of a micro-batch counts as one. `documents`: how many of a row attention takes
    by their ends; 0: it takes a mask. `flat`: the cells are those of `models/flat.py`."""

    sequences: int
    seq_length: int
    replicas: int
    tensor: int
    blocks: tuple[tuple[str, ...], ...]
    tail: tuple[str, ...]
    sequence: bool
    vocabulary: bool
    precision: str
    dropout: bool
    attention_dropout: bool
    recompute: str
    fused: frozenset[str]
    adapted: frozenset[str] = frozenset()
    rank: int = 0
    adapter_dropout: bool = False
    shards: int = 1
    micro_batches: int = 1
    saved_all_reduces: bool = False
    kept_masks: bool = False
    stages: int = 1
    documents: int = 0
    flat: bool = False

    @property
    def rows(self) -> int:
        return self.sequences * self.seq_length

    @property
    def mask_needs_input(self) -> bool:
        """Whether recomputation has to repeat what a dropout is applied to: a kernel's mask comes with its result."""
        return self.dropout and "dropout" in self.fused

    @property
    def graph_kernel(self) -> bool:
        return "graph_kernel" in self.fused

    @property
    def bytes(self) -> int:
        """Bytes of an activation."""
        return 4 if self.precision == "fp32" else 2


def shape_of(config: RunConfig, chip: Chip) -> MicroBatch:
    """One micro-batch of this run, or one of its parts."""
    mesh, training, sizes = config.mesh, config.training, config.model.sizes
    overlap = config.parallel.overlap
    settings, fused = recompute_of_blocks(config), fused_kernels(config, chip.fused)
    blocks: list[list[str]] = [[] for _ in range(mesh.pipeline * mesh.virtual_stages)]
    for layer in range(sizes.num_layers):
        blocks[mesh.part_of(layer, sizes.attention_layers)].append(settings[layer])
    return MicroBatch(
        sequences=config.micro_batch // overlap.parts,
        seq_length=config.seq_length,
        replicas=mesh.data,
        tensor=mesh.tensor,
        blocks=tuple(map(tuple, blocks)),
        tail=settings[sizes.num_layers :],
        sequence=config.parallel.sequence,
        vocabulary=config.parallel.vocabulary,
        precision=training.precision,
        dropout=training.dropout > 0,
        attention_dropout=training.attention_rate > 0,
        recompute=training.recompute,
        fused=fused,
        adapted=_adapted(config),
        rank=config.lora.rank,
        adapter_dropout=config.lora.rank > 0 and config.lora.dropout > 0,
        shards=mesh.optimizer_shard if overlap.parts == 1 or config.accumulation > 1 else 1,
        micro_batches=config.graph_micro_batches * overlap.parts,
        saved_all_reduces=not overlap.recompute_collectives,
        kept_masks=chip.kind == "ascend",
        stages=mesh.pipeline,
        documents=documents_of_a_row(config) if "attention" in fused else 0,
        flat=flat_cells(config),
    )


def _adapted(config: RunConfig) -> frozenset[str]:
    names = config.model.sizes.adapted_layers(config.lora.targets) if config.lora.rank else ()
    return frozenset(".".join(name.split(".")[-2:]) for name in names)


def executed_products(part: ModelPart) -> list[MatMul]:
    """Every matrix product of one part in one micro-batch: forward, backward, and what is run again."""
    products: list[MatMul] = []
    for operator in part.operators:
        if isinstance(operator, MatMul):
            again = operator.replays + runs_again(part.recompute, operator.recompute)
            products += [operator] * (1 + again) + list(operator.transposed())
    return products
