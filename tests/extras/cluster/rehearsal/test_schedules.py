"""Pipelines with and without virtual stages: the order of passes and messages in graphs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from right_report import right_report
from test_compile import small

from ms_codegeex.config.rules import build_run_config
from ms_codegeex.extras.cluster.rehearsal import compile as compile_module
from ms_codegeex.extras.cluster.rehearsal import schedule
from ms_codegeex.extras.cluster.rehearsal.compile import compile_ranks
from ms_codegeex.extras.cluster.rehearsal.schedule import Pass, message_checks, planned_passes, schedule_check

TWO = ["devices=2", "parallel.tensor=1", "parallel.pipeline=2", "parallel.optimizer_shard=1", "training.dropout=0"]
TWO += ["training.global_batch=8", "training.micro_batch=2", "training.recompute=none"]


@pytest.mark.slow  # compiles
@pytest.mark.parametrize(("virtual_stages", "sent"), [(1, 1), (2, 3)])
def test_virtual_stages_send_to_and_fro(virtual_stages, sent):
    """That passes and messages are in their order is a check of each compilation."""
    report = compile_ranks(small(*TWO, f"parallel.virtual_stages={virtual_stages}"), [0, 1])
    assert report.ok, report.problems
    assert {"rank 0, schedule", "messages between ranks 0 and 1"} <= {check.name for check in report.checks}
    messages = [x for x in report.ranks[0].messages if x != schedule.UNORDERED and x["op"] == "Send"]
    assert len(messages) == sent * report.config.accumulation


# --- the checks of a compilation ---


def pipeline(stages, virtual_stages=1, micro_batches=None):
    """Of one device for each stage."""
    parallel = {"pipeline": stages, "virtual_stages": virtual_stages, "micro_batches": micro_batches or stages}
    training = {"steps": 1, "global_batch": 8 * stages * virtual_stages}
    values = {"device": "ascend", "devices": stages, "training": training, "parallel": parallel}
    return build_run_config({**values, "model": {"family": "codegen"}})


WRITTEN = {  # by hand
    (2, 1, 4): ["F0 F1 B0 F2 B1 F3 B2 B3", "F0 B0 F1 B1 F2 B2 F3 B3"],
    (4, 1, 4): [
        "F0 F1 F2 F3 B0 B1 B2 B3",
        "F0 F1 F2 B0 F3 B1 B2 B3",
        "F0 F1 B0 F2 B1 F3 B2 B3",
        "F0 B0 F1 B1 F2 B2 F3 B3",
    ],
    (2, 2, 4): [
        "F0 F1 F0.1 F1.1 F2 B0.1 F3 B1.1 F2.1 B0 F3.1 B1 B2.1 B3.1 B2 B3",
        "F0 F1 F0.1 B0.1 F1.1 B1.1 F2 B0 F3 B1 F2.1 B2.1 F3.1 B3.1 B2 B3",
    ],
}


@pytest.mark.parametrize("case", WRITTEN, ids=str)
def test_the_planned_order_is_1f1b(case):
    config = pipeline(*case)
    for stage, expected in enumerate(WRITTEN[case]):
        assert " ".join(map(str, planned_passes(config, stage))) == expected
        assert schedule_check(config, stage, expected.split()).ok


def test_the_order_of_gpipe_fails():
    for case in WRITTEN:
        config = pipeline(*case)
        for stage in range(config.mesh.pipeline):
            passes = planned_passes(config, stage)
            gpipe = [x for back in (False, True) for x in passes if x.backward == back]
            check = schedule_check(config, stage, [str(x) for x in gpipe])
            filled = case == (4, 1, 4) and stage == 0  # it has all micro-batches open in either
            assert check.ok == filled and (filled or check.expected.startswith(("1F1B, F0", "interleaved 1F1B, F0")))
    unordered = schedule_check(pipeline(2, 1, 2), 1, ["F0", "B0", "|", "F1", "B1"])
    assert not unordered.ok and unordered.found == "F0 B0 | F1 B1"


class Graph:
    """A stage's main graph written by hand: calls of the network and of its gradient, and messages."""

    def __init__(self):
        from mindspore.train.mind_ir_pb2 import ModelProto

        self.model = ModelProto()
        self.model.graph.name = "step"
        self.model.functions.add(name="network")
        for kind in ("TupleGetItem", "Depend"):
            self.model.primitives.add(name=kind, op_type=kind)

    def node(self, name, kind, *inputs, **micro):
        from mindspore.train.mind_ir_pb2 import AttributeProto

        node = self.model.graph.node.add(op_type=f"REF::{kind}", input=inputs, output=[name])
        shape = node.attribute.add(name="shape", type=AttributeProto.TENSORS)
        shape.tensors.add(dims=[2, 8], data_type=10)
        for key, value in micro.items():
            node.primal_attr.add(name=key, type=AttributeProto.INT64, i=value)
        return name

    def message(self, op, micro, source, group=(0, 1)):
        """To or from the other rank, whose index in the group is that of `op`'s rank."""
        from mindspore.train.mind_ir_pb2 import AttributeProto

        name = f"{op}{micro}"
        primitive = self.model.primitives.add(name=f"of {name}", op_type=op)
        side, peer = ("dest_rank", 0) if op == "Send" else ("src_rank", 0)
        for key, value in (("sr_tag", micro), (side, peer)):
            primitive.attribute.add(name=key, type=AttributeProto.INT64, i=value)
        ranks = primitive.attribute.add(name="group_rank_ids", type=AttributeProto.TUPLE)
        for rank in group:
            ranks.values.add(type=AttributeProto.UINT32, ints=[rank])
        return self.node(name, f"of {name}", source)

    def forward(self, micro, source):
        """Receive, run, and take the function that runs backward."""
        called = self.node(f"call{micro}", "network", self.message("Receive", micro, source), micro=micro, chunk=0)
        return called, self.node(f"function{micro}", "TupleGetItem", called)

    def backward(self, micro, function, source):
        ordered = self.node(f"ordered{micro}", "Depend", function, source)
        return self.message("Send", micro, self.node(f"gradient{micro}", ordered, source))


