"""The cost of adapters (LoRA) in a block: two narrow products next to a frozen one, and a first block whose backward
pass ends at its first adapter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from ms_codegeex.models.parameters import ROW, ParameterTable
from ms_codegeex.planning.cost_model import MatMul, MicroBatch, TensorCollective, Vector

INPUTS = ("attention.query", "attention.key", "attention.value")
WIDE = ("feed_forward.gate", "feed_forward.up")


@dataclass(frozen=True)
class Gradients:
    """Which inputs in a block have a gradient: that of the query; those of key and value; of attention, and of its
    output layer (`core`); of the wide layers; of the activation and of the last layer (`narrow`). `sums`: how many
    results of row-parallel layers have none."""

    query: bool = True
    block: bool = True
    core: bool = True
    wide: bool = True
    narrow: bool = True
    sums: int = 0

    @staticmethod
    def of(shape: MicroBatch, first: bool, side_by_side: bool) -> Gradients:
        """Return which inputs have a gradient. The first block under adapters has fewer: it reads a frozen table."""
        if not shape.adapted or not first:
            return Gradients()
        core = any(name in shape.adapted for name in INPUTS)
        output = core or "attention.output" in shape.adapted
        wide = output and not side_by_side
        narrow = wide or any(name in shape.adapted for name in WIDE)
        last = narrow or "feed_forward.down" in shape.adapted
        both = side_by_side and not shape.dropout  # both parts share one gradient
        return Gradients(False, False, core, wide, narrow, 0 if both else (not output) + (not last))

    def of_input(self, name: str) -> bool:
        """Return whether the input of this linear layer has a gradient."""
        if name in INPUTS:
            return self.query if name == "attention.query" else self.block
        return self.core if name == "attention.output" else self.wide if name in WIDE else self.narrow


def linear(
    product: MatMul, name: str, shape: MicroBatch, gradients: Gradients, table: ParameterTable
) -> Iterator[MatMul | Vector]:
    """Yield the products of a linear layer, frozen if others have adapters, and of its adapter. Fused layers of the
    `table` compute the narrow tensor once. With sequence parallelism, a row-parallel layer's is scattered by rows."""
    live = gradients.of_input(name)
    yield product if live and not shape.adapted else replace(product, left=live, right=not shape.adapted)
    if name in shape.adapted:
        m, k, n, rank, byte = product.m, product.k, product.n, shape.rank, shape.bytes
        first = table.has_factor(name, shape.adapted) == name
        if first:
            yield MatMul(f"{product.name} adapter down", m, k, rank, weight=True, left=live)
        if shape.sequence and table.layer(name).role is ROW:
            m //= shape.tensor
        yield MatMul(f"{product.name} adapter up", m, rank, n, weight=True, recompute=product.recompute)
        added, narrow = 3 * byte * m * n, byte * m * rank if first else 0
        dropped = byte * product.m * k if first and shape.adapter_dropout else 0
        mask, kept = 5 * dropped, narrow + dropped
        yield Vector(f"{product.name} adapter", added + mask + 2 * narrow, mask + 2 * narrow, kept)


def attention(operators: Iterable[MatMul | Vector], gradients: Gradients) -> Iterator[MatMul | Vector]:
    """Yield the operators between the projections, without a backward pass if nothing before them is trained."""
    for operator in operators:
        if gradients.core:
            yield operator
        elif isinstance(operator, MatMul):
            yield replace(operator, left=False, right=False, recompute="", replays=0)
        else:
            yield replace(operator, backward=0.0, recompute="")


def collectives(
    planned: Iterable[TensorCollective], shape: MicroBatch, gradients: Gradients, row_layers: Iterable[str]
) -> tuple[TensorCollective, ...]:
    """Return a block's collectives, with those of its row-parallel adapters, whose narrow results are summed over the
    devices, and without those of gradients that are not needed."""
    needed = list(planned)
    if not shape.adapted or shape.tensor == 1:
        return tuple(needed)
    missing = {
        "ReduceScatter": (not gradients.block) + (not gradients.wide),
        "AllGather" if shape.sequence else "AllReduce": gradients.sums,
    }
    for op, count in missing.items():
        for dead in [x for x in needed if x.phase == "backward" and x.op == op][:count]:
            needed.remove(dead)
    size = shape.bytes * shape.rows * shape.rank
    forward, backward = ("ReduceScatter", "AllGather") if shape.sequence else ("AllReduce", "AllReduce")
    phases = [(forward, "forward"), (backward, "backward")]
    phases += [(forward, "recompute")] if shape.recompute == "full" else []
    adapters = [name for name in row_layers if name in shape.adapted]
    needed += [TensorCollective(op, size, phase, shape.precision) for _ in adapters for op, phase in phases]
    return tuple(needed)
