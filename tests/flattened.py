"""An exported graph (MindIR) as a flat list of operators: functions are inlined at every call, branches are taken.

The order of a graph's nodes is not the order in which they run. What holds are its edges: inputs, and the control edges
of Depend, UpdateState and Load. A call starts when all its arguments are there: a pipeline orders its micro-batches by
edges into one argument of a call. Tests of the compiled graphs and the GPU benchmark read graphs with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.extras.cluster.rehearsal import mindir
from ms_codegeex.extras.cluster.rehearsal.mindir import TensorType, tensor_type
from ms_codegeex.planning.cost_model import MatMul
from ms_codegeex.planning.operators import moved_bytes, products_of

if TYPE_CHECKING:
    from mindspore.train.mind_ir_pb2 import GraphProto, ModelProto, NodeProto, PrimitiveProto


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
    def products(self) -> list[MatMul]:
        return products_of(self.op, [x.shape for x in self.inputs], self.outputs[0].shape if self.outputs else ())

    @property
    def moved(self) -> int:
        """Bytes that it reads and writes on its own; 0 if it only gives a tensor another name."""
        return moved_bytes(self.op, [x.bytes for x in self.inputs], [x.bytes for x in self.outputs])


@dataclass(frozen=True)
class StepProgram:
    """The step of one rank: its operators in an order in which each stands after those it waits for, and bytes of each
    parameter."""

    operators: tuple[Operator, ...]
    parameters: dict[str, int]


@dataclass(frozen=True)
class _Value:
    """A tensor: the operator that made it (None: none of this step did), the parameter that it is, and its types."""

    operator: int | None = None
    parameter: str | None = None
    types: tuple[TensorType, ...] = ()
    constant: int | None = None


@dataclass(frozen=True)
class _Closure:
    """A function with its first arguments."""

    function: str
    given: tuple[Any, ...] = ()


@dataclass(frozen=True)
class _Choice:
    """A branch that is taken, and what it waits for."""

    branch: Any
    condition: Any


def flatten(model: ModelProto, rank: int = 0) -> StepProgram:
    """The step of global rank `rank`."""
    return _Flattener(model, rank).program()


class _Flattener:
    """One pass over a model."""

    def __init__(self, model: ModelProto, rank: int):
        self.model, self.rank = model, rank
        self.primitives = {primitive.name: primitive for primitive in model.primitives}
        self.functions = {function.name: function for function in model.functions}
        self.operators: list[Operator] = []
        self.seen: Counter[str] = Counter()
        self.depth: list[str] = []
        self.micro: int | None = None
        self.globals = {
            p.name: _Value(parameter=mindir.parameter_name(p.name), types=(tensor_type(p),))
            for p in model.graph.parameter
        }
        nodes, collectives = mindir.communication_nodes(model), mindir.collectives(model, rank)
        self.messages = {node.proto.output[0]: found for node, found in zip(nodes, collectives, strict=True)}

    def program(self) -> StepProgram:
        """Flatten the main graph."""
        inputs = [_Value(types=tuple(tensor_type(x) for x in value.tensor)) for value in self.model.graph.input]
        self._run(self.model.graph, inputs)
        sizes = {value.parameter: value.types[0].bytes for value in self.globals.values()}
        return StepProgram(tuple(self.operators), sizes)

    def _run(self, graph: GraphProto, arguments: Sequence[Any], entry: int | None = None) -> Any:
        """Append a graph's operators; returns its result. All of them wait for operator `entry`."""
        if graph.name in self.depth:
            raise RunFailure(f"{graph.name}: the graph calls itself, so it has no end")
        self.depth.append(graph.name)
        names = {value.name: given for value, given in zip(graph.input, arguments, strict=False)}
        for node in graph.node:
            names[node.output[0]] = self._node(node, names, entry)
        self.depth.pop()
        return self._value(graph.output[0].name, names) if graph.output else _Value()

    def _value(self, name: str, names: dict[str, Any]) -> Any:
        found = names.get(name, self.globals.get(name))
        return (_Closure(name) if name in self.functions else _Value()) if found is None else found

    def _node(self, node: NodeProto, names: dict[str, Any], entry: int | None) -> Any:
        given = [self._value(name, names) for name in node.input]
        kind = node.op_type.removeprefix("REF::")
        if node.op_type == "Constant":
            return _constant(node)
        primitive = self.primitives.get(kind)
        if primitive is None:
            return self._call(self._value(kind, names), given, node, entry)
        op = primitive.op_type
        if op == "MakeTuple":
            return tuple(given)
        if op == "TupleGetItem" and isinstance(given[0], tuple):
            return given[0][given[1].constant]
        if op == "Partial":
            function = given[0]
            return _Closure(function.function, (*function.given, *given[1:]))
        if op == "Switch":
            return _Choice(max(given[1:], key=lambda branch: len(self.functions[branch.function].node)), given[0])
        if op == "Depend" and not isinstance(given[0], _Value):
            return self._ordered(given[0], self._add(Operator("Join", self._waits(given[1:], entry))))
        return self._operator(op, node, primitive, given, entry)

    def _call(self, function: Any, given: Sequence[Any], node: NodeProto, entry: int | None) -> Any:
        waited = list(given)
        if isinstance(function, _Choice):
            waited.append(function.condition)
            function = function.branch
        if not isinstance(function, _Closure):
            raise RunFailure(f"{node.op_type}: an operator that no list of operators knows")
        arguments = (*function.given, *given)
        before, self.micro = self.micro, self._micro_batch_of_call(node, arguments)
        first = self._add(Operator("Entry", self._waits((*waited, *function.given), entry), micro=self.micro))
        result = self._run(self.functions[function.function], arguments, first)
        self.micro = before
        return result

    def _ordered(self, value: Any, after: int) -> Any:
        """A tuple or closure whose tensors are not there before operator `after` has ended."""
        if isinstance(value, tuple):
            return tuple(self._ordered(x, after) for x in value)
        if isinstance(value, _Closure):
            return _Closure(value.function, tuple(self._ordered(x, after) for x in value.given))
        if isinstance(value, _Choice):
            return _Choice(self._ordered(value.branch, after), value.condition)
        waits = self._waits((value, _Value(after)), None)
        reads = (_source(value),)
        return _Value(self._add(Operator("Depend", waits, reads, value.types, value.types)), types=value.types)

    def _operator(
        self, op: str, node: NodeProto, primitive: PrimitiveProto, given: Sequence[Any], entry: int | None
    ) -> _Value:
        types = tuple(mindir.output_types(node))
        tensors = [x for x in _flat(given) if isinstance(x, _Value)]
        message = self._message(node) if op in mindir.COMMUNICATION else None
        if op == "Depend":
            tensors = tensors[:1]  # the others only order it
        number = self._add(
            Operator(
                op=op,
                waits=self._waits(given, entry),
                reads=tuple(_source(x) for x in tensors),
                inputs=tuple(x.types[0] if x.types else TensorType((), "") for x in tensors),
                outputs=types,
                scope=node.domain,
                micro=self._micro_batch(node),
                message=message,
            )
        )
        return _Value(number, types=types)

    def _micro_batch(self, node: NodeProto) -> int | None:
        """The one that a node names, or else that of the call that it is part of."""
        named = (mindir.attribute_value(a) for a in (*node.primal_attr, *node.node_attr) if a.name == "micro")
        return next(named, self.micro)

    def _micro_batch_of_call(self, node: NodeProto, arguments: Sequence[Any]) -> int | None:
        """The micro-batch that a call names, or else that of most of its arguments: with gradient accumulation only
        the slices of the batch are named."""
        if (named := self._micro_batch(node)) is not None:
            return named
        given = (x.operator for x in _flat(arguments) if isinstance(x, _Value) and x.operator is not None)
        found = Counter(self.operators[number].micro for number in given)
        found.pop(None, None)
        return max(found, key=found.__getitem__, default=None)

    def _message(self, node: NodeProto) -> Message:
        """Its number counts executed operators: a function that is called twice sends two messages."""
        found = self.messages[node.output[0]]
        kind = found.tag.rpartition("-")[0]
        self.seen[kind] += 1
        return Message(found.ranks, found.bytes, f"{kind}-{self.seen[kind] - 1}", found.fusion)

    def _waits(self, given: Sequence[Any], entry: int | None) -> tuple[int, ...]:
        found = {x.operator for x in _flat(given) if isinstance(x, _Value) and x.operator is not None}
        if entry is not None and not any(number >= entry for number in found):
            found.add(entry)  # the others of this function wait for one that does
        return tuple(sorted(found))

    def _add(self, operator: Operator) -> int:
        self.operators.append(operator)
        return len(self.operators) - 1


