"""Reads one rank's training graph as MindSpore exports it (MindIR, a protobuf): collectives, parameters, FLOPs.

`rewrite` makes the graph run on a CPU: every communication node becomes a call of a Python function, and nothing else
changes. Functions of a graph (lazily inlined blocks, branches) run once per mention, so nodes are counted by calls.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.parallel.context import ranks_in_group_name
from ms_codegeex.planning.operators import is_product, products_of

if TYPE_CHECKING:
    from mindspore.train.mind_ir_pb2 import AttributeProto, GraphProto, ModelProto, NodeProto, PrimitiveProto

POINT_TO_POINT = ("Send", "Receive")
COMMUNICATION = ("AllReduce", "AllGather", "ReduceScatter", "AlltoAll", "Broadcast", *POINT_TO_POINT)
PRE_TOKENS, NEXT_TOKENS = -5, -4  # inputs of a fused attention: how many earlier and later tokens a token sees
# Of norms, softmax, loss and optimizer, which compute in FP32 in a run of any precision.
SOFTMAX = ("Softmax", "SoftmaxBackward")
WIDE = ("ReduceMean", "Rsqrt", "RsqrtGrad", "Square", "LayerNorm", "LayerNormGrad", "RmsNorm", "RmsNormGrad", *SOFTMAX)
WIDE += ("Exp", "Log", "ReduceMax", "AssignAdd", "AdamW", "AdamWeightDecay")
ITEM, TUPLE, CALL = "rehearsal_item", "rehearsal_tuple", "rehearsal_call"  # names of added primitives
BYTES = {"float64": 8, "int64": 8, "uint64": 8, "float32": 4, "int32": 4, "uint32": 4, "float16": 2, "bfloat16": 2}
BYTES |= {"int16": 2, "uint16": 2, "int8": 1, "uint8": 1, "bool": 1}
PROTO_NAMES = {"float32": "FLOAT", "float64": "DOUBLE"}  # element types with another name in the protobuf


@dataclass(frozen=True)
class TensorType:
    """Shape and element type of a tensor as this rank holds it."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Size in memory in bytes; 0 for an unknown type."""
        return math.prod(self.shape) * BYTES.get(self.dtype, 0)


@dataclass(frozen=True)
class CollectiveNode:
    """One communication node of one rank's graph."""

    op: str
    ranks: tuple[int, ...]  # global ranks in the order of the group
    shape: tuple[int, ...]  # the output's
    input_shape: tuple[int, ...]  # () if there is no input
    dtype: str
    bytes: int  # the larger of input and output: the whole tensor, of which ranks may hold shards
    calls: int  # how often a step runs the node
    fusion: int  # nodes with the same op, group and fusion id > 0 are sent as one; 0 is never fused
    name: str  # its path in the model, for example "Default/network-Loss/…/MatMul-op0"
    tag: str  # the same on all ranks that take part, different for every node of a rank
    reduce: str = "sum"
    peer: int | None = None  # global rank a Send goes to or a Receive comes from
    root: int = 0  # index in `ranks` of a Broadcast's source
    split_count: int | None = None  # AlltoAll
    split_dim: int | None = None
    concat_dim: int | None = None


def parse(data: bytes) -> ModelProto:
    """The exported graph in these bytes."""
    from mindspore.train import mind_ir_pb2

    return mind_ir_pb2.ModelProto.FromString(data)


def collectives(model: ModelProto, rank: int) -> list[CollectiveNode]:
    """The communication nodes of global rank `rank`, in the order in which `rewrite` numbers them."""
    seen: Counter[str] = Counter()
    nodes = []
    for node in communication_nodes(model):
        attributes = attributes_of(node.primitive)
        ranks = _members(attributes)
        if rank not in ranks:
            raise RunFailure(
                f"{node.proto.domain}: {node.op} of ranks {list(ranks)} in the graph of rank {rank}; the graph must be "
                "this rank's, compiled under semi_auto_parallel"
            )
        given = node.given if node.given and node.op != "Receive" else None  # the input of a Receive only orders it
        tag, peer = message_tag(node.op, ranks, rank, attributes)
        nodes.append(
            CollectiveNode(
                op=node.op,
                ranks=ranks if peer is None else tuple(sorted((rank, peer))),
                shape=node.output.shape,
                input_shape=given.shape if given else (),
                dtype=node.output.dtype,
                bytes=max(node.output.bytes, given.bytes if given else 0),
                calls=node.calls,
                fusion=attributes.get("fusion", 0),
                name=node.proto.domain,
                tag=f"{tag}-{seen[tag]}",
                reduce=attributes.get("op", "sum"),
                peer=peer,
                root=attributes.get("root_rank", 0),
                **{key: attributes.get(key) for key in ("split_count", "split_dim", "concat_dim")},
            )
        )
        seen[tag] += 1
    return nodes


