"""Small exported graphs, written by hand, as flat lists of operators."""

import pytest

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.extras.cluster.rehearsal.timeline.flatten import flatten

pytest.importorskip("mindspore")
from mindspore.train.mind_ir_pb2 import AttributeProto, ModelProto, PrimitiveProto

FLOAT32 = 1


class Graph:
    """Writes nodes into the main graph, or into function number `function`."""

    def __init__(self, model, graph, name, inputs=()):
        self.model, self.graph = model, graph
        graph.name = name
        for given in inputs:
            graph.input.add(name=given).tensor.add(dims=[4], data_type=FLOAT32)

    def node(self, output, kind, *inputs, micro=None, **attributes):
        """An operator `kind`, a call of the function `kind`, or a Constant."""
        if kind != "Constant" and kind[0].isupper():
            primitive = self.model.primitives.add(
                name=f"{output}.kind", op_type=kind, prim_type=PrimitiveProto.PRIMITIVE
            )
            for name, value in attributes.items():
                text = isinstance(value, str)
                primitive.attribute.add(name=name, type=AttributeProto.STRING if text else AttributeProto.INT64)
                setattr(primitive.attribute[-1], "s" if text else "i", value.encode() if text else value)
            kind = f"{output}.kind"
        node = self.graph.node.add(name=output, output=[output], input=inputs)
        node.op_type = kind if kind == "Constant" else f"REF::{kind}"
        if kind == "Constant":
            node.attribute.add(name="value", type=AttributeProto.INT64, i=attributes["value"])
        else:
            shape = node.attribute.add(name="shape", type=AttributeProto.TENSORS)
            shape.tensors.add(dims=[4], data_type=FLOAT32)
        if micro is not None:
            node.primal_attr.add(name="micro", type=AttributeProto.INT64, i=micro)

    def ends(self, name):
        """Name the result."""
        self.graph.output.add(name=name)


def model():
    made = ModelProto()
    main = Graph(made, made.graph, "main", ["x"])
    made.graph.parameter.add(name="main:w", dims=[4], data_type=FLOAT32)
    return made, main


def edges(program):
    return [(x.op, x.waits) for x in program.operators]


def test_control_edges_order_and_inputs_are_read():
    made, main = model()
    main.node("a", "Add", "x", "main:w")
    main.node("b", "Mul", "x", "x")
    main.node("c", "Depend", "b", "a")
    main.node("d", "Add", "c", "x")
    main.ends("d")
    program = flatten(made, 0, 0)
    assert edges(program) == [("Add", ()), ("Mul", ()), ("Depend", (0, 1)), ("Add", (2,))]
    assert [x.reads for x in program.operators] == [(None, "w"), (None, None), (1,), (2, None)]
    assert program.parameters == {"w": 16}


def test_an_item_of_a_tuple_waits_for_its_own_operator_only():
    made, main = model()
    main.node("a", "Add", "x", "x")
    main.node("b", "Mul", "x", "x")
    main.node("t", "MakeTuple", "a", "b")
    main.node("one", "Constant", value=1)
    main.node("i", "TupleGetItem", "t", "one")
    main.node("c", "Add", "i", "i")
    main.ends("c")
    assert edges(flatten(made, 0, 0)) == [("Add", ()), ("Mul", ()), ("Add", (1,))]


def test_a_call_is_inlined_each_time_and_starts_when_all_arguments_are_there():
    made, main = model()
    function = Graph(made, made.functions.add(), "f", ["p", "q"])
    function.node("f1", "Mul", "p", "p")
    function.node("f2", "Mul", "q", "main:w")
    function.node("f3", "Add", "f1", "f2")
    function.ends("f3")
    main.node("a", "Add", "x", "x")
    main.node("first", "f", "a", "x", micro=0)
    main.node("second", "f", "x", "first", micro=1)
    main.ends("second")
    program = flatten(made, 0, 0)
    assert edges(program) == [
        ("Add", ()),
        ("Entry", (0,)),
        ("Mul", (0, 1)),
        ("Mul", (1,)),
        ("Add", (2, 3)),
        ("Entry", (4,)),
        ("Mul", (5,)),
        ("Mul", (4, 5)),
        ("Add", (6, 7)),
    ]
    assert [x.micro for x in program.operators] == [None, 0, 0, 0, 0, 1, 1, 1, 1]


def test_a_closure_brings_its_values_and_the_larger_branch_is_taken():
    made, main = model()
    small = Graph(made, made.functions.add(), "small", [])
    small.ends("main:w")
    large = Graph(made, made.functions.add(), "large", ["p", "q"])
    large.node("l1", "Mul", "p", "q")
    large.ends("l1")
    main.node("a", "Add", "x", "x")
    main.node("cond", "Equal", "x", "x")
    main.node("closure", "Partial", "large", "a")
    main.node("branch", "Switch", "cond", "closure", "small")
    main.node("r", "branch", "x")
    main.ends("r")
    assert edges(flatten(made, 0, 0)) == [("Add", ()), ("Equal", ()), ("Entry", (0, 1)), ("Mul", (0, 2))]


def test_messages_of_repeated_calls_have_different_tags():
    made, main = model()
    function = Graph(made, made.functions.add(), "f", ["p"])
    function.node("s", "AllReduce", "p", group="ranks-0-1", fusion=2)
    function.ends("s")
    main.node("first", "f", "x")
    main.node("second", "f", "first")
    main.ends("second")
    found = [x.message for x in flatten(made, 0, 0).operators if x.message]
    assert [(x.ranks, x.bytes, x.fusion) for x in found] == [((0, 1), 16, 2)] * 2
    assert len({x.tag for x in found}) == 2


def test_a_graph_that_calls_itself_is_refused():
    made, main = model()
    function = Graph(made, made.functions.add(), "f", ["p"])
    function.node("again", "f", "p")
    function.ends("again")
    main.node("r", "f", "x")
    main.ends("r")
    with pytest.raises(RunFailure, match="calls itself"):
        flatten(made, 0, 0)


def test_a_call_belongs_to_the_micro_batch_of_most_of_its_arguments():
    """Gradient accumulation names the micro-batch of the batch's slices only; forward and backward are calls."""
    made, main = model()
    forward = Graph(made, made.functions.add(), "forward", ["p"])
    forward.node("f1", "Mul", "p", "main:w")
    forward.ends("f1")
    backward = Graph(made, made.functions.add(), "backward", ["p", "q", "r"])
    backward.node("b1", "Add", "p", "q")
    backward.node("b2", "Add", "b1", "r")
    backward.ends("b2")
    for micro in (0, 1):
        main.node(f"slice{micro}", "StridedSlice", "x", micro=micro)
        main.node(f"forward{micro}", "forward", f"slice{micro}")
        other = "forward0" if micro else "x"
        main.node(f"backward{micro}", "backward", f"forward{micro}", f"slice{micro}", other)
    main.node("last", "Add", "backward0", "backward1")
    main.ends("last")
    found = [(x.op, x.micro) for x in flatten(made, 0, 0).operators if x.op in ("Mul", "Add")]
    assert found == [("Mul", 0), ("Add", 0), ("Add", 0), ("Mul", 1), ("Add", 1), ("Add", 1), ("Add", None)]
