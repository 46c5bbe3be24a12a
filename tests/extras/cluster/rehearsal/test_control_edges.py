"""Control edges of constants become inputs; what no edge orders stays as it is."""

from __future__ import annotations

import sys
from pathlib import Path

from ms_codegeex.extras.cluster.rehearsal import control_edges, mindir

TWO = [2, 3]


class Graph:
    """A model written by hand; a node is named as the value that it makes."""

    def __init__(self):
        from mindspore.train.mind_ir_pb2 import ModelProto

        self.model = ModelProto()
        self.graph = self.model.graph
        self.graph.parameter.add(name="buffer", dims=TWO, data_type=1)

    def node(self, op: str, name: str, *inputs: str, shapes: tuple = (TWO,), domain: str = "") -> str:
        """`shapes`: of the tensor, or of a tuple's elements if there are several or none (None: no tensor)."""
        from mindspore.train.mind_ir_pb2 import AttributeProto

        kind = op if op in ("Constant", "f") else f"{op}:1"
        if kind.endswith(":1") and all(p.name != kind for p in self.model.primitives):
            self.model.primitives.add(name=kind, op_type=op)
        node = self.graph.node.add(op_type=kind if op == "Constant" else f"REF::{kind}", domain=domain)
        node.input.extend(inputs)
        node.output.append(name)
        if len(shapes) == 1:
            node.attribute.add(name="shape", type=AttributeProto.TENSORS).tensors.add(dims=shapes[0], data_type=1)
        elif shapes:
            shape = node.attribute.add(name="shape", type=AttributeProto.TUPLE)
            for dims in shapes:
                part = shape.values.add()
                if dims is not None:
                    part.tensors.add(dims=dims, data_type=1)
        return name

    def held(self) -> dict[str, list[str]]:
        """The inputs of each node after `hold`, by the value it makes; of a call without the number of its function."""
        self.count = control_edges.hold(self.model, Path("calls.so"))
        made = {n.output[0]: n for n in self.graph.node}
        calls = {name for name, n in made.items() if n.op_type == f"REF::{mindir.CALL}"}
        return {name: list(n.input)[name in calls :] for name, n in made.items()}


def test_a_constant_that_waits_takes_what_it_waits_for():
    graph = Graph()
    graph.node("Constant", "zero")
    graph.node("AssignAdd", "added", "buffer", "x")
    graph.node("Depend", "done", "zero", "added")
    graph.node("Depend", "after", "buffer", "done")
    graph.node("Load", "read", "after")
    before = {n.output[0]: n.SerializeToString() for n in graph.graph.node}
    found = graph.held()
    assert graph.count == 1 and found["done"] == ["zero", "added"]
    after = {n.output[0]: n.SerializeToString() for n in graph.graph.node}
    assert all(after[name] == before[name] for name in before if name != "done")
    (number,) = [n.attribute[0].tensors[0].raw_data for n in graph.graph.node if n.name == "done_function"]
    assert int.from_bytes(number, sys.byteorder) == control_edges.FUNCTION
    assert mindir.tensor_types(graph.model)["done"] == mindir.TensorType((2, 3), "float32")


def test_what_only_orders_stands_for_what_it_orders():
    graph = Graph()
    for name in ("one", "two", "three", "value"):
        graph.node("Constant", name)
    graph.node("AssignAdd", "a", "buffer", "x")
    graph.node("AssignAdd", "b", "buffer", "a")
    graph.node("Depend", "first", "one", "a")
    graph.node("Depend", "second", "two", "b")
    graph.node("MakeTuple", "both", "first", "second", "three", "buffer", shapes=(TWO, TWO))
    graph.node("Depend", "done", "value", "both")
    assert graph.held()["done"] == ["value", "a", "b"] and graph.count == 3


def test_the_tensors_of_a_call_are_taken_one_by_one():
    graph = Graph()
    graph.model.functions.add(name="f")
    graph.node("Constant", "zero")
    graph.node("f", "called", "x", shapes=(TWO, None, [4]))
    graph.node("Depend", "done", "zero", "called")
    given = graph.held()["done"]
    items = {n.output[0]: n.input[0] for n in graph.graph.node if n.op_type == f"REF::{mindir.ITEM}"}
    numbers = {n.output[0]: n.attribute[0].i for n in graph.graph.node if n.op_type == "Constant" and n.attribute}
    assert given[0] == "zero" and [items[name] for name in given[1:]] == ["called", "called"]
    places = [numbers[n.input[1]] for name in given[1:] for n in graph.graph.node if n.output[0] == name]
    assert places == [0, 2]  # not the closure
    types = mindir.tensor_types(graph.model)
    assert [types[name].shape for name in given[1:]] == [(2, 3), (4,)]


def test_only_constants_are_held():
    graph = Graph()
    graph.node("Constant", "zero")
    graph.node("Add", "sum", "buffer", "zero")
    graph.node("AssignAdd", "added", "buffer", "sum")
    graph.node("Depend", "computed", "sum", "added")
    graph.node("Depend", "parameter", "buffer", "added")
    graph.node("Depend", "argument", "x", "added")
    before = graph.model.SerializeToString()
    graph.held()
    assert graph.count == 0 and graph.model.SerializeToString() == before


def test_a_constant_that_is_no_tensor_stays():
    graph = Graph()
    graph.node("Constant", "number", shapes=())
    graph.node("AssignAdd", "added", "buffer", "x")
    graph.node("Depend", "done", "number", "added", shapes=())
    assert graph.held()["done"] == ["number", "added"] and graph.count == 0
