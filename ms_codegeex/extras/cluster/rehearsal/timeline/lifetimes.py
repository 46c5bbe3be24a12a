"""Memory of one rank over a simulated step: when each tensor exists, how much there is at most, and what holds it.

A tensor exists from the start of the operator that writes it to the end of the last one that reads it, also under
another name (Reshape, Load, Depend, an item of a tuple) or changed in place. Parameters exist all the time. Workspaces
of kernels and the communication library's buffers are not in it; fragmentation is in the pool's figures (`pool.py`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ms_codegeex.extras.cluster.rehearsal.timeline.operators import Operator, StepProgram
from ms_codegeex.extras.cluster.rehearsal.timeline.pool import PoolUse, replay
from ms_codegeex.extras.cluster.rehearsal.timeline.tasks import COMPUTE, TaskSpan, TimelineTask

STATE = {"optimizer": "moments", "accu_grads": "accumulated gradients"}
ENGINE_NAMES = re.compile(r"^(Gradients/|recompute_)?(?:[^/]*Default/)?")


@dataclass(frozen=True)
class Buffer:
    """A tensor with the time in which it exists, in seconds of the step. `stream`: where it is written; `bucket`: the
    fused message that brings it."""

    bytes: int
    start: float
    end: float
    held_by: str
    stream: str = COMPUTE
    bucket: int | None = None


@dataclass(frozen=True)
class MemoryProfile:
    """Bytes over time as (seconds, bytes from then on), and what holds the most of them at the peak."""

    parameters: int
    peak: int
    peak_at: float
    curve: tuple[tuple[float, int], ...]
    holders: tuple[tuple[str, int, int], ...]  # name, tensors, bytes; the largest first
    pool: PoolUse


def label(operator: Operator) -> str:
    """The operator with its place in the model, the same for all blocks."""
    place = ENGINE_NAMES.match(operator.scope)  # always matches, if only the empty text
    phase = {"Gradients/": "backward ", "recompute_": "recomputed "}.get(place[1], "")
    parts = [x.rpartition("-")[0] or x for x in operator.scope[place.end() :].split("/")[:-1]]
    parts = [x for x in parts if not x.isdecimal() and x not in ("network", "model", "blocks")]
    return f"{phase}{operator.op} {'/'.join(parts[-3:])}".strip()


def owner_of(program: StepProgram) -> list[int | str | None]:
    """For each operator, the operator or parameter whose memory holds its result; None if it has no result."""
    owners: list[int | str | None] = []
    for number, operator in enumerate(program.operators):
        if not operator.costed.data:
            owners.append(None)
        elif operator.alias or operator.costed.in_place:
            source = operator.reads[0] if operator.reads else None
            owners.append(owners[source] if isinstance(source, int) else source)
        else:
            owners.append(number)
    return owners


def buffers(program: StepProgram, tasks: Sequence[TimelineTask], spans: Sequence[TaskSpan]) -> list[Buffer]:
    """Every tensor that a step makes. What a fused kernel makes and uses itself has no memory."""
    owners, users = owner_of(program), defaultdict(list)
    for number, operator in enumerate(program.operators):
        if operator.alias:
            continue
        for source in operator.reads:
            if isinstance(source, int) and isinstance(owners[source], int):
                kernel = tasks[number].kernel
                users[owners[source]].append(number if kernel is None else kernel)
    found = []
    for number, operator in enumerate(program.operators):
        size = sum(x.bytes for x in operator.outputs)
        if owners[number] != number or not size or tasks[number].kernel is not None:
            continue
        waits = tasks[number].waits
        carrier = waits[0] if len(waits) == 1 and waits[0] > number else number  # the message of a member of a bucket
        end = max(spans[user].end for user in (*users[number], number))
        bucket = None if carrier == number else carrier
        stream = tasks[carrier].stream or COMPUTE
        found.append(Buffer(size, spans[carrier].start, end, label(operator), stream, bucket))
    return found


def memory(program: StepProgram, tasks: Sequence[TimelineTask], spans: Sequence[TaskSpan]) -> MemoryProfile:
    """Memory over the step and at its peak."""
    listed = buffers(program, tasks, spans)
    resident = sum(program.parameters.values())
    changes: dict[float, int] = defaultdict(int)
    for buffer in listed:
        changes[buffer.start] += buffer.bytes
        changes[buffer.end] -= buffer.bytes
    curve, held = [], resident
    for time in sorted(changes):
        held += changes[time]
        curve.append((time, held))
    peak_at, peak = max(curve, key=lambda point: point[1], default=(0.0, resident))
    pool = replay(listed, program.parameters.values())
    return MemoryProfile(resident, peak, peak_at, tuple(curve), _holders(program, listed, peak_at), pool)


def _holders(program: StepProgram, listed: Sequence[Buffer], time: float) -> tuple[tuple[str, int, int], ...]:
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    sizes = [(STATE.get(name.partition(".")[0], "weights"), size) for name, size in program.parameters.items()]
    sizes += [(x.held_by, x.bytes) for x in listed if x.start <= time < x.end]
    for name, size in sizes:
        sums[name][0] += 1
        sums[name][1] += size
    ordered = sorted(sums.items(), key=lambda item: (-item[1][1], item[0]))
    return tuple((name, count, size) for name, (count, size) in ordered)
