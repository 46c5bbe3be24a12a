"""The timeline of a step: every rank's tasks with their times, and what follows from them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from ms_codegeex.config import RunConfig
from ms_codegeex.config.chosen_hardware import fused_kernels
from ms_codegeex.extras.cluster.plans.planner import DAY, Plan, make_plan
from ms_codegeex.extras.cluster.plans.roofline import collective_seconds
from ms_codegeex.extras.cluster.rehearsal.timeline.costs import (
    MATMUL,
    OPTIMIZER,
    RECEIVED,
    VECTOR,
    Machine,
    group_of,
    tasks_of,
)
from ms_codegeex.extras.cluster.rehearsal.timeline.lifetimes import MemoryProfile, memory
from ms_codegeex.extras.cluster.rehearsal.timeline.operators import StepProgram
from ms_codegeex.extras.cluster.rehearsal.timeline.tasks import COMPUTE, TaskSpan, TimelineTask, serial, simulate
from ms_codegeex.planning.communication import PlannedCollective, group_ranks
from ms_codegeex.planning.hardware_files import hardware_of

TOLERANCE = 0.03
ROUNDING = 1e-9  # in sums of seconds, relative to a step
WAITING = "waiting for other stages"


@dataclass(frozen=True)
class RankTimeline:
    """One rank: its tasks, and when they ran."""

    program: StepProgram
    tasks: Sequence[TimelineTask]
    spans: Sequence[TaskSpan]

    @property
    def end(self) -> float:
        """Seconds from the beginning of the step to the end of the last task."""
        return max((span.end for span in self.spans), default=0.0)

    @cached_property
    def work(self) -> dict[str, float]:
        """Seconds of all tasks by kind, whether they overlap or not."""
        sums: dict[str, float] = defaultdict(float)
        for task in self.tasks:
            if task.stream:
                sums[task.kind] += task.seconds
        return dict(sums)

    @property
    def computing(self) -> float:
        """Seconds in which the computation stream works."""
        return sum(task.seconds for task in self.tasks if task.stream == COMPUTE)

    @cached_property
    def memory(self) -> MemoryProfile:
        """The rank's memory over the step."""
        return memory(self.program, self.tasks, self.spans)

    def busy(self, stream: str) -> list[TaskSpan]:
        """When a stream works, in order."""
        pairs = zip(self.tasks, self.spans, strict=True)
        return sorted((s for task, s in pairs if task.stream == stream and s.end > s.start), key=lambda s: s.start)

    def exposed(self, step: float) -> dict[str, float]:
        """Seconds of the step in which the computation stream stands still: for each group while one of its messages
        travels (the earliest in the program, if several do), and otherwise waiting for another rank."""
        sums: dict[str, float] = defaultdict(float)
        for task, seconds in self.idle(step):
            sums[task.stream if task else WAITING] += seconds
        return dict(sums)

    def idle(self, step: float) -> list[tuple[TimelineTask | None, float]]:
        """The times in which the computation stream stands still, with the message that travels then."""
        pairs = zip(self.tasks, self.spans, strict=True)
        moving = [(span, task) for task, span in pairs if task.stream not in ("", COMPUTE)]
        return _attributed(gaps(self.busy(COMPUTE), step), moving)


def gaps(busy: Sequence[TaskSpan], end: float) -> list[TaskSpan]:
    """The times from 0 to `end` outside the given ones, which are in order and do not overlap."""
    found, before = [], 0.0
    for span in busy:
        if span.start > before:
            found.append(TaskSpan(before, span.start))
        before = max(before, span.end)
    return found + ([TaskSpan(before, end)] if end > before else [])


def _attributed(
    idle: Sequence[TaskSpan], moving: Sequence[tuple[TaskSpan, TimelineTask]]
) -> list[tuple[TimelineTask | None, float]]:
    """Seconds of parts of the idle times, with the message that travels then (the earliest in the program) or None."""
    found = []
    ordered = sorted(enumerate(moving), key=lambda item: item[1][0].start)
    for gap in idle:
        inside = [(n, s) for n, (s, _) in ordered if s.start < gap.end and s.end > gap.start]
        points = {gap.start, gap.end}
        points |= {p for _, s in inside for p in (s.start, s.end) if gap.start < p < gap.end}
        times = sorted(points)
        for start, end in pairwise(times):
            active = [n for n, s in inside if s.start <= start and s.end >= end]
            found.append((moving[min(active)][1] if active else None, end - start))
    return found


@dataclass(frozen=True)
class WorkComparison:
    """Seconds of one kind of work of a rank: by the plan and in its graph."""

    kind: str
    planned: float
    found: float
    reason: str = ""

    @property
    def error(self) -> float:
        """How much more the graph has, as a share of the plan; infinite if the plan has nothing."""
        return self.found / self.planned - 1 if self.planned else math.inf

    @property
    def differs(self) -> bool:
        """Whether they differ by more than `TOLERANCE`."""
        return bool(self.planned or self.found) and abs(self.error) > TOLERANCE


@dataclass(frozen=True)
class Shares:
    """Seconds of one rank; `computing`, `exposed` (idle while a message is in transit) and `bubble` (idle, nothing in
    transit) add up to the step."""

    computing: float
    exposed: dict[str, float]
    bubble: float


@dataclass(frozen=True)
class Pace:
    """How fast a run is if its step takes `seconds`. `overlap`: messages travel while devices compute, as simulated.
    `factor`: the time beyond all operators that is included; 1: none."""

    overlap: bool
    factor: float
    seconds: float
    mfu: float
    tokens_per_day: float