def test_a_graph_is_read_by_its_edges():
    """The last stage of two; the second micro-batch's nodes stand wherever the engine puts them."""
    graph = Graph()
    call0, function0 = graph.forward(0, "x")
    sent0 = graph.backward(0, function0, call0)
    call1, function1 = graph.forward(1, sent0)
    graph.backward(1, function1, call1)
    found = schedule.schedule(graph.model, 1)
    assert found["passes"] == ["F0", "B0", "F1", "B1"]
    expected = ["Receive p2p-0-1-0-0", "Send p2p-1-0-0-0", "Receive p2p-0-1-1-0", "Send p2p-1-0-1-0"]
    assert [f"{x['op']} {x['tag']}" for x in found["messages"]] == expected
    assert all(x["peer"] == 0 for x in found["messages"])
    assert all(x["shape"] == [2, 8] and x["dtype"] == "float16" for x in found["messages"])
    assert schedule_check(pipeline(2), 1, found["passes"]).ok


def test_without_an_edge_there_is_no_order():
    graph = Graph()
    call0, function0 = graph.forward(0, "x")
    graph.backward(0, function0, call0)
    call1, function1 = graph.forward(1, call0)  # does not wait for the backward pass
    graph.backward(1, function1, call1)
    found = schedule.schedule(graph.model, 1)
    assert schedule.UNORDERED in found["passes"] and schedule.UNORDERED in found["messages"]
    assert not schedule_check(pipeline(2), 1, found["passes"]).ok


def test_a_graph_without_messages_has_no_schedule():
    graph = Graph()
    graph.node("call", "network", "x", micro=0)
    assert schedule.schedule(graph.model, 0) == {"passes": [], "messages": []}


def both_sides():
    """Messages of two ranks that agree: two forward, two backward."""

    def entry(op, peer, tag):
        return {"op": op, "peer": peer, "tag": tag, "shape": [64, 16], "dtype": "float16"}

    first = [entry("Send", 5, "f0"), entry("Receive", 5, "b0"), entry("Send", 5, "f1"), entry("Receive", 5, "b1")]
    second = [entry("Receive", 1, "f0"), entry("Send", 1, "b0"), entry("Receive", 1, "f1"), entry("Send", 1, "b1")]
    return {1: first, 5: second}


def changed(key, value):
    def change(messages):
        messages[5][2][key] = value

    return change


MISTAKEN = {
    "peer": changed("peer", 2),
    "tag": changed("tag", "f0"),
    "shape": changed("shape", [32, 32]),
    "dtype": changed("dtype", "bfloat16"),
    "direction": changed("op", "Send"),
    "missing": lambda messages: messages[5].pop(2),
    "one more": lambda messages: messages[5].append(dict(messages[5][2])),
    "order": lambda messages: messages[5].insert(0, messages[5].pop(2)),
    "no order": lambda messages: messages[5].insert(2, schedule.UNORDERED),
    "not sent": lambda messages: messages[1].pop(0),
}


def test_messages_that_agree_pass():
    (check,) = message_checks(both_sides())
    assert check.ok and (check.name, check.found) == ("messages between ranks 1 and 5", "4 pairs")
    assert message_checks({1: both_sides()[1]}) == []  # the other was not compiled
    assert message_checks({1: [], 5: []}) == []


@pytest.mark.parametrize("mistake", MISTAKEN)
def test_a_message_that_only_one_side_has_fails(mistake):
    messages = both_sides()
    MISTAKEN[mistake](messages)
    assert any(not check.ok for check in message_checks(messages))


def test_the_schedule_is_checked_where_there_is_one():
    config = pipeline(2)
    report = right_report(config, 1)
    named = {x.name: x for x in compile_module._graph_checks(config, report, "rank 1, ")}
    assert all(x.ok for x in named.values()) and named["rank 1, schedule"].found == "1F1B"
    wrong = replace(report, passes=[str(Pass(micro, 0, back)) for back in (False, True) for micro in (0, 1)])
    failed = [x.name for x in compile_module._graph_checks(config, wrong, "") if not x.ok]
    assert failed == ["schedule"]
