"""A timeline as a picture: the streams of each rank over time, and its memory."""

from __future__ import annotations

from pathlib import Path

from ms_codegeex.base.hardware import GIB
from ms_codegeex.rehearsal.timeline.costs import MATMUL, OPTIMIZER, VECTOR
from ms_codegeex.rehearsal.timeline.report import streams
from ms_codegeex.rehearsal.timeline.timeline import RankTimeline, Timeline

COLOURS = {MATMUL: "tab:blue", VECTOR: "tab:cyan", OPTIMIZER: "tab:green"}
MESSAGES = "tab:orange"
WIDTH = 12.0


def plot(timeline: Timeline, path: Path) -> None:
    """Write the picture as PNG."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = [len(streams(rank)) for rank in timeline.ranks]
    heights = [ratio for count in rows for ratio in (count, 2)]
    figure = Figure(figsize=(WIDTH, 1.0 + 0.35 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for index, rank in enumerate(timeline.ranks):
        _bars(axes[2 * index], rank)
        _memory(axes[2 * index + 1], rank)
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


def _memory(axes: object, rank: RankTimeline) -> None:
    curve = rank.memory.curve
    axes.step([time for time, _ in curve], [held / GIB for _, held in curve], where="post", color="tab:gray")
    axes.set_ylabel("GiB", fontsize="small")
    axes.set_ylim(bottom=0)
