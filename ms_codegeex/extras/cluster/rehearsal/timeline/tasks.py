"""What a rank's streams have to do, and when: list scheduling over the partial order of all simulated ranks.

Streams work at the same time, each on one task at a time. Among the tasks of a stream that are ready, the one that
stands first in its program starts (no stream waits while it has a ready task). A message starts when it is ready on
every simulated rank that takes part and all their streams are free.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ms_codegeex.base.errors import RunFailure

COMPUTE = "compute"


@dataclass(frozen=True)
class TimelineTask:
    """Work of one rank. `waits`: numbers of tasks of the same rank; `stream` "" takes no time; `tag`: names its
    message, the same on all ranks. `kernel`: the task that does this one's work, if that is another. `kind`, `name` and
    `micro` only describe it."""

    waits: tuple[int, ...]
    stream: str
    seconds: float
    kind: str = ""
    name: str = ""
    micro: int | None = None
    tag: str | None = None
    kernel: int | None = None


@dataclass(frozen=True)
class TaskSpan:
    """When a task ran, in seconds from the beginning of the step."""

    start: float
    end: float


def simulate(ranks: Sequence[Sequence[TimelineTask]]) -> list[list[TaskSpan]]:
    """When each task of each rank runs. Raises `RunFailure` if ranks wait for each other for ever."""
    return _Simulation(ranks).run()


class _Simulation:
    """Events in the order of time; a task is a pair: its rank's number and its own."""

    def __init__(self, ranks: Sequence[Sequence[TimelineTask]]):
        self.ranks, self.now = ranks, 0.0
        self.spans: list[list[TaskSpan | None]] = [[None] * len(tasks) for tasks in ranks]
        self.missing = [[len(set(task.waits)) for task in tasks] for tasks in ranks]
        self.users: list[list[list[int]]] = [[[] for _ in tasks] for tasks in ranks]
        self.ready: dict[tuple[int, str], list[int]] = defaultdict(list)
        self.free: dict[tuple[int, str], bool] = defaultdict(lambda: True)
        self.members: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.arrived: dict[str, int] = defaultdict(int)
        self.ending: list[tuple[float, int, int]] = []
        for rank, tasks in enumerate(ranks):
            for number, task in enumerate(tasks):
                for wait in set(task.waits):
                    self.users[rank][wait].append(number)
                if task.tag is not None:
                    self.members[task.tag].append((rank, number))

    def run(self) -> list[list[TaskSpan]]:
        """Simulate all tasks."""
        touched: set[tuple[int, str]] = set()
        for rank, tasks in enumerate(self.ranks):
            first = [number for number in range(len(tasks)) if not self.missing[rank][number]]
            touched |= self._become_ready(rank, first)
        self._start(touched)
        while self.ending:
            self.now, touched = self.ending[0][0], set()
            while self.ending and self.ending[0][0] == self.now:
                _, rank, number = heapq.heappop(self.ending)
                stream = (rank, self.ranks[rank][number].stream)
                self.free[stream] = True
                touched |= {stream} | self._become_ready(rank, self._freed(rank, number))
            self._start(touched)
        self._check()
        return [[span for span in spans if span] for spans in self.spans]

    def _become_ready(self, rank: int, numbers: Sequence[int]) -> set[tuple[int, str]]:
        """The streams that may have something to start now. What takes no time ends at once."""
        touched, ready = set(), list(numbers)
        while ready:
            number = ready.pop()
            task = self.ranks[rank][number]
            if not task.stream:
                self.spans[rank][number] = TaskSpan(self.now, self.now)
                ready += self._freed(rank, number)
                continue
            heapq.heappush(self.ready[rank, task.stream], number)
            touched.add((rank, task.stream))
            if task.tag is not None:
                self.arrived[task.tag] += 1
                touched |= {(other, self.ranks[other][index].stream) for other, index in self.members[task.tag]}
        return touched

    def _freed(self, rank: int, number: int) -> list[int]:
        """The tasks for which the end of this one was the last thing to wait for."""
        for user in self.users[rank][number]:
            self.missing[rank][user] -= 1
        return [user for user in self.users[rank][number] if not self.missing[rank][user]]

    def _start(self, touched: set[tuple[int, str]]) -> None:
        """Start what is ready on streams that are free. A message that cannot start leaves its stream to others."""
        for rank, stream in sorted(touched):
            waiting, kept = self.ready[rank, stream], []
            while waiting and self.free[rank, stream]:
                number = heapq.heappop(waiting)
                if self.spans[rank][number] is None and not self._begin(rank, number):
                    kept.append(number)
            for number in kept:
                heapq.heappush(waiting, number)

    def _begin(self, rank: int, number: int) -> bool:
        tag = self.ranks[rank][number].tag
        members = [(rank, number)] if tag is None else self.members[tag]
        streams = [(other, self.ranks[other][index].stream) for other, index in members]
        if tag is not None and self.arrived[tag] < len(members):
            return False
        if not all(self.free[stream] for stream in streams):
            return False
        end = self.now + max(self.ranks[other][index].seconds for other, index in members)
        for (other, index), stream in zip(members, streams, strict=True):
            self.spans[other][index] = TaskSpan(self.now, end)
            self.free[stream] = False
            heapq.heappush(self.ending, (end, other, index))
        return True

    def _check(self) -> None:
        for rank, spans in enumerate(self.spans):
            for number, span in enumerate(spans):
                if span is None:
                    task = self.ranks[rank][number]
                    raise RunFailure(
                        f"timeline: {task.name or task.kind} of simulated rank number {rank} never starts: ranks wait "
                        "for messages in orders that contradict each other, or a message has no partner"
                    )


def serial(ranks: Sequence[Sequence[TimelineTask]]) -> list[list[TimelineTask]]:
    """The same tasks on one stream of each rank: nothing overlaps."""
    return [[replace(task, stream=task.stream and COMPUTE) for task in tasks] for tasks in ranks]
