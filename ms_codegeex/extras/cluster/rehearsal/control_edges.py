"""Makes the control edges of constants in an exported graph (MindIR) hold on a CPU.

`Depend(value, others)` says that whoever reads the value waits for the others. A CPU keeps this order only if the value
is computed: a constant exists before the step begins, and the edge is lost. MindSpore writes such edges for gradients
that it has already added to their buffers: what the graph keeps of them is a constant that depends on the additions.

`hold` replaces each of these nodes by a Python function that returns the constant and takes what it waits for as
further arguments. So an edge of the graph becomes an input. No order is added that the graph does not state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ms_codegeex.extras.cluster.rehearsal import mindir

if TYPE_CHECKING:
    from mindspore.train.mind_ir_pb2 import GraphProto, ModelProto, NodeProto

    from ms_codegeex.extras.cluster.rehearsal.mindir import TensorType

FUNCTION = 0  # number of the Python function that returns its first argument; those of communication begin with 1


def hold(model: ModelProto, library: Path) -> int:
    """Replace every Depend of a constant tensor, in place; returns how many there were. Other constants stay. `library`
    has the operator that calls Python (`callbacks.py`)."""
    from mindspore.train.mind_ir_pb2 import GraphProto

    types, count = mindir.tensor_types(model), 0
    kinds = {primitive.name: primitive.op_type for primitive in model.primitives}
    for graph in (model.graph, *model.functions):
        made = {node.output[0]: node for node in graph.node if node.output}
        rewritten = GraphProto()
        for node in graph.node:
            constant = _kind(node, kinds) == "Depend" and _kind(made.get(node.input[0]), kinds) == "Constant"
            if not constant or node.output[0] not in types:
                rewritten.node.add().CopyFrom(node)
                continue
            count += 1
            name, kind = f"rehearsal_held_{count}", types[node.output[0]]
            inputs = {node.input[0]: kind}
            for source in _tensors(node.input[1], made, kinds, types, set()):
                inputs |= _elements(model, rewritten, made[source], types, f"{name}_{len(inputs)}")
            mindir.add_call(model, rewritten, node, library, FUNCTION, inputs, kind)
        del graph.node[:]
        graph.node.MergeFrom(rewritten.node)
    return count


def _kind(node: NodeProto | None, kinds: Mapping[str, str]) -> str | None:
    if node is None or node.op_type == "Constant":
        return node and node.op_type
    return kinds.get(node.op_type.removeprefix("REF::"))


def _tensors(
    name: str, made: Mapping[str, NodeProto], kinds: Mapping[str, str], types: Mapping[str, TensorType], seen: set[str]
) -> Iterator[str]:
    node = made.get(name)
    if node is None or name in seen:
        return
    seen.add(name)
    kind = _kind(node, kinds)
    if kind == "Constant":
        return
    orders = kind in ("Depend", "Load", "MakeTuple", "UpdateState")
    if not orders and (name in types or (kind is None and mindir.output_types(node))):
        yield name
        return
    for source in (*node.input, node.op_type.removeprefix("REF::")):
        yield from _tensors(source, made, kinds, types, seen)


def _elements(
    model: ModelProto, graph: GraphProto, node: NodeProto, types: Mapping[str, TensorType], prefix: str
) -> dict[str, TensorType]:
    from mindspore.train.mind_ir_pb2 import AttributeProto, NodeProto

    if node.output[0] in types:
        return {node.output[0]: types[node.output[0]]}
    elements = {}
    for index, kind in mindir.element_types(node):
        name = f"{prefix}_{index}"
        template = NodeProto(name=name, output=[name], domain=node.domain)
        shape = template.attribute.add(name="shape", type=AttributeProto.TENSORS)
        shape.tensors.add(dims=kind.shape, data_type=mindir.data_type(kind))
        mindir.add_item(model, graph, node.output[0], index, template)
        elements[name] = kind
    return elements
