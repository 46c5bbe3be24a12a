"""A timeline as text, as JSON values, as a Chrome trace and as a picture."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ms_codegeex.base.hardware import GIB
from ms_codegeex.base.printing import table
from ms_codegeex.extras.cluster.plans.planner import Estimate
from ms_codegeex.extras.cluster.rehearsal.timeline.costs import MATMUL, OPTIMIZER, VECTOR
from ms_codegeex.extras.cluster.rehearsal.timeline.tasks import COMPUTE
from ms_codegeex.extras.cluster.rehearsal.timeline.timeline import WAITING, RankTimeline, Timeline

MICROSECOND = 1e-6
HOLDERS = 8
COLOURS = {MATMUL: "tab:blue", VECTOR: "tab:cyan", OPTIMIZER: "tab:green"}
MESSAGES = "tab:orange"
WIDTH = 12.0


def estimate(timeline: Timeline) -> Estimate:
    """The run's step, from the simulated one: between full overlap, with streams that never wait while they have
    something to do, and none."""
    plan = timeline.run_plan
    own = plan.chip.calibration
    least = timeline.run_seconds + (own.gaps * plan.time.computing if own else 0.0)  # kernels follow without gaps here
    return plan.estimate_between(least, max(least, plan.counted_seconds))


def text(timeline: Timeline, explain: bool = False) -> str:
    """Step, MFU, exposed messages and memory, as tables. `explain`: with the parts of the estimate, and with the plan's
    figures beside the graph's."""
    lines = [f"{estimate(timeline).text()}", "  simulated from the compiled graphs; --explain shows its parts"]
    parts = (_simulated, _paces, _stages, _comparisons, _memory) if explain else (_stages, _memory)
    return "\n\n".join(("\n".join(lines), *(part(timeline) for part in parts)))


def _simulated(timeline: Timeline) -> str:
    plan, micro = timeline.plan, timeline.config.accumulation
    lines = [
        f"timeline of {micro} micro-batch{'es' if micro > 1 else ''} on {plan.chip.name}: {timeline.seconds:.4f} s",
        f"  on one stream, with nothing overlapping, {timeline.serial_seconds:.4f} s; the plan's roofline "
        f"{plan.time.total:.4f} s",
    ]
    if timeline.run.accumulation > micro:
        lines.append(
            f"  with the run's {timeline.run.accumulation} micro-batches {timeline.run_seconds:.4f} s: each additional "
            f"one adds {timeline.period:.4f} s"
        )
    return "\n".join(lines)


def _paces(timeline: Timeline) -> str:
    rows = []
    for pace in timeline.paces:
        name = "simulated, with the overlap of its streams" if pace.overlap else "planned, nothing overlaps"
        name += f", x {pace.factor:.3f} outside the roofline" if pace.factor != 1 else ""
        rows.append((name, f"{pace.seconds:.3f}", f"{pace.mfu:.1%}", f"{pace.tokens_per_day / 1e9:.2f} G"))
    return table(("the run's step", "seconds", "MFU", "token slots a day"), rows)


def _stages(timeline: Timeline) -> str:
    found = [(rank, timeline.shares(rank)) for rank in timeline.ranks]
    names, step = sorted({name for _, shares in found for name in shares.exposed}), timeline.run_seconds
    rows = []
    for rank, shares in found:
        seconds = (shares.computing, *(shares.exposed.get(name, 0.0) for name in names), shares.bubble)
        kernels = sum(task.stream == COMPUTE for task in rank.tasks)
        rows.append(
            (f"{rank.program.rank}", f"{rank.program.stage}", *(f"{x / step:.1%}" for x in seconds), f"{kernels:,}")
        )
    header = ("rank", "stage", "computing", *(f"exposed, {name}" for name in names), "bubble", "kernels")
    return f"where the run's step goes, share of {step:.4f} s\n{table(header, rows)}"


def _comparisons(timeline: Timeline) -> str:
    rows, reasons = [], {}
    for rank in timeline.ranks:
        for x in timeline.comparison(rank):
            if x.planned or x.found:
                off = f"{x.error:+.1%}" if x.planned else "-"
                rows.append((f"{rank.program.rank}", x.kind, f"{x.planned:.4f}", f"{x.found:.4f}", off))
            if x.differs and x.reason:
                reasons[x.kind] = x.reason
    notes = [f"  {kind}: {reason}" for kind, reason in reasons.items()]
    compared = table(("rank", "kind", "plan", "graph", ""), rows, 2)
    return "\n".join(["work of a step against the plan, seconds", compared, *notes])


def _memory(timeline: Timeline) -> str:
    rows = []
    for rank in timeline.ranks:
        found, stage = rank.memory, timeline.plan.memory[rank.program.stage]
        buffers = f"and {stage.communication / GIB:.2f} for buffers of communicators"
        blocks = f"of {found.pool.blocks / GIB:.0f} in blocks: the same tensors in the engine's pool"
        rows.append((f"{rank.program.rank}", "peak", "", f"{found.peak / GIB:.2f}", f"at {found.peak_at:.4f} s"))
        rows.append((f"{rank.program.rank}", "the pool", "", f"{found.pool.touched / GIB:.2f}", blocks))
        planned = stage.total - stage.communication
        rows.append((f"{rank.program.rank}", "the plan", "", f"{planned / GIB:.2f}", buffers))
        for name, count, size in found.holders[:HOLDERS]:
            rows.append((f"{rank.program.rank}", f"  {name}", f"{count:,}", f"{size / GIB:.2f}", ""))
    return "memory at its peak and what holds it\n" + table(("rank", "", "tensors", "GiB", ""), rows, 2)


