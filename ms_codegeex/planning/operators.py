"""The cost of operators, whether a plan lists them from a model's sizes or they are found in a compiled graph. Products
run at a share of the peak (`matmul_seconds`) unless their traffic takes longer. Other operators move their bytes at the
full bandwidth of the memory; those that only rename a tensor take no time. A kernel of several operators takes the time
of its products and of the bytes that it moves in addition."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ms_codegeex.base.hardware import Chip
from ms_codegeex.planning.cost_model import TILE, MatMul, causal_share

MATMUL_PEAK = 0.89
K_START = 20


# What sets an operator's cost. All others read their inputs and write their outputs.
_KINDS = {
    "nothing": """Depend Entry ExpandDims Flatten Join Load MakeTuple Partial Reshape Squeeze StopGradient Switch
        TupleGetItem UpdateState""",
    "product": "BatchMatMul Dense MatMul FlashAttentionScore FlashAttentionScoreGrad",
    "copy": "Assign Gather OneHot StridedSlice",
    "update": "AdamW AdamWeightDecay FusedAdamWeightDecay",
}
_KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names.split()}


def is_product(op: str) -> bool:
    return _KIND_OF.get(op) == "product"


def moved_bytes(op: str, inputs: Sequence[int], outputs: Sequence[int]) -> int:
    """Return the bytes that an operator of its own kernel reads and writes. One that selects or copies reads as much as
    it writes. An update reads and writes its first three inputs, and reads the last. `inputs`, `outputs`: bytes."""
    kind = _KIND_OF.get(op)
    if kind == "nothing":
        return 0
    if kind == "copy":
        return 2 * sum(outputs)
    if kind == "update":
        return 2 * sum(inputs[:3]) + inputs[-1]
    return sum(inputs) + sum(outputs)


def attention_products(queries: int, keys: int, head: int, heads: int, causal: bool) -> tuple[MatMul, MatMul]:
    """Return the products of a fused attention over all heads. Its scores never leave the chip, and its backward kernel
    computes them again. With `causal`, tiles after the diagonal are skipped."""
    kept = {"stored_output": False, "share": causal_share(keys) if causal else 1.0}
    scores = MatMul("scores", queries, head, keys, heads, replays=1, **kept)
    return scores, MatMul("context", queries, keys, head, heads, **kept)


def products_of(
    op: str, inputs: Sequence[tuple[int, ...]], output: tuple[int, ...], causal: bool = False
) -> list[MatMul]:
    """Return the matrix products of an operator in a graph, from the shapes of its inputs and first output; an empty
    list for other operators. A fused attention's inputs are queries and keys [batch, heads, positions, head]."""
    if not is_product(op):
        return []
    if op.startswith("FlashAttention"):
        *batch, rows, head = inputs[0]
        scores, context = attention_products(rows, inputs[1][-2], head, math.prod(batch), causal)
        again = [replace(scores, replays=0)] * scores.replays
        return [*again, *scores.transposed(), *context.transposed()] if op.endswith("Grad") else [scores, context]
    left = inputs[0]
    inner = left[-1] * left[-2] // output[-2]  # valid whether transposed or not
    return [MatMul(op, output[-2], inner, output[-1], math.prod(output[:-2]))]


def whole_tiles(m: int, n: int) -> float:
    return math.prod(x / (math.ceil(x / TILE) * TILE) for x in (m, n))


def matmul_seconds(product: MatMul, chip: Chip, precision: str) -> float:
    """Return the time of one pass of a product."""
    precision = "fp32" if product.fp32 else precision
    byte = 4 if precision == "fp32" else 2
    own = chip.calibration
    share, start = (own.matmul_share, own.matmul_start) if own else (MATMUL_PEAK, K_START)
    efficiency = share * product.k / (product.k + start) * whole_tiles(product.m, product.n)
    arithmetic = product.whole / (chip.peak(precision) * efficiency)
    elements = product.m * product.k + product.k * product.n + product.m * product.n
    if not product.stored_output:  # scores of a fused attention: only the narrow operands move
        elements = min(product.m, product.n, product.k) * (product.m + product.n + product.k)
    return max(arithmetic, product.batch * elements * byte / chip.memory_bandwidth)


def kernel_seconds(products: Iterable[MatMul], moved: float, chip: Chip, precision: str) -> float:
    """Return the time of a kernel with these products that moves `moved` further bytes."""
    return sum(matmul_seconds(x, chip, precision) for x in products) + moved / chip.memory_bandwidth
