"""A bound that every schedule of tasks keeps."""

from collections.abc import Sequence
from graphlib import TopologicalSorter

from ms_codegeex.extras.cluster.rehearsal.timeline.tasks import TimelineTask


def critical_path(tasks: Sequence[TimelineTask]) -> float:
    """Seconds of the longest chain of tasks of one rank: no schedule is shorter."""
    order = TopologicalSorter({number: task.waits for number, task in enumerate(tasks)}).static_order()
    ends = [0.0] * len(tasks)
    for number in order:
        task = tasks[number]
        ends[number] = task.seconds + max((ends[wait] for wait in task.waits), default=0.0)
    return max(ends, default=0.0)
