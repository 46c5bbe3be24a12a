"""What a compiled graph has that is slow on a GPU, beside the names that no graph should have (docs/hardware.md)."""

from __future__ import annotations

import math

import numpy as np
from flattened import flatten
from mindspore import Tensor

from ms_codegeex.extras.cluster.rehearsal import mindir
from ms_codegeex.extras.cluster.rehearsal.execution_program import exported

SLOW = ("BiasAddGrad", "L2Loss")
_ELEMENTWISE = """
    Abs Add AddN BitwiseAnd BitwiseOr BitwiseXor BroadcastTo Cos Div Divs Equal Exp FastGeLU FastGeLUGrad FloorDiv GeLU
    GeLUGrad Greater GreaterEqual IsFinite LeftShift Less LessScalar Log LogicalAnd LogicalNot Maximum Minimum Mul Muls
    Neg OneHot Ones OnesLike Pow ReLU RealDiv Reciprocal RightShift Rsqrt Select SiLU Sigmoid SigmoidGrad Sin Sqrt
    Square Sub Subs Tanh Tile Zeros ZerosLike"""
ELEMENTWISE = frozenset(_ELEMENTWISE.split())


def slow_operators(cell, batch: int, heads: int, length: int, vocabulary: int) -> set[str]:
    """Operators of `SLOW`; elementwise ones whose result is [batch, heads, length, length], in whatever way the heads
    are grouped, or [rows, vocabulary], and which have an operand of another size, or are a product with a number; and
    casts of [rows, vocabulary]."""
    large = {batch * heads * length**2: length, batch * length * vocabulary: vocabulary}
    found = set()
    for operator in flatten(mindir.parse(exported(cell))).operators:
        if operator.op == "Cast" and operator.outputs[0].shape == (batch * length, vocabulary):
            found.add(f"Cast of {operator.scope}")
        for output in operator.outputs[:1]:
            size = math.prod(output.shape)
            if operator.op in ELEMENTWISE and size in large and output.shape[-1] == large[size]:
                sizes = {math.prod(given.shape) for given in operator.inputs}
                by_number = operator.op == "Mul" and sizes == {1, size}
                name = "Mul with a number" if by_number else f"{operator.op} of {operator.scope}"
                found |= {name} if sizes != {size} else set()
        found |= {operator.op} & set(SLOW)
    return found


def decoding_graphs(network):
    """Compile what decoding runs: operators of the pass of single rows, of a prompt's, and of the readings, greedy
    without edits first."""
    slots, cells = network.sizes.slots, network._cells
    numbers = np.zeros((slots, 7), np.float32), np.zeros((slots, 1, 3), np.float32), np.zeros(1, np.int32)
    width = cells.head.table.shape[1]
    passes = [(network._passage, [np.zeros(shape, np.int32)]) for shape in ((3, slots, 1), (3, 1, 16))]
    passes += [
        (network._readings[choice], [np.zeros((slots, width), np.float32), *numbers])
        for choice in network._choices.values()
    ]
    graphs = []
    for number, (_, parameter) in enumerate(network._passage.parameters_and_names()):
        parameter.name = f"{number}.{parameter.name}"  # `compile` demands that names differ
    for cell, arrays in passes:
        cell.compile(*map(Tensor, arrays))
        graphs.append(operators_of(cell))
    return graphs


def operators_of(cell):
    """What the graph does that a cell has compiled or called last."""
    listed = flatten(mindir.parse(exported(cell))).operators
    return [each for each in listed if each.moved]


def slow_in_decoding(operators, cached: int) -> set[str]:
    """Operators that choose by a thread a row, move heads, or gather `cached` numbers or more."""
    found = {each.op for each in operators} & {"Argmax", "ArgMaxWithValue", "Transpose", "ReverseV2"}
    gathers = [each for each in operators if each.op == "Gather"]
    return found | {"Gather of a cache" for each in gathers if math.prod(each.outputs[0].shape) >= cached}
