"""Which operators run as one kernel, and which messages are sent as one.

Graph-kernel fusion is modelled by one rule: an element-wise operator joins the kernel that has all of its users, and a
matmul joins the element-wise kernel that alone uses its result. The device's code generator may do more or less.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from ms_codegeex.rehearsal.timeline.operators import Operator


def users_of(operators: Sequence[Operator]) -> list[list[int]]:
    """For each operator those that wait for it."""
    users: list[list[int]] = [[] for _ in operators]
    for number, operator in enumerate(operators):
        for wait in operator.waits:
            users[wait].append(number)
    return users


def kernels(operators: Sequence[Operator]) -> list[int]:
    """For each operator the number of the last operator of its kernel; its own if it is not fused.

    A kernel's operators have no way out of the kernel but through its end, so fusing never makes a circle.
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