def _flat(values: Sequence[Any]) -> list[Any]:
    """Tensors in tuples, closures and branches."""
    found = []
    for value in values:
        if isinstance(value, tuple):
            found += _flat(value)
        elif isinstance(value, _Closure):
            found += _flat(value.given)
        elif isinstance(value, _Choice):
            found += _flat((value.branch, value.condition))
        else:
            found.append(value)
    return found


def _source(value: _Value) -> int | str | None:
    return value.operator if value.operator is not None else value.parameter


def _constant(node: NodeProto) -> Any:
    """A constant: a number, a tensor, or a tuple of them."""
    attribute = next((a for a in node.attribute if a.name == "value"), None)
    return _Value() if attribute is None else _constant_value(attribute)


def _constant_value(attribute: Any) -> Any:
    kind = attribute.AttributeType.Name(attribute.type)
    if kind in ("TUPLE", "LIST"):
        return tuple(_constant_value(value) for value in attribute.values)
    if attribute.tensors:
        return _Value(types=tuple(tensor_type(x) for x in attribute.tensors))
    return _Value(constant=attribute.ints[0] if attribute.ints else attribute.i)


NO_RESULT = ("Entry", "Join", "Partial", "Switch", "UpdateState")
IN_PLACE = ("AdamWeightDecay", "ApplyMomentum", "Assign", "AssignAdd", "AssignSub", "FusedAdamWeightDecay")


def most_alive(program: StepProgram) -> int:
    """Bytes of the parameters, and of the other tensors that exist at once if the operators run in the order of the
    list. A tensor exists until its last reader has ended, also under another name."""
    holders: list[int | str | None] = []  # whose memory holds each result
    last: dict[int, int] = {}
    for number, operator in enumerate(program.operators):
        renamed = not moved_bytes(operator.op, [1], [1])
        if operator.op in NO_RESULT:
            holders.append(None)
        elif renamed or operator.op in IN_PLACE:
            source = operator.reads[0] if operator.reads else None
            holders.append(holders[source] if isinstance(source, int) else source)
        else:
            holders.append(number)
            last[number] = number
        for source in () if renamed else operator.reads:
            holder = holders[source] if isinstance(source, int) else None
            if isinstance(holder, int):
                last[holder] = number
    ended: dict[int, list[int]] = {}
    for holder, number in last.items():
        ended.setdefault(number, []).append(holder)
    alive = most = sum(program.parameters.values())
    for number, operator in enumerate(program.operators):
        alive += sum(x.bytes for x in operator.outputs) if number in last else 0
        most = max(most, alive)
        alive -= sum(x.bytes for holder in ended.get(number, ()) for x in program.operators[holder].outputs)
    return most
