"""What a compiled graph has that is slow on a GPU, beside the names that no graph should have (docs/gpu.md)."""

from __future__ import annotations

import math

from ms_codegeex.planning.operators import class_of
from ms_codegeex.rehearsal import mindir
from ms_codegeex.rehearsal.timeline.flatten import flatten
from ms_codegeex.rehearsal.worker import exported

SLOW = ("BiasAddGrad", "L2Loss")


def slow_operators(cell, batch: int, heads: int, length: int, vocabulary: int) -> set[str]:
    """Operators of `SLOW`, and elementwise ones whose result is [batch, heads, length, length], in whatever way the
    heads are grouped, or [rows, vocabulary], and which have an operand of another size."""
    large = {batch * heads * length**2: length, batch * length * vocabulary: vocabulary}
    found = set()
    for operator in flatten(mindir.parse(exported(cell)), 0, 0).operators:
        elementwise = class_of(operator.op).begins and class_of(operator.op).ends and operator.op != "Cast"
        for output in operator.outputs[:1]:
            size = math.prod(output.shape)
            if elementwise and size in large and output.shape[-1] == large[size]:
                sizes = {math.prod(given.shape) for given in operator.inputs}
                found |= {f"{operator.op} of {operator.scope}"} if sizes != {size} else set()
        found |= {operator.op} & set(SLOW)
    return found