def _members(attributes: Mapping[str, Any]) -> tuple[int, ...]:
    return ranks_in_group_name(attributes.get("group", "")) or tuple(attributes.get("group_rank_ids", ()))


def communicators(model: ModelProto) -> list[tuple[int, ...]]:
    """The members of every communicator of several ranks; those with different names have buffers of their own."""
    found = (attributes_of(node.primitive) for node in communication_nodes(model))
    named = {attributes.get("group", ""): tuple(sorted(_members(attributes))) for attributes in found}
    return sorted(ranks for ranks in named.values() if len(ranks) > 1)


def parameters(model: ModelProto) -> dict[str, TensorType]:
    return {parameter_name(p.name): tensor_type(p) for p in model.graph.parameter}


def described(model: ModelProto) -> dict[str, list[Any]]:
    """The parameters as JSON values: [shape, element type]."""
    return {name: [list(kind.shape), kind.dtype] for name, kind in parameters(model).items()}


def parameter_name(name: str) -> str:
    return name.rsplit(":", 1)[-1]


def executed(model: ModelProto) -> list[str]:
    """The kind of every operator that a step runs, in the order of the graph."""
    return [kind.op_type for calls, _, kind in _nodes(model) for _ in range(calls)]


def narrow(model: ModelProto) -> list[str]:
    """Each kind of operator of `WIDE` that a step runs on a 16-bit tensor. For Ascend, MindSpore adds 16-bit gradients
    to an FP32 sum without a cast (`remove_cast_before_assign_add`); the sum is what counts."""
    types = tensor_types(model)
    found = (
        (kind.op_type, types[name].dtype)
        for _, node, kind in _nodes(model)
        for name in (node.input[:1] if kind.op_type == "AssignAdd" else node.input)
        if name in types
    )
    return sorted({op for op, dtype in found if op in WIDE and dtype in ("float16", "bfloat16")})


def matmul_flops(model: ModelProto, flat: bool = False) -> dict[str, int]:
    """Floating-point operations of this rank's matrix products in one step by the element type of what is multiplied,
    two per multiply-add, recomputation included. A product with a constant stands for an elementwise operator and does
    not count, nor does one in FP32 along an axis of 1 among the `flat` cells (`models/flat.py`)."""
    types, numbers, flops = tensor_types(model), _constants(model), Counter[str]()
    for calls, node, primitive in _nodes(model):
        op, operands = primitive.op_type, [types[name] for name in node.input[:2] if name in types]
        shapes, fused = [each.shape for each in operands], op.startswith("FlashAttention")
        narrow_fp32 = any(1 in x[-2:] for x in shapes) and operands[0].dtype == "float32"
        outer = flat and not fused and narrow_fp32
        if is_product(op) and len(operands) == 2 and not outer:
            output = () if fused else types[node.output[0]].shape  # a fused attention has several
            causal = fused and numbers.get(node.input[NEXT_TOKENS]) == 0
            if causal:
                shapes = [by_rows(shape, numbers[node.input[PRE_TOKENS]]) for shape in shapes]
            products = products_of(op, shapes, output, causal)
            flops[operands[0].dtype] += calls * sum(product.flops for product in products)
    return dict(flops)


def by_rows(shape: tuple[int, ...], seq_length: int) -> tuple[int, ...]:
    """The shape of a fused attention's input as [rows, heads, positions, head]: one of tokens that lie end to end
    (`models/documents.py`) is counted as if each row was one document."""
    if len(shape) != 3:
        return shape
    tokens, heads, size = shape
    return tokens // seq_length, heads, seq_length, size


def _constants(model: ModelProto) -> dict[str, Any]:
    constants = (node for graph in (model.graph, *model.functions) for node in graph.node if node.op_type == "Constant")
    return {node.output[0]: attribute_value(x) for node in constants for x in node.attribute if x.name == "value"}


def rewrite(model: ModelProto, library: Path, after: int = 0) -> int:
    """Replace communication node number i (from 1, in the order of `collectives`) by an operator that calls Python
    function `after` + i (`callbacks.py`), in place. `library` has that operator.

    The function takes the node's tensor and returns the result. Within a graph, each node waits for the one before it:
    ranks that ran independent nodes in different orders would wait for each other for ever. Returns how many nodes were
    replaced.
    """
    from mindspore.train.mind_ir_pb2 import GraphProto

    nodes = {node.proto.output[0]: (number, node) for number, node in enumerate(communication_nodes(model), after + 1)}
    for graph in (model.graph, *model.functions):
        rewritten, before = GraphProto(), None
        for proto in graph.node:
            if proto.output and proto.output[0] in nodes:
                number, node = nodes[proto.output[0]]
                given = [node.source] if node.source else []
                if before is not None and not before.tuple_of_one:  # a further input, which is not used
                    given.append(before.proto.output[0])
                add_call(model, rewritten, proto, library, number, given, node.output, node.tuple_of_one)
                before = node
            else:
                rewritten.node.add().CopyFrom(proto)
        del graph.node[:]
        graph.node.MergeFrom(rewritten.node)
    return len(nodes)