def to_json(timeline: Timeline) -> dict[str, Any]:
    """The figures as plain values."""
    return {
        "seconds": timeline.seconds,
        "serial_seconds": timeline.serial_seconds,
        "micro_batches": timeline.config.accumulation,
        "run_micro_batches": timeline.run.accumulation,
        "run_seconds": timeline.run_seconds,
        "mfu": timeline.mfu,
        "outside_roofline": timeline.plan.factor.value,
        "roofline_seconds": timeline.plan.time.total,
        "steps": [asdict(pace) for pace in timeline.paces],
        "estimate": estimate(timeline).to_dict(),
        "ranks": [_rank_to_json(timeline, rank) for rank in timeline.ranks],
    }


def _rank_to_json(timeline: Timeline, rank: RankTimeline) -> dict[str, Any]:
    exposed, found, shares = rank.exposed(timeline.seconds), rank.memory, timeline.shares(rank)
    return {
        "rank": rank.program.rank,
        "stage": rank.program.stage,
        "computing": rank.computing,
        "bubble": exposed.pop(WAITING, 0.0),
        "exposed": exposed,
        "run": asdict(shares),
        "work": [asdict(x) for x in timeline.comparison(rank)],
        "peak_bytes": found.peak,
        "peak_at": found.peak_at,
        "parameter_bytes": found.parameters,
        "pool": asdict(found.pool),
        "holders": [{"name": name, "tensors": count, "bytes": size} for name, count, size in found.holders],
    }


def trace(timeline: Timeline) -> dict[str, Any]:
    """The timeline in Chrome's trace format (chrome://tracing, Perfetto): a process for each rank, a row for each
    stream, memory as a counter. Times are microseconds."""
    events: list[dict[str, Any]] = []
    for rank in timeline.ranks:
        number = rank.program.rank
        events.append(_named("process_name", number, 0, f"rank {number}, stage {rank.program.stage}"))
        for row, stream in enumerate(streams(rank)):
            events.append(_named("thread_name", number, row, stream))
            for task, span in zip(rank.tasks, rank.spans, strict=True):
                if task.stream == stream:
                    events.append(
                        {
                            "ph": "X",
                            "pid": number,
                            "tid": row,
                            "name": task.name,
                            "cat": task.kind,
                            "ts": span.start / MICROSECOND,
                            "dur": (span.end - span.start) / MICROSECOND,
                            "args": {} if task.micro is None else {"micro_batch": task.micro},
                        }
                    )
        for time, held in rank.memory.curve:
            events.append(
                {"ph": "C", "pid": number, "name": "memory, GiB", "ts": time / MICROSECOND, "args": {"": held / GIB}}
            )
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _named(what: str, rank: int, row: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": rank, "tid": row, "name": what, "args": {"name": name}}


def streams(rank: RankTimeline) -> list[str]:
    """The rank's streams, computation first."""
    found = {task.stream for task in rank.tasks} - {"", COMPUTE}
    return [COMPUTE, *sorted(found)]


def plot(timeline: Timeline, path: Path) -> None:
    """Write the streams of each rank over time, and its memory, as PNG."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = [len(streams(rank)) for rank in timeline.ranks]
    heights = [ratio for count in rows for ratio in (count, 2)]
    figure = Figure(figsize=(WIDTH, 1.0 + 0.35 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for index, rank in enumerate(timeline.ranks):
        _bars(axes[2 * index], rank)
        _curve(axes[2 * index + 1], rank)
    axes[-1].set_xlabel("seconds")
    axes[-1].set_xlim(0.0, timeline.seconds)
    shown = {**COLOURS, "collectives": MESSAGES}
    patches = [Patch(color=colour, label=name) for name, colour in shown.items()]
    figure.legend(handles=patches, loc="outside upper right", ncols=len(patches), fontsize="small")
    figure.savefig(path, dpi=120, format="png")


def _bars(axes: object, rank: RankTimeline) -> None:
    names = streams(rank)
    for row, stream in enumerate(names):
        for colour in (*COLOURS.values(), MESSAGES):
            bars = [
                (span.start, span.end - span.start)
                for task, span in zip(rank.tasks, rank.spans, strict=True)
                if task.stream == stream and COLOURS.get(task.kind, MESSAGES) == colour and span.end > span.start
            ]
            axes.broken_barh(bars, (row - 0.4, 0.8), facecolors=colour, edgecolors="none")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_ylabel(f"rank {rank.program.rank}\nstage {rank.program.stage}", fontsize="small")


def _curve(axes: object, rank: RankTimeline) -> None:
    curve = rank.memory.curve
    axes.step([time for time, _ in curve], [held / GIB for _, held in curve], where="post", color="tab:gray")
    axes.set_ylabel("GiB", fontsize="small")
    axes.set_ylim(bottom=0)
