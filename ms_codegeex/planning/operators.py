"""What operators cost: one table for the plan, which lists a model's operators from its sizes, and for the timeline,
which finds them in compiled graphs. An operator's class says what limits it. Products run at a share of the peak
(`matmul_seconds`) unless their traffic takes longer. All others take the bytes that they move at the full bandwidth of
the memory, and those that only give a tensor another name take nothing. A kernel of several operators takes the time of
its products and of the bytes beside these."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ms_codegeex.base.hardware import Chip
from ms_codegeex.planning.cost_model import TILE, MatMul, causal_share

MATMUL_PEAK = 0.89
K_START = 20


@dataclass(frozen=True)
class OperatorClass:
    """How operators of one kind are costed and fused. `moves`: "all" reads its inputs and writes its outputs; "twice"
    selects or copies, and reads as much as it writes; "update" reads and writes its first three inputs and reads the
    last; "" moves nothing. `product`: a matrix product. `begins`: it can stand before another one in a kernel; `ends`:
    it can take others before it into its kernel. `in_place`: it writes into its first input. `data`: it has a tensor as
    its result."""

    moves: str = "all"
    product: bool = False
    begins: bool = False
    ends: bool = False
    in_place: bool = False
    data: bool = True


OTHER = OperatorClass()
_CLASSES = {
    OperatorClass("", data=False): "Entry Join Partial Switch UpdateState",
    OperatorClass(""): "Depend Flatten Load MakeTuple Squeeze StopGradient TupleGetItem",
    OperatorClass("", begins=True): "ExpandDims Reshape",
    OperatorClass(product=True, begins=True): "BatchMatMul Dense MatMul",
    OperatorClass(product=True): "FlashAttentionScore FlashAttentionScoreGrad",
    OperatorClass(begins=True, ends=True): """
        Abs Add AddN BitwiseAnd BitwiseOr BitwiseXor BroadcastTo Cast Cos Div Divs Equal Exp FastGeLU FastGeLUGrad
        FloorDiv GeLU GeLUGrad Greater GreaterEqual IsFinite LeftShift Less LessScalar Log LogicalAnd LogicalNot Maximum
        Minimum Mul Muls Neg Ones OnesLike Pow ReLU RealDiv Reciprocal RightShift Rsqrt Select SiLU Sigmoid SigmoidGrad
        Sin Sqrt Square Sub Subs Tanh Tile Zeros ZerosLike""",
    OperatorClass("twice", begins=True, ends=True): "OneHot",
    OperatorClass("twice"): "Gather StridedSlice",
    OperatorClass(ends=True): "ReduceMax ReduceMean ReduceSum Softmax SoftmaxBackward SumExt",
    OperatorClass("twice", in_place=True): "Assign",
    OperatorClass(in_place=True): "ApplyMomentum AssignAdd AssignSub",
    OperatorClass("update", in_place=True): "AdamWeightDecay FusedAdamWeightDecay",
}
_TABLE = {name: each for each, names in _CLASSES.items() for name in names.split()}


def class_of(op: str) -> OperatorClass:
    """The class of a kind of operator; one that is not in the table moves its inputs and outputs."""
    return _TABLE.get(op, OTHER)


def moved_bytes(op: str, inputs: Sequence[int], outputs: Sequence[int]) -> int:
    """Bytes that an operator on its own reads and writes, from those of its inputs and outputs."""
    moves, written = class_of(op).moves, sum(outputs)
    if moves == "twice":
        return 2 * written
    if moves == "update":
        return 2 * sum(inputs[:3]) + inputs[-1]
    return sum(inputs) + written if moves else 0


def attention_products(queries: int, keys: int, head: int, heads: int, causal: bool) -> tuple[MatMul, MatMul]:
    """The products of a fused attention over all heads, whose scores never leave the chip; its backward kernel computes
    the scores again. A `causal` one leaves out the tiles after the diagonal."""
    kept = {"stored_output": False, "share": causal_share(keys) if causal else 1.0}
    scores = MatMul("scores", queries, head, keys, heads, replays=1, **kept)
    return scores, MatMul("context", queries, keys, head, heads, **kept)


def products_of(
    op: str, inputs: Sequence[tuple[int, ...]], output: tuple[int, ...], causal: bool = False
) -> list[MatMul]:
    """The matrix products of an operator in a graph, from the shapes of its inputs and of its first output; empty if it
    is none. Of a fused attention, inputs are queries and keys [batch, heads, positions, head]."""
    if not class_of(op).product:
        return []
    if op.startswith("FlashAttention"):
        *batch, rows, head = inputs[0]
        scores, context = attention_products(rows, inputs[1][-2], head, math.prod(batch), causal)
        again = [replace(scores, replays=0)] * scores.replays
        return [*again, *scores.transposed(), *context.transposed()] if op.endswith("Grad") else [scores, context]
    left = inputs[0]
    inner = left[-1] * left[-2] // output[-2]  # whether transposed or not
    return [MatMul(op, output[-2], inner, output[-1], math.prod(output[:-2]))]


def whole_tiles(m: int, n: int) -> float:
    """The part of a product's work that is left after rounding rows and columns up to whole tiles."""
    return math.prod(x / (math.ceil(x / TILE) * TILE) for x in (m, n))


def matmul_seconds(product: MatMul, chip: Chip, precision: str) -> float:
    """Time of one pass of a product."""
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
    """Time of a kernel with these products that moves `moved` bytes beside theirs."""
    return sum(matmul_seconds(x, chip, precision) for x in products) + moved / chip.memory_bandwidth