def add_call(
    model: ModelProto,
    graph: GraphProto,
    replaced: NodeProto,
    library: Path,
    number: int,
    given: Iterable[str],
    output: TensorType,
    tuple_of_one: bool = False,
) -> None:
    """Append to `graph` what replaces a node: an operator of `library` that calls Python function `number` with the
    values `given`.

    Args:
        tuple_of_one: the node returns a tuple, so another operator makes one of the result.
    """
    from mindspore.train.mind_ir_pb2 import AttributeProto

    name = replaced.output[0]
    called = graph.node.add(op_type="Constant", name=f"{name}_function", output=[f"{name}_function"])
    value = called.attribute.add(name="value", type=AttributeProto.TENSORS)
    kind = TensorType((1,), "int64")
    value.tensors.add(dims=kind.shape, data_type=data_type(kind), raw_data=number.to_bytes(kind.bytes, sys.byteorder))
    call = graph.node.add()
    call.CopyFrom(replaced)
    call.op_type, call.input[:] = f"REF::{_custom(model, library)}", [*called.output, *given]
    del call.attribute[:]
    shape = call.attribute.add(name="shape", type=AttributeProto.TENSORS)
    shape.tensors.add(dims=output.shape, data_type=data_type(output))
    if tuple_of_one:
        call.name, call.output[:] = f"{name}_element", [f"{name}_element"]
        made = graph.node.add()
        made.CopyFrom(replaced)
        made.op_type, made.input[:] = f"REF::{_primitive(model, TUPLE, 'MakeTuple').name}", call.output


def _custom(model: ModelProto, library: Path) -> str:
    from mindspore.train.mind_ir_pb2 import AttributeProto

    primitive = _primitive(model, CALL, "Custom")
    if not primitive.attribute:
        texts = {"func_type": "aot", "func_name": f"{library}:call", "imply_path": "", "uniq_name": f"Custom_{CALL}"}
        for key, text in {**texts, "primitive_target": "CPU"}.items():
            primitive.attribute.add(name=key, type=AttributeProto.STRING, s=text.encode())
        for key in ("multi_output", "autodiff"):
            primitive.attribute.add(name=key, type=AttributeProto.BOOL, i=0)
    return primitive.name


def _primitive(model: ModelProto, name: str, op: str) -> PrimitiveProto:
    from mindspore.train.mind_ir_pb2 import PrimitiveProto

    found = next((primitive for primitive in model.primitives if primitive.name == name), None)
    return found or model.primitives.add(name=name, op_type=op, prim_type=PrimitiveProto.PRIMITIVE)


def add_item(model: ModelProto, graph: GraphProto, source: str, index: int, as_node: NodeProto) -> None:
    """Append an operator to `graph` that takes element `index` of the tuple `source`; otherwise it equals `as_node`,
    also in name and type."""
    from mindspore.train.mind_ir_pb2 import AttributeProto

    number = f"{as_node.output[0]}_index"
    constant = graph.node.add(name=number, op_type="Constant", output=[number])
    constant.attribute.add(name="value", type=AttributeProto.INT64, i=index)
    taken = graph.node.add()
    taken.CopyFrom(as_node)
    taken.op_type, taken.input[:] = f"REF::{_primitive(model, ITEM, 'TupleGetItem').name}", [source, number]


def data_type(tensor: TensorType) -> int:
    from mindspore.train.mind_ir_pb2 import TensorProto

    return TensorProto.DataType.Value(PROTO_NAMES.get(tensor.dtype, tensor.dtype.upper()))


def message_tag(op: str, ranks: tuple[int, ...], rank: int, attributes: dict[str, Any]) -> tuple[str, int | None]:
    """A name that the ranks of one message agree on, without its number; and the peer of a Send or Receive."""
    if op not in POINT_TO_POINT:
        return f"{op}-{_group_name(ranks)}", None
    peer = ranks[attributes["dest_rank" if op == "Send" else "src_rank"]]
    source, target = (rank, peer) if op == "Send" else (peer, rank)
    return f"p2p-{source}-{target}-{attributes['sr_tag']}", peer


def _group_name(ranks: tuple[int, ...]) -> str:
    text = "_".join(map(str, ranks))
    return text if len(text) < 60 else f"{ranks[0]}_to_{ranks[-1]}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class _Node:
    """A communication node with its input and output."""

    calls: int
    proto: NodeProto
    op: str
    primitive: PrimitiveProto
    source: str | None  # name of its input; `given` is the type
    given: TensorType | None
    output: TensorType
    tuple_of_one: bool  # Broadcast takes and returns a tuple


