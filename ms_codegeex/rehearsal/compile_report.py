"""A compile rehearsal as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ms_codegeex.rehearsal.compile import CompileReport, RankReport
from ms_codegeex.rehearsal.limits import not_compiled


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Aligned columns, the first `left` of them to the left."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return [
        "  "
        + "  ".join(x.ljust(w) if i < left else x.rjust(w) for i, (x, w) in enumerate(zip(row, widths, strict=True)))
        for row in [head, *rows]
    ]


def _ranks(report: CompileReport) -> list[str]:
    head = ("rank", "stage", "graph", "compile, s", "peak, GB", "parameters", "nodes")
    rows = [
        (
            f"{x.rank:,}",
            f"{x.stage}",
            "few layers, inlined" if x.inlined else "whole",
            f"{x.compile_seconds:.1f}",
            f"{x.peak_memory_bytes / 1e9:.2f}",
            f"{x.local_parameters:,}",
            f"{x.nodes:,}",
        )
        for x in report.ranks
    ]
    return _table(head, rows, 3)


def _buckets(rank: RankReport) -> list[str]:
    """The collectives of one rank; a bucket is what the engine sends as one."""
    calls: Counter[tuple] = Counter()
    for x in rank.collectives:
        calls[x["op"], len(x["ranks"]), x["dtype"], x["bytes"], x["fusion"]] += x["calls"]
    rows = [
        (op, dtype, str(fusion or "-"), f"{size:,}", f"{count:,}", f"{each:,}", f"{count * each:,}")
        for (op, size, dtype, each, fusion), count in sorted(calls.items(), key=lambda item: (item[0][1], item[0]))
    ]
    return _table(("operation", "type", "bucket", "devices", "calls", "bytes each", "bytes"), rows, 2)


def text(report: CompileReport) -> str:
    """Ranks, collectives of the first rank (as inlined, where there is such a graph), checks."""
    shown = next((x for x in report.ranks if x.inlined), report.ranks[0])
    what = f"rank {shown.rank}" + (", few layers, all inlined: the graph a run compiles" if shown.inlined else "")
    checks = [("ok" if x.ok else "FAIL", x.name, x.expected, x.found) for x in report.checks]
    micro = report.config.accumulation
    lines = [
        f"compiled for {report.config.devices:,} devices: {report.config.mesh}"
        + (f"; {micro} micro-batches, of which a step may have more" if micro > 1 else ""),
        *_ranks(report),
        "",
    ]
    lines += [f"collectives of {what}", *_buckets(shown), ""]
    lines += ["checks against the plan", *_table(("", "check", "expected", "found"), checks, 4), ""]
    failed = sum(not x.ok for x in report.checks)
    lines.append(f"{failed} of {len(checks)} checks failed" if failed else f"all {len(checks)} checks hold")
    lines += [f"not shown: {line}" for line in not_compiled(report.config)]
    return "\n".join(line.rstrip() for line in lines)
