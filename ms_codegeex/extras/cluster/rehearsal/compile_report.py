"""The result of a compile rehearsal: what was compiled, what was checked, and both as tables and as JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ms_codegeex.base.printing import table
from ms_codegeex.config import RunConfig
from ms_codegeex.extras.cluster.rehearsal.backend import Kernel, unchecked_operators
from ms_codegeex.extras.cluster.rehearsal.coverage import not_compiled
from ms_codegeex.extras.cluster.rehearsal.plan_checks import STATE, PlanCheck


@dataclass(frozen=True)
class RankReport:
    """What compiling one rank showed. `inlined`: all blocks are inlined as in a run, and may be fewer than the run's.
    `layers`: of the compiled model."""

    rank: int
    stage: int
    inlined: bool
    layers: int
    compile_seconds: float
    build_seconds: float
    peak_memory_bytes: int
    parameters: Mapping[str, tuple[Sequence[int], str]]  # local shapes and dtypes, optimizer state included
    collectives: Sequence[Mapping[str, Any]]
    products: Mapping[str, int]  # FLOPs by element type
    narrow: Sequence[str]  # operators that should compute in FP32 and do not
    register_calls: Sequence[str]
    communicators: Sequence[Sequence[int]]
    loss_scale: float  # the first
    passes: Sequence[str]  # a pipeline stage's, in their order (`schedule.py`)
    messages: Sequence[Any]
    nodes: int
    graph_bytes: int

    @property
    def weights(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(shape) for name, (shape, _) in self.parameters.items() if not name.startswith(STATE)}

    @property
    def matmul_flops(self) -> int:
        return sum(self.products.values())

    @property
    def local_parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.weights.values())


@dataclass(frozen=True)
class CompileReport:
    """All compiled ranks and the checks made on them."""

    config: RunConfig
    ranks: Sequence[RankReport]
    checks: Sequence[PlanCheck]
    target: str = "gpu"
    kernels: Sequence[Kernel] = ()  # those that the back end launches, if it ran

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    @property
    def problems(self) -> list[str]:
        return [f"{x.name}: expected {x.expected}, found {x.found}" for x in self.checks if not x.ok]

    def text(self) -> str:
        """Ranks, the collectives of the first one (in its inlined graph, if there is one) and checks, as tables."""
        shown = next((x for x in self.ranks if x.inlined), self.ranks[0])
        what = f"rank {shown.rank}" + (f", {shown.layers} layers, all inlined as in a run" if shown.inlined else "")
        checks = [("ok" if x.ok else "FAIL", x.name, x.expected, x.found) for x in self.checks]
        micro = self.config.accumulation
        more = f"; {micro} micro-batches; a step may have more" if micro > 1 else ""
        planned = f"compiled for {self.config.devices:,} devices, target {self.target}: {self.config.mesh}{more}"
        lines = [planned, _ranks(self.ranks), ""]
        lines += [f"collectives of {what}", _buckets(shown), ""]
        lines += ["checks against the plan", table(("", "check", "expected", "found"), checks, 4), ""]
        if self.kernels:
            counts = Counter(kernel.op for kernel in self.kernels)
            chosen = ", ".join(f"{count} {op}" for op, count in counts.most_common())
            lines += [f"kernels that the back end chose: {chosen}"]
            unchecked = ", ".join(unchecked_operators(self.kernels))
            lines += [f"of these left to CANN's library of operators, which is a stub here: {unchecked or 'none'}", ""]
        failed = sum(not x.ok for x in self.checks)
        lines.append(f"{failed} of {len(checks)} checks failed" if failed else f"all {len(checks)} checks hold")
        lines += [f"not checked: {line}" for line in not_compiled(self.config, self.target)]
        return "\n".join(line.rstrip() for line in lines)

    def to_json(self) -> dict[str, Any]:
        """Everything except the parameters' shapes and the single messages as JSON values."""
        sums = ("local_parameters", "matmul_flops")
        kept = [asdict(x) | {name: getattr(x, name) for name in sums} for x in self.ranks]
        for values in kept:
            del values["parameters"], values["messages"]
        return {
            "ok": self.ok,
            "devices": self.config.devices,
            "target": self.target,
            "mesh": asdict(self.config.mesh),
            "ranks": kept,
            "checks": [{**asdict(x), "ok": x.ok} for x in self.checks],
            "compile_seconds": max(x.compile_seconds for x in self.ranks),
            "peak_memory_bytes": max(x.peak_memory_bytes for x in self.ranks),
            "backend_kernels": dict(Counter(kernel.op for kernel in self.kernels)),
            "backend_libraries": {kernel.op: kernel.library for kernel in self.kernels},
            "problems": self.problems,
            "not_executed": not_compiled(self.config, self.target),
        }


def _ranks(ranks: Sequence[RankReport]) -> str:
    head = ("rank", "stage", "graph", "compile, s", "peak, GB", "parameters", "nodes")
    rows = [
        (
            f"{x.rank:,}",
            f"{x.stage}",
            f"{x.layers} layers, inlined" if x.inlined else "whole",
            f"{x.compile_seconds:.1f}",
            f"{x.peak_memory_bytes / 1e9:.2f}",
            f"{x.local_parameters:,}",
            f"{x.nodes:,}",
        )
        for x in ranks
    ]
    return table(head, rows, 3)


def _buckets(rank: RankReport) -> str:
    calls: Counter[tuple] = Counter()
    for x in rank.collectives:
        calls[x["op"], len(x["ranks"]), x["dtype"], x["bytes"], x["fusion"]] += x["calls"]
    rows = [
        (op, dtype, str(fusion or "-"), f"{size:,}", f"{count:,}", f"{each:,}", f"{count * each:,}")
        for (op, size, dtype, each, fusion), count in sorted(calls.items(), key=lambda item: (item[0][1], item[0]))
    ]
    return table(("operation", "type", "bucket", "devices", "calls", "bytes each", "bytes"), rows, 2)
