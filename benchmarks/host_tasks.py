"""The tasks of a step as the CPU processes of an executed rehearsal run them: one thread for each rank, which also
communicates, through files. Their costs are measured (`timeline.py`), so that the timeline's scheduling can
be compared with something that really runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ms_codegeex.extras.cluster.rehearsal.mindir import POINT_TO_POINT
from ms_codegeex.extras.cluster.rehearsal.timeline.operators import Operator, StepProgram
from ms_codegeex.extras.cluster.rehearsal.timeline.tasks import COMPUTE, TimelineTask

ARRIVAL = "files"  # the stream of messages that have been written; they take no time


@dataclass(frozen=True)
class HostCosts:
    """Measured seconds.

    Attributes:
        operators: of one unit of `work`, by the operator's kind; a kind that is left out takes no time of its own.
        launch: what every operator takes in addition.
        messages: a collective, from the moment when all ranks have arrived; a Send, which waits for nobody; a Receive
            of a message that is there.
        step: what a step takes outside its operators.
    """

    operators: Mapping[str, float]
    launch: float
    messages: Mapping[str, float]
    step: float


def work(operator: Operator) -> float:
    """What an operator's time is proportional to: FLOPs of matmuls, and bytes that any other operator moves."""
    if operator.costed.product:
        return sum(x.flops for x in operator.products)
    return operator.moved


def host_tasks(program: StepProgram, costs: HostCosts, *, in_order: bool = False) -> list[TimelineTask]:
    """One task for each operator, in the same order, and after them one for each message that a file carries.

    `in_order`: every operator waits for the one before it in the graph, as on a thread that has fixed its order.
    Otherwise the thread runs whatever is ready while a message is on its way.
    """
    tasks, arrivals, count = [], [], len(program.operators)
    for number, operator in enumerate(program.operators):
        if operator.message is None:
            own = not operator.alias
            seconds = costs.launch + costs.operators.get(operator.op, 0.0) * work(operator) if own else 0.0
            tasks.append(TimelineTask(operator.waits, COMPUTE if own else "", seconds, name=operator.op))
            continue
        waits, tag = operator.waits, operator.message.tag
        if operator.op in POINT_TO_POINT:
            arrival = count + len(arrivals)
            arrivals.append(TimelineTask((number,) if operator.op == "Send" else (), ARRIVAL, 0.0, tag=tag))
            waits, tag = (*waits, arrival) if operator.op == "Receive" else waits, None
        name = f"{operator.op} {operator.scope}"
        tasks.append(TimelineTask(waits, COMPUTE, costs.messages[operator.op], operator.op, name, tag=tag))
    if in_order:
        busy = [number for number, task in enumerate(tasks) if task.stream]
        for before, number in pairwise(busy):
            tasks[number] = replace(tasks[number], waits=tuple({*tasks[number].waits, before}))
    return tasks + arrivals


def repeated(tasks: Sequence[TimelineTask], steps: int, costs: HostCosts) -> list[TimelineTask]:
    """Several steps in a row. A rank begins each one when its own last one has ended, not when all ranks have."""
    found: list[TimelineTask] = []
    own = [number for number, task in enumerate(tasks) if task.stream != ARRIVAL]
    for step in range(steps):
        begin = len(found)
        before = tuple(begin - len(tasks) + number for number in own) if step else ()
        found.append(TimelineTask(before, COMPUTE, costs.step, name="step"))
        for task in tasks:
            waits = tuple(begin + 1 + wait for wait in task.waits)
            if not waits and task.stream != ARRIVAL:  # a file may be there before the step of its reader begins
                waits = (begin,)
            found.append(replace(task, waits=waits, tag=task.tag and f"{task.tag}, step {step}"))
    return found
