"""One rank's training step as a flat list of operators, without the engine: what the timeline is computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

BYTES = {"float64": 8, "int64": 8, "uint64": 8, "float32": 4, "int32": 4, "uint32": 4, "float16": 2, "bfloat16": 2}
BYTES |= {"int16": 2, "uint16": 2, "int8": 1, "uint8": 1, "bool": 1}

# Operators that move no data: their result is their first input, or nothing.
ALIASES = frozenset({"Depend", "Load", "Reshape", "TupleGetItem", "MakeTuple", "UpdateState", "ExpandDims", "Squeeze"})
ALIASES |= {"Flatten", "StopGradient", "Join", "Entry", "Switch", "Partial"}
# Operators that write into their first input.
IN_PLACE = frozenset({"Assign", "AssignAdd", "AssignSub", "AdamWeightDecay", "ApplyMomentum", "FusedAdamWeightDecay"})
POINT_TO_POINT = ("Send", "Receive")
COLLECTIVES = ("AllReduce", "AllGather", "ReduceScatter", "AlltoAll", "Broadcast", *POINT_TO_POINT)
MATMULS = ("MatMul", "BatchMatMul", "Dense", "FlashAttentionScore", "FlashAttentionScoreGrad")


@dataclass(frozen=True)
class Tensor:
    """Shape and element type of a tensor on this rank."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Size in memory; 0 for an unknown type."""
        return prod(self.shape) * BYTES.get(self.dtype, 0)


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
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    scope: str = ""
    micro: int | None = None
    message: Message | None = None


@dataclass(frozen=True)
class StepProgram:
    """The step of one rank: its operators in an order in which each stands after those it waits for, and bytes of each
    parameter."""

    rank: int
    stage: int
    operators: tuple[Operator, ...]
    parameters: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` reads."""
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> StepProgram:
        """The inverse of `to_json`."""
        listed = tuple(_operator(x) for x in values["operators"])
        return StepProgram(values["rank"], values["stage"], listed, dict(values["parameters"]))


def _operator(values: dict[str, Any]) -> Operator:
    message = values["message"]
    return Operator(
        **{
            **values,
            "waits": tuple(values["waits"]),
            "reads": tuple(values["reads"]),
            "inputs": _tensors(values["inputs"]),
            "outputs": _tensors(values["outputs"]),
            "message": message and Message(**{**message, "ranks": tuple(message["ranks"])}),
        }
    )


def _tensors(listed: Sequence[dict[str, Any]]) -> tuple[Tensor, ...]:
    return tuple(Tensor(tuple(x["shape"]), x["dtype"]) for x in listed)
