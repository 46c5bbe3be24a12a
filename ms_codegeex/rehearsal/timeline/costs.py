"""Seconds and stream of every operator, with the figures of the plan: matmuls by measured efficiency, other work by
the bytes that it moves through device memory, messages by size and links."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ms_codegeex.base.hardware import Device
from ms_codegeex.base.mesh import Mesh
from ms_codegeex.planning.communication import transfer_seconds
from ms_codegeex.planning.cost_model import MatMul
from ms_codegeex.planning.roofline import matmul_seconds
from ms_codegeex.rehearsal.mindir import POINT_TO_POINT
from ms_codegeex.rehearsal.timeline.fusion import buckets, kernels
from ms_codegeex.rehearsal.timeline.operators import ALIASES, IN_PLACE, MATMULS, Operator, StepProgram
from ms_codegeex.rehearsal.timeline.tasks import COMPUTE, TimelineTask

PRECISIONS = {"float16": "fp16", "bfloat16": "bf16"}
MATMUL, VECTOR, OPTIMIZER = "matrix products", "vector work", "optimizer"
RECEIVED = "collectives, pipeline, received"
GROUPS = ("tensor", "data", "optimizer", "replica", "stage")


@dataclass(frozen=True)
class Machine:
    """What operators run on. `fused`: whether element-wise chains are one kernel."""

    chip: Device
    mesh: Mesh
    server_devices: int
    fused: bool


def group_of(mesh: Mesh, ranks: Sequence[int], rank: int) -> str:
    """The plan's name of the group with these members."""
    if len(ranks) == mesh.world:
        return "world"
    first, last = (mesh.coordinates(x)[0] for x in (min(ranks), max(ranks)))
    if first != last:
        return "tied"
    return next((name for name in GROUPS if getattr(mesh, f"{name}_group")(rank) == list(ranks)), "other")


def stream_of(operator: Operator, mesh: Mesh, rank: int) -> str:
    """`compute`, the name of a communication group, or "" for what takes no time."""
    if operator.message is None:
        return "" if operator.op in ALIASES else COMPUTE
    if len(operator.message.ranks) < 2:
        return ""
    if operator.op in POINT_TO_POINT:
        return "pipeline"
    return group_of(mesh, operator.message.ranks, rank)


def matmuls_of(operator: Operator) -> list[MatMul]:
    """The matmuls of an operator; an attention's scores never leave the chip."""
    if operator.op.startswith("FlashAttention"):
        *batch, rows, head = operator.inputs[0].shape
        keys, heads = operator.inputs[1].shape[-2], math.prod(batch)
        scores = MatMul("scores", rows, head, keys, heads, stored_output=False)
        context = MatMul("context", rows, keys, head, heads, stored_output=False)
        backward = [scores, *scores.transposed(), *context.transposed()]
        return [scores, context] if operator.op == "FlashAttentionScore" else backward
    left, output = operator.inputs[0].shape, operator.outputs[0].shape
    inner = left[-1] * left[-2] // output[-2]
    return [MatMul(operator.op, output[-2], inner, output[-1], math.prod(output[:-2]))]


def moved_bytes(operator: Operator) -> int:
    """Bytes that an operator on its own reads and writes. One that selects rows, or copies, reads as many as it
    writes."""
    written = sum(x.bytes for x in operator.outputs)
    if operator.op in ("Gather", "StridedSlice", "OneHot", "Assign"):
        return 2 * written
    if operator.op in ("AdamWeightDecay", "FusedAdamWeightDecay"):  # p, m, v are read and written, the gradient is read
        sizes = [x.bytes for x in operator.inputs]
        return 2 * sum(sizes[:3]) + sizes[-1]
    return sum(x.bytes for x in operator.inputs) + written


def kernel_bytes(operators: Sequence[Operator], members: Sequence[int]) -> int:
    """Bytes that a fused kernel reads and writes: everything that is not made and used inside it."""
    inside, read = set(members), dict[int | str, int]()
    for number in members:
        for source, tensor in zip(operators[number].reads, operators[number].inputs, strict=True):
            if source is not None and source not in inside:
                read.setdefault(source, tensor.bytes)
    return sum(read.values()) + sum(x.bytes for x in operators[max(members)].outputs)


