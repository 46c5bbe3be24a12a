"""What a device computes in one micro-batch, as data: matrix products, vector work and collectives of a model's parts.

`model_parts.py` lists them for a model. All sizes are those of one device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ms_codegeex.config.fusions import fused_kernels
from ms_codegeex.hardware import Device

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig


@dataclass(frozen=True)
class MatMul:
    """`batch` products [m, k] x [k, n].

    `weight`: the right operand is a parameter, held in FP32 and cast before each use. `replays`: forward products that
    a fused backward kernel repeats although nothing is recomputed. `recompute`: the least setting that runs it again
    in the backward pass ("" never: nothing there needs its result).
    `stored_output`: the result goes through device memory, not only through the chip (a fused attention's does not).
    """

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

    @property
    def flops(self) -> int:
        """FLOPs of one pass, two per multiply-add."""
        return 2 * self.batch * self.m * self.k * self.n

    def transposed(self) -> tuple[MatMul, MatMul]:
        """The two products of the backward pass: gradient of the left and of the right operand."""
        left = MatMul(self.name, self.m, self.n, self.k, self.batch, stored_output=self.stored_output)
        right = MatMul(self.name, self.k, self.m, self.n, self.batch, stored_output=self.stored_output)
        return left, right


@dataclass(frozen=True)
class Vector:
    """Element-wise work and reductions, costed by the bytes they move through device memory.

    `saved`: bytes kept for the backward pass. `transient`: bytes alive only while its backward runs.
    """

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
    """`count` equal parts of a model on one stage. `kept`: bytes of its input that full recomputation keeps.

    A part that is not `recomputed` keeps what its operators save, whatever the setting.
    """

    name: str
    stage: int
    count: int
    operators: tuple[MatMul | Vector, ...]
    collectives: tuple[TensorCollective, ...] = ()
    kept: float = 0.0
    recomputed: bool = True


@dataclass(frozen=True)
class MicroBatch:
    """What the operators of one device for one micro-batch depend on, apart from the model's sizes."""

    sequences: int
    seq_length: int
    replicas: int
    tensor: int
    stages: int
    sequence: bool
    vocabulary: bool
    precision: str
    dropout: bool
    recompute: str
    fused: frozenset[str]

    @property
    def rows(self) -> int:
        """Tokens of a micro-batch of a replica."""
        return self.sequences * self.seq_length

    @property
    def mask_needs_input(self) -> bool:
        """Whether recomputation has to repeat what a dropout is applied to: a kernel's mask comes with its result."""
        return self.dropout and "dropout" in self.fused

    @property
    def bytes(self) -> int:
        """Bytes of an activation."""
        return 4 if self.precision == "fp32" else 2


def shape_of(config: RunConfig, device: Device) -> MicroBatch:
    """One micro-batch of this run."""
    mesh, training = config.mesh, config.training
    return MicroBatch(
        sequences=config.micro_batch,
        seq_length=config.seq_length,
        replicas=mesh.data,
        tensor=mesh.tensor,
        stages=mesh.pipeline,
        sequence=config.parallel.sequence,
        vocabulary=config.parallel.vocabulary,
        precision=training.precision,
        dropout=training.dropout > 0,
        recompute=training.recompute,
        fused=fused_kernels(config, device.fused),
    )


def runs_again(operator: MatMul | Vector, part: ModelPart, recompute: str) -> bool:
    """Whether the backward pass repeats this operator's forward."""
    if not part.recomputed or not operator.recompute:
        return False
    return recompute == "full" or recompute == operator.recompute


def executed_products(part: ModelPart, recompute: str) -> list[MatMul]:
    """Every matrix product of one part in one micro-batch: forward, backward, and what is run again."""
    products: list[MatMul] = []
    for operator in part.operators:
        if isinstance(operator, MatMul):
            again = operator.replays + runs_again(operator, part, recompute)
            products += [operator] * (1 + again) + list(operator.transposed())
    return products
