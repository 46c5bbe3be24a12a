"""One rank's training step as a flat list of operators, without MindSpore: what the timeline is computed from."""

from __future__ import annotations

from dataclasses import dataclass

from ms_codegeex.extras.cluster.rehearsal.mindir import TensorType
from ms_codegeex.planning.cost_model import MatMul
from ms_codegeex.planning.operators import OperatorClass, class_of, moved_bytes, products_of


@dataclass(frozen=True)
class Message:
    """The communication of an operator. `tag` is the same on all ranks of one message and differs between messages."""

    ranks: tuple[int, ...]
    bytes: int  # the whole tensor
    tag: str
    fusion: int = 0  # operators of one group and one number above 0 are sent as one


@dataclass(frozen=True)
class Operator:
    """One operator that a step runs once.

    `waits`: numbers of the operators before which it does not start. `reads`: for each input the number of the
    operator that made it, or the name of a parameter, or None for a constant; `inputs` are their types. `scope`: its
    place in the model. `micro`: the micro-batch, where the graph says it.
    """

    op: str
    waits: tuple[int, ...]
    reads: tuple[int | str | None, ...] = ()
    inputs: tuple[TensorType, ...] = ()
    outputs: tuple[TensorType, ...] = ()
    scope: str = ""
    micro: int | None = None
    message: Message | None = None

    @property
    def costed(self) -> OperatorClass:
        """How it is costed; not that of a message."""
        return class_of(self.op)

    @property
    def alias(self) -> bool:
        """Whether it moves no data: its result is its first input, or it has none."""
        return not self.costed.moves

    @property
    def products(self) -> list[MatMul]:
        """Its matrix products; none for most."""
        return (
            products_of(self.op, [x.shape for x in self.inputs], self.outputs[0].shape) if self.costed.product else []
        )

    @property
    def moved(self) -> int:
        """Bytes that it reads and writes on its own."""
        return moved_bytes(self.op, [x.bytes for x in self.inputs], [x.bytes for x in self.outputs])


@dataclass(frozen=True)
class StepProgram:
    """The step of one rank: its operators in an order in which each stands after those it waits for, and bytes of each
    parameter."""

    rank: int
    stage: int
    operators: tuple[Operator, ...]
    parameters: dict[str, int]
