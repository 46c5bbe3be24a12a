"""The schedule of a pipeline's stage: the order of its passes and of its messages, as the edges of its graph state it.

The order of a graph's nodes is not the order in which they run. Two of them are ordered if one waits for the other:
through inputs and the control edges of Depend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from ms_codegeex.extras.cluster.rehearsal import mindir
from ms_codegeex.extras.cluster.rehearsal.plan_checks import PlanCheck
from ms_codegeex.planning.memory import passes, warm_up

if TYPE_CHECKING:
    from mindspore.train.mind_ir_pb2 import ModelProto

    from ms_codegeex.config import RunConfig

UNORDERED = "|"  # between two of which neither waits for the other


@dataclass(frozen=True)
class Pass:
    """The forward or backward pass of a micro-batch through a virtual stage."""

    micro: int
    part: int
    backward: bool

    def __str__(self) -> str:
        return f"{'B' if self.backward else 'F'}{self.micro}" + (f".{self.part}" if self.part else "")


def planned_passes(config: RunConfig, stage: int) -> list[Pass]:
    """1F1B: forward passes until the later stages have work, then a forward and a backward pass in turn, then the
    backward passes that are left. With virtual stages, the same for all their passes (`planning/memory.py`)."""
    mesh, count = config.mesh, config.accumulation
    forward = [Pass(*x, False) for x in passes(mesh.pipeline, mesh.virtual_stages, count)]
    backward = [Pass(*x, True) for x in passes(mesh.pipeline, mesh.virtual_stages, count, backward=True)]
    ahead = min(warm_up(mesh.pipeline, mesh.virtual_stages, stage), len(forward))
    paired = [each for pair in zip(forward[ahead:], backward, strict=False) for each in pair]
    return [*forward[:ahead], *paired, *backward[len(forward) - ahead :]]


def schedule(model: ModelProto, rank: int) -> dict[str, list[Any]]:
    """The order in which global rank `rank` of a pipeline runs, as JSON values; empty without messages.

    "passes": calls of the network and of its gradient, as text; the parts of a micro-batch count as one. "messages":
    every Send and Receive with its peer, tag, shape and element type. `UNORDERED` stands between two that no edge
    orders.
    """
    nodes = zip(mindir.communication_nodes(model), mindir.collectives(model, rank), strict=True)
    messages = {node.proto.output[0]: _message(found) for node, found in nodes if found.op in mindir.POINT_TO_POINT}
    if not messages:
        return {"passes": [], "messages": []}
    called = _passes(model)
    waits = _waits(model, [*called, *messages])
    order = sorted(waits, key=lambda name: len(waits[name]))
    found: dict[str, list[Any]] = {}
    for what, values in (("passes", called), ("messages", messages)):
        found[what], before = [], None
        for name in (name for name in order if name in values):
            value = values[name]
            if what == "passes" and found[what][-1:] == [value]:
                continue
            if before is not None and before not in waits[name]:
                found[what].append(UNORDERED)
            found[what].append(value)
            before = name
    return found


def _message(node: mindir.CollectiveNode) -> dict[str, Any]:
    shape = node.input_shape if node.op == "Send" else node.shape
    return {"op": node.op, "peer": node.peer, "tag": node.tag, "shape": list(shape), "dtype": node.dtype}


def _passes(model: ModelProto) -> dict[str, str]:
    kinds = {primitive.name: primitive.op_type for primitive in model.primitives}
    taken: dict[str, str] = {}  # an element of a tuple, from which
    found: dict[str, Pass] = {}
    for node in model.graph.node:
        source = node.op_type.removeprefix("REF::")
        if node.op_type == "Constant" or source in kinds:
            if kinds.get(source) in ("TupleGetItem", "Depend"):
                taken[node.output[0]] = node.input[0]
            continue
        while source in taken:
            source = taken[source]
        named = {a.name: mindir.attribute_value(a) for a in (*node.primal_attr, *node.node_attr)}
        if source in found:
            found[node.output[0]] = replace(found[source], backward=True)
        elif "micro" in named:
            found[node.output[0]] = Pass(named["micro"], named.get("chunk", 0), False)
    return {name: str(each) for name, each in found.items()}


def _waits(model: ModelProto, names: Sequence[str]) -> dict[str, set[str]]:
    bits, earlier = {name: 1 << i for i, name in enumerate(names)}, dict[str, int]()
    for node in model.graph.node:
        waited = 0
        for source in (*node.input, node.op_type.removeprefix("REF::")):
            waited |= earlier.get(source, 0) | bits.get(source, 0)
        if waited:
            earlier[node.output[0]] = waited
    return {name: {other for other in names if earlier.get(name, 0) & bits[other]} for name in names}


def schedule_check(config: RunConfig, stage: int, passes: Sequence[str]) -> PlanCheck:
    """The order of a stage's passes against 1F1B."""
    planned, found = " ".join(map(str, planned_passes(config, stage))), " ".join(passes)
    name = "interleaved 1F1B" if config.mesh.virtual_stages > 1 else "1F1B"
    return PlanCheck("schedule", *((name, name) if planned == found else (f"{name}, {planned}", found)))


def message_checks(messages: Mapping[int, Sequence[Any]]) -> list[PlanCheck]:
    """Whether every Send has its Receive: of the messages between two of these ranks, in each direction, both sides
    must have the same ones in the same order. Messages of ranks that are not given are left out."""
    checks = []
    for rank, peer in sorted({(r, m["peer"]) for r, x in messages.items() for m in x if m != UNORDERED}):
        if rank < peer and peer in messages:
            wrong = [x for x in (_unmatched(messages, rank, peer), _unmatched(messages, peer, rank)) if x]
            total = sum(m != UNORDERED and m["peer"] == peer for m in messages[rank])
            both = wrong[0] if wrong else (f"{total} pairs",) * 2
            checks.append(PlanCheck(f"messages between ranks {rank} and {peer}", *both))
    return checks


def _unmatched(messages: Mapping[int, Sequence[Any]], source: int, target: int) -> tuple[str, str] | None:
    sides = (_one_way(messages[source], "Send", target), _one_way(messages[target], "Receive", source))
    for number, (sent, received) in enumerate(zip_longest(*sides, fillvalue="none"), 1):
        if sent != received or UNORDERED in (sent[:1], received[:1]):
            where = f"{number} from rank {source} to {target}"
            return f"message {where}: sent {sent}", f"received {received}"
    return None


def _one_way(listed: Sequence[Any], op: str, peer: int) -> list[str]:
    found, before = [], ""
    for each in listed:
        if each != UNORDERED and (each["op"], each["peer"]) == (op, peer):
            found.append(f"{before}{each['tag']}, {each['dtype']} {each['shape']}")
        before = f"{UNORDERED} " if each == UNORDERED else ""
    return found