def tasks_of(program: StepProgram, machine: Machine) -> list[TimelineTask]:
    """One task for each operator, in the same order. A fused kernel is the task of its last operator, a bucket that of
    its last message; their other operators take no time."""
    operators = program.operators
    root = kernels(operators) if machine.fused else list(range(len(operators)))
    members: dict[int, list[int]] = {}
    for number, end in enumerate(root):
        members.setdefault(end, []).append(number)
    tasks = []
    for number, operator in enumerate(operators):
        if root[number] != number:
            tasks.append(TimelineTask(operator.waits, "", 0.0, micro=operator.micro, kernel=root[number]))
            continue
        stream = stream_of(operator, machine.mesh, program.rank)
        if operator.message is not None:
            tasks.append(_message_task(operator, stream, machine))
        else:
            seconds, kind = _kernel(operators, members[number], machine.chip) if stream else (0.0, "")
            name = f"{operator.op} {operator.scope}".strip()
            tasks.append(TimelineTask(operator.waits, stream, seconds, kind, name, operator.micro))
    return _with_buckets(program, tasks, machine)


def _message_task(operator: Operator, stream: str, machine: Machine, size: int | None = None) -> TimelineTask:
    message = operator.message
    size = message.bytes if size is None else size
    seconds = transfer_seconds(operator.op, message.ranks, size, 1, machine.chip, machine.server_devices)
    name = f"{operator.op} {size:,} B"
    kind = RECEIVED if operator.op == "Receive" else f"collectives, {stream}"
    return TimelineTask(operator.waits, stream, seconds, kind, name, operator.micro, message.tag or None)


def _kernel(operators: Sequence[Operator], members: Sequence[int], chip: Device) -> tuple[float, str]:
    """Seconds and kind of a kernel of these operators."""
    matmuls = [operators[number] for number in members if operators[number].op in MATMULS]
    last = operators[members[-1]]
    moved = moved_bytes(last) if len(members) == 1 else kernel_bytes(operators, members)
    if not matmuls:
        return moved / chip.memory_bandwidth, OPTIMIZER if _updates(last) else VECTOR
    own = sum(x.bytes for matmul in matmuls for x in (*matmul.inputs, *matmul.outputs))
    more = max(0, moved - own) if len(members) > 1 else 0  # what is added to the matmul's result
    precision = PRECISIONS.get(matmuls[0].inputs[0].dtype, "fp32")
    seconds = sum(matmul_seconds(each, chip, precision) for matmul in matmuls for each in matmuls_of(matmul))
    return seconds + more / chip.memory_bandwidth, MATMUL


def _updates(operator: Operator) -> bool:
    """Whether it belongs to the sums of gradients, their norm, their scaling or the optimizer."""
    if "optimizer" in operator.scope or operator.op == "L2Loss":
        return True
    if operator.scope.count("/") == 1:  # of the step itself, outside its network
        zeros = operator.op == "Greater" or (operator.op == "Cast" and operator.inputs[0].dtype == "bool")
        if zeros or operator.op in ("Mul", "Muls"):
            return True
    return operator.op in IN_PLACE


def _with_buckets(program: StepProgram, tasks: list[TimelineTask], machine: Machine) -> list[TimelineTask]:
    """Buckets as one message each. The list stays in an order in which tasks stand after those they wait for; numbers
    do not change, so a bucket's first members wait for its last."""
    result = list(tasks)
    for numbers in buckets(program.operators):
        *others, last = numbers
        waits = sorted({wait for number in numbers for wait in tasks[number].waits} - set(numbers))
        size = sum(program.operators[number].message.bytes for number in numbers)
        whole = _message_task(program.operators[last], tasks[last].stream, machine, size)
        result[last] = replace(whole, waits=tuple(waits), micro=None)
        for number in others:
            result[number] = TimelineTask((last,), "", 0.0)
    return result