@dataclass(frozen=True)
class Timeline:
    """A simulated step of `config`, whose number of micro-batches is that of the graphs; `run` is the configuration
    that was asked for."""

    config: RunConfig
    run: RunConfig
    ranks: Sequence[RankTimeline]
    serial_seconds: float  # the same tasks with nothing overlapping

    @property
    def seconds(self) -> float:
        """Seconds of the step as compiled."""
        return max(rank.end for rank in self.ranks)

    @cached_property
    def plan(self) -> Plan:
        """The plan of what was compiled."""
        return make_plan(self.config)

    @property
    def period(self) -> float:
        """Seconds that one more micro-batch adds: the slowest rank's own work of one, with exposed messages."""
        if self.config.accumulation == 1:
            return 0.0
        return max(sum(self._own_micro_batch(rank).values()) for rank in self.ranks)

    def _own_micro_batch(self, rank: RankTimeline) -> dict[str, float]:
        """Seconds of one micro-batch of a rank: computing, and exposed messages of its tensor group. Weights and
        gradients travel once a step, although MindSpore names the micro-batch of some of these messages."""
        compute = sum(x.seconds for x in rank.tasks if x.stream == COMPUTE and x.micro is not None)
        idle = rank.idle(self.seconds)
        exposed = sum(seconds for x, seconds in idle if x and x.stream == "tensor" and x.micro is not None)
        sums = {COMPUTE: compute, "tensor": exposed}
        return {stream: seconds / self.config.accumulation for stream, seconds in sums.items()}

    def shares(self, rank: RankTimeline) -> Shares:
        """Where the run's step goes on this rank."""
        sums = defaultdict(float, {COMPUTE: rank.computing})
        for stream, seconds in rank.exposed(self.seconds).items():
            sums[stream] += seconds
        if more := self.run.accumulation - self.config.accumulation:
            for stream, seconds in self._own_micro_batch(rank).items():
                sums[stream] += more * seconds
        computing, _ = sums.pop(COMPUTE), sums.pop(WAITING, 0.0)
        bubble = self.run_seconds - computing - sum(sums.values())
        if bubble < -ROUNDING * self.run_seconds:  # no rank's micro-batch takes longer than `period`
            raise AssertionError(f"the parts of a rank's step exceed it by {-bubble} s of {self.run_seconds} s")
        return Shares(computing, dict(sums), max(0.0, bubble))

    @property
    def run_seconds(self) -> float:
        """The step of the run: further micro-batches take `period` each."""
        return self.seconds + (self.run.accumulation - self.config.accumulation) * self.period

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation of the run's step, before the plan's factor for what no operator shows."""
        return self.run_plan.mfu_of(self.run_seconds)

    @cached_property
    def run_plan(self) -> Plan:
        """The plan of the run."""
        return make_plan(self.run)

    @property
    def paces(self) -> list[Pace]:
        """The run's step with the overlap of this timeline, and as planned without any; each without the plan's factor
        and with it."""
        plan = self.run_plan
        found = []
        for overlap, seconds in ((True, self.run_seconds), (False, plan.time.total)):
            for factor in (1.0, plan.factor.value):
                step = seconds * factor
                found.append(Pace(overlap, factor, step, plan.mfu_of(step), plan.step_tokens * DAY / step))
        return found

    def comparison(self, rank: RankTimeline) -> list[WorkComparison]:
        """The plan's seconds of this rank's work next to those of its graph, by kind."""
        plan, stage, micro = self.plan, rank.program.stage, self.config.accumulation
        time = plan.time.stages[stage]
        planned = {
            MATMUL: micro * (time.work.matmul_forward + time.work.matmul_backward + time.work.matmul_recompute),
            VECTOR: micro * (time.work.vector_forward + time.work.vector_backward + time.work.vector_recompute),
            OPTIMIZER: time.update,
        }
        for collective in plan.collectives:
            if collective.stage == stage:
                kind = f"collectives, {self._stream(collective)}"
                seconds = collective_seconds(self.config, plan.chip, collective)
                planned[kind] = planned.get(kind, 0.0) + seconds
        planned.setdefault(RECEIVED, 0.0)
        found = []
        for kind in dict.fromkeys((*planned, *rank.work)):
            reason = REASONS.get(kind, BUCKETS if kind.startswith("collectives") else "")
            found.append(WorkComparison(kind, planned.get(kind, 0.0), rank.work.get(kind, 0.0), reason))
        return found

    def _stream(self, planned: PlannedCollective) -> str:
        """The group's name in the graph, where groups with the same members are one."""
        if planned.op == "Send":
            return "pipeline"
        mesh = self.config.mesh
        first = mesh.rank(planned.stage, 0, 0)
        return group_of(mesh, group_ranks(mesh, planned.group, first), first)


BUCKETS = "latency: the plan starts a message for each bucket of the largest number, the graph for those it has"
REASONS = {  # why plan and graph may differ in a kind of work
    MATMUL: "includes the element-wise work that is fused into matmuls",
    VECTOR: "the graph's kernels, fused by one rule; some of this work is fused into matmuls and counted there",
    OPTIMIZER: "the graph's kernels; the plan counts bytes for each parameter",
    RECEIVED: "the plan counts it at the stage that sends",
}


def make_timeline(config: RunConfig, run: RunConfig, programs: Sequence[StepProgram]) -> Timeline:
    """Simulate a step of these ranks, one of each stage.

    Other ranks are taken to be as fast as the one of their stage: a message waits only for simulated ranks.
    """
    chip = hardware_of(config)
    fused = "graph_kernel" in fused_kernels(config, chip.fused)
    machine = Machine(chip, config.mesh, config.parallel.server_devices, fused)
    tasks = [tasks_of(program, machine) for program in programs]
    alone = max(span.end for spans in simulate(serial(tasks)) for span in spans)
    ranks = zip(programs, tasks, simulate(tasks), strict=True)
    return Timeline(config, run, [RankTimeline(*each) for each in ranks], alone)