def communication_nodes(model: ModelProto) -> Iterator[_Node]:
    """Every communication node, in the order in which `rewrite` numbers them."""
    types, nodes = tensor_types(model), list(_nodes(model))
    packed = {p.output[0]: p.input[0] for _, p, kind in nodes if kind.op_type == "MakeTuple" and len(p.input) == 1}
    for calls, proto, primitive in nodes:
        op, output = primitive.op_type, output_types(proto)
        if op in COMMUNICATION and len(output) == 1:
            source = next((unpacked for name in proto.input if (unpacked := packed.get(name, name)) in types), None)
            given = types[source] if source else None
            yield _Node(calls, proto, op, primitive, source, given, output[0], proto.output[0] not in types)
        elif op in COMMUNICATION or any(x.name == "group" and x.s for x in primitive.attribute):  # not a convolution's
            raise RunFailure(
                f"{proto.domain}: the rehearsal cannot execute {op} of {len(output)} tensors; it knows "
                f"{', '.join(COMMUNICATION)} of one tensor"
            )


def _nodes(model: ModelProto) -> Iterator[tuple[int, NodeProto, PrimitiveProto]]:
    primitives = {primitive.name: primitive for primitive in model.primitives}
    calls = graph_calls(model)
    for graph in (model.graph, *model.functions):
        for node in graph.node:
            primitive = primitives.get(node.op_type.removeprefix("REF::"))
            if primitive is not None:
                yield calls[graph.name], node, primitive


def graph_calls(model: ModelProto) -> dict[str, int]:
    """How often a step runs the main graph (once) and each function: once per mention each time the mentioning graph
    runs. A mention is a call, a closure (assumed to run once) or a branch (assumed to be taken)."""
    mentions: dict[str, Counter[str]] = {function.name: Counter() for function in model.functions}
    for graph in (model.graph, *model.functions):
        for node in graph.node:
            for name in (node.op_type.removeprefix("REF::"), *node.input):
                if name in mentions:
                    mentions[name][graph.name] += 1
    calls = {model.graph.name: 1}
    try:
        callers_first = [name for name in TopologicalSorter(mentions).static_order() if name in mentions]
    except CycleError as error:
        raise RunFailure(f"{error.args[1][0]}: the graph calls itself, so its operators cannot be counted") from None
    for name in callers_first:
        calls[name] = sum(times * calls[caller] for caller, times in mentions[name].items())
    return calls


def tensor_types(model: ModelProto) -> dict[str, TensorType]:
    """The type of every value that is a single tensor, by name."""
    types = {}
    for graph in (model.graph, *model.functions):
        for parameter in graph.parameter:
            types[parameter.name] = tensor_type(parameter)
        for value in graph.input:
            if len(value.tensor) == 1:
                types[value.name] = tensor_type(value.tensor[0])
        for node in graph.node:
            shape = _shape(node)
            if shape is not None and len(shape.tensors) == 1:
                types[node.output[0]] = tensor_type(shape.tensors[0])
    return types


def output_types(node: NodeProto) -> list[TensorType]:
    """Types of the tensors that a node returns, alone or in a tuple."""
    shape = _shape(node)
    parts = [] if shape is None else [shape, *shape.values]
    return [tensor_type(tensor) for part in parts for tensor in part.tensors]


def element_types(node: NodeProto) -> list[tuple[int, TensorType]]:
    """The tensors in the tuple that a node returns, with their places in it."""
    shape = _shape(node)
    parts = enumerate(() if shape is None else shape.values)
    return [(index, tensor_type(part.tensors[0])) for index, part in parts if len(part.tensors) == 1]


def _shape(node: NodeProto) -> AttributeProto | None:
    return next((attribute for attribute in node.attribute if attribute.name == "shape"), None)


def tensor_type(tensor: Any) -> TensorType:
    """Shape and element type of a value in the protobuf."""
    name = tensor.DataType.Name(tensor.data_type)
    kind = {other: dtype for dtype, other in PROTO_NAMES.items()}.get(name, name.lower())
    return TensorType(tuple(tensor.dims), kind if kind in BYTES else "unknown")


def attributes_of(primitive: PrimitiveProto) -> dict[str, Any]:
    return {a.name: value for a in primitive.attribute if (value := attribute_value(a)) is not None}


def attribute_value(attribute: AttributeProto) -> Any:
    kind = attribute.AttributeType.Name(attribute.type)
    if kind == "STRING":
        return attribute.s.decode()
    if kind in ("TUPLE", "LIST"):
        return [value.ints[0] if value.ints else value.i for value in attribute.values]
    return attribute.i if kind in ("BOOL", "INT32", "INT64", "UINT32", "UINT64") else None
