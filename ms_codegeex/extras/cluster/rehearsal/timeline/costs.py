"""Seconds and stream of every operator, with the figures of the plan: matmuls by measured efficiency, other work by the
bytes that it moves through device memory, messages by size and links. It also says which operators run as one kernel,
and which messages are sent as one.

Graph-kernel fusion is modelled by one rule: an element-wise operator joins the kernel that has all of its users, and a
matmul joins the element-wise kernel that alone uses its result. The device's code generator may do more or less.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ms_codegeex.base.hardware import Chip
from ms_codegeex.base.mesh import Mesh
from ms_codegeex.extras.cluster.rehearsal.mindir import POINT_TO_POINT
from ms_codegeex.extras.cluster.rehearsal.timeline.operators import Operator, StepProgram
from ms_codegeex.extras.cluster.rehearsal.timeline.tasks import COMPUTE, TimelineTask
from ms_codegeex.planning.communication import transfer_seconds
from ms_codegeex.planning.operators import kernel_seconds

PRECISIONS = {"float16": "fp16", "bfloat16": "bf16"}
MATMUL, VECTOR, OPTIMIZER = "matrix products", "vector work", "optimizer"
RECEIVED = "collectives, pipeline, received"
GROUPS = ("tensor", "data", "optimizer", "replica", "stage")


@dataclass(frozen=True)
class Machine:
    """What operators run on. `fused`: whether element-wise chains are one kernel."""

    chip: Chip
    mesh: Mesh
    server_devices: int
    fused: bool


def users_of(operators: Sequence[Operator]) -> list[list[int]]:
    """For each operator, the numbers of those that wait for it."""
    users: list[list[int]] = [[] for _ in operators]
    for number, operator in enumerate(operators):
        for wait in operator.waits:
            users[wait].append(number)
    return users


def kernels(operators: Sequence[Operator]) -> list[int]:
    """For each operator the number of the last operator of its kernel; its own if it is not fused.

    Results leave a kernel only through its last operator, so fusing never makes a cycle.
    """
    users, root = users_of(operators), list(range(len(operators)))
    with_matmul: set[int] = set()  # kernels
    for number in range(len(operators) - 1, -1, -1):
        operator = operators[number]
        found = {root[user] for user in users[number]}
        if not operator.costed.begins or operator.message or len(found) != 1:
            continue
        (target,) = found
        if not _takes(operators[target], operator, has_matmul=target in with_matmul):
            continue
        root[number] = target
        if operator.costed.product:
            with_matmul.add(target)
    return root


def _takes(target: Operator, operator: Operator, has_matmul: bool) -> bool:
    """Whether the kernel that ends with `target` can begin with `operator`."""
    kernel = target.costed
    if operator.costed.product:
        whole = kernel.begins and kernel.ends  # no reduction
        return not has_matmul and whole and target.outputs[:1] and _size(target) == _size(operator)
    return kernel.ends


def _size(operator: Operator) -> int:
    return math.prod(operator.outputs[0].shape) if operator.outputs else 1


def buckets(operators: Sequence[Operator]) -> list[list[int]]:
    """Messages that are sent as one: equal operation, group and fusion number above 0, none waiting for another.

    The back end fuses the same way. Buckets whose members wait for one another stay apart.
    """
    found: dict[tuple, list[int]] = defaultdict(list)
    for number, operator in enumerate(operators):
        if operator.message and operator.message.fusion:
            found[operator.op, operator.message.ranks, operator.message.fusion].append(number)
    chosen, users = [members for members in found.values() if len(members) > 1], users_of(operators)
    return [members for i, members in enumerate(chosen) if not _entangled(users, chosen, i)]


def _entangled(users: Sequence[Sequence[int]], chosen: Sequence[Sequence[int]], index: int) -> bool:
    """Whether a member of this bucket waits for another one, directly or through other buckets."""
    bucket_of = {member: number for number, members in enumerate(chosen) for member in members}
    todo, reached = list(chosen[index]), set[int]()
    while todo:
        for user in users[todo.pop()]:
            bucket = bucket_of.get(user)
            if bucket == index:
                return True
            if user not in reached:
                more = (user,) if bucket is None else chosen[bucket]
                reached.update(more)
                todo += more
    return False


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
        return "" if operator.alias else COMPUTE
    if len(operator.message.ranks) < 2:
        return ""
    if operator.op in POINT_TO_POINT:
        return "pipeline"
    return group_of(mesh, operator.message.ranks, rank)


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


def _kernel(operators: Sequence[Operator], members: Sequence[int], chip: Chip) -> tuple[float, str]:
    """Seconds and kind of a kernel of these operators. A product's own operands are in its time; what a kernel moves
    beside them is added to it."""
    products = [operators[number] for number in members if operators[number].costed.product]
    last = operators[members[-1]]
    moved = last.moved if len(members) == 1 else kernel_bytes(operators, members)
    if not products:
        return kernel_seconds((), moved, chip, ""), OPTIMIZER if _updates(last) else VECTOR
    moved = max(0, moved - sum(x.bytes for each in products for x in (*each.inputs, *each.outputs)))
    precision = PRECISIONS.get(products[0].inputs[0].dtype, "fp32")
    found = [x for each in products for x in each.products]
    return kernel_seconds(found, moved if len(members) > 1 else 0, chip, precision), MATMUL


def _updates(operator: Operator) -> bool:
    """Whether it belongs to the sums of gradients, their norm, their scaling or the optimizer."""
    if "optimizer" in operator.scope:
        return True
    if operator.scope.count("/") == 1:  # it belongs to the step, not to its network
        zeros = operator.op == "Greater" or (operator.op == "Cast" and operator.inputs[0].dtype == "bool")
        if zeros or operator.op in ("Mul", "Muls", "ReduceSum"):
            return True
    return operator.costed.in_place


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
