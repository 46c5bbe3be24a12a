"""The Ascend back end in simulation: which kernels it launches, and the stream of each.

At simulation level 1 MindSpore continues after the front end: optimisation, kernel selection, assignment of streams
and events. Then it creates kernels, which the stub libraries do not provide, so the process crashes. By then it has
written the graph with its streams and logged from which library each kernel comes, which is all that is read here.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.config import RunConfig
from ms_codegeex.extras.cluster.rehearsal import cann_stubs
from ms_codegeex.extras.cluster.rehearsal.job import CompileMode, RehearsalJob, compile_graphs
from ms_codegeex.extras.cluster.rehearsal.mindir import COMMUNICATION
from ms_codegeex.extras.cluster.rehearsal.plan_checks import PlanCheck

# Variables with which MindSpore continues after the front end, and logs which kernels it selects.
LEVEL = {"MS_SIMULATION_LEVEL": "1", "MS_SUBMODULE_LOG_v": "{DEVICE:1}"}
DUMP = "hwopt_d_after_stream_assign"
NODE = re.compile(r"^\s+%\d+\([^=]*\) = (?:PrimFunc_)?(\w+)\(.*?\bstream_id: U32\((\d+)\)")
RANKS = re.compile(r"\bgroup_rank_ids: \(([\d, ]*)\)")
SELECTED = re.compile(r"CollectOpSelectedType\] (\w+) select (\w+) kernel")  # once for each operator
# MindSpore's plugin has code for each aclnn kernel. Every other operator becomes an aclop kernel, which CANN looks up
# by name; stub libraries refuse no name.
UNCHECKED = "aclop"


@dataclass(frozen=True)
class Kernel:
    """A node of the graph that the back end launches."""

    op: str
    stream: int
    ranks: tuple[int, ...] = ()  # empty unless it is a collective
    library: str = ""  # aclnn, aclop or hccl; empty for a view, which launches nothing, and for events


def read_libraries(lines: Iterable[str]) -> dict[str, str]:
    return dict(match.groups() for line in lines if (match := SELECTED.search(line)))


def read_kernels(lines: Iterable[str], libraries: Mapping[str, str] = MappingProxyType({})) -> list[Kernel]:
    """The kernels of a dumped graph; `libraries` is what `read_libraries` found."""
    kernels = []
    for line in lines:
        if match := NODE.match(line):
            ranks = RANKS.search(line) if match[1] in COMMUNICATION else None
            members = tuple(int(rank) for rank in ranks[1].split(",") if rank.strip()) if ranks else ()
            kernels.append(Kernel(match[1], int(match[2]), members, libraries.get(match[1], "")))
    return kernels


def backend_kernels(config: RunConfig, rank: int, *, inline: bool) -> list[Kernel]:
    """Compile `rank` as far as the stubs allow, and read its kernels. `inline`: as in `CompileMode`.

    Raises `RunFailure` if the process died before streams were assigned.
    """
    with tempfile.TemporaryDirectory(prefix="ms-codegeex-backend-") as folder:
        job = RehearsalJob(Path(folder) / "job", config, 1)
        mode = CompileMode(inline=inline, target="ascend", backend=True)
        environment = {**cann_stubs.loader_environment(), **LEVEL}
        failure: RunFailure | None = None
        try:
            compile_graphs("back end", [(job, rank, mode)], environment, 1, lambda line: None)
        except RunFailure as error:  # it always dies; only how far it came matters
            failure = error
        libraries = read_libraries(_lines(job.directory.rglob("*.log")))
        kernels = read_kernels(_lines(sorted(job.directory.rglob(f"{DUMP}*.ir"))), libraries)
    if not kernels:
        raise RunFailure(f"back end: no streams were assigned ({failure or 'nothing was written'})")
    return kernels


def _lines(files: Iterable[Path]) -> Iterator[str]:
    for file in files:
        with file.open(encoding="utf-8", errors="replace") as stream:
            yield from stream


def unchecked_operators(kernels: Iterable[Kernel]) -> list[str]:
    """Operators whose kernel would have to come from CANN's library of operators, which was not queried for it."""
    return sorted({kernel.op for kernel in kernels if kernel.library == UNCHECKED})


def stream_checks(kernels: Sequence[Kernel], listed: Iterable[dict]) -> list[PlanCheck]:
    """The streams, of which computation and each set of ranks should have one of its own; and the collectives against
    `listed`, those of the front end's graph."""
    streams: dict[tuple[int, ...], set[int]] = defaultdict(set)
    for kernel in kernels:
        streams[kernel.ranks].add(kernel.stream)
    groups = {ranks: ids for ranks, ids in streams.items() if len(ranks) > 1}
    distinct = {stream for ids in groups.values() for stream in ids}
    computing = {kernel.stream for kernel in kernels if kernel.op not in COMMUNICATION}
    calls: Counter[str] = Counter()
    for x in listed:
        if len(x["ranks"]) > 1:
            calls[x["op"]] += x["calls"]
    launched = Counter(kernel.op for kernel in kernels if len(kernel.ranks) > 1)
    one_each, shown = (f"{len(groups)} groups on {count} streams" for count in (len(groups), len(distinct)))
    several = any(len(x) > 1 for x in groups.values())
    return [
        PlanCheck("back end, computation", "1 stream", f"{len(computing)} stream{'s' * (len(computing) != 1)}"),
        PlanCheck("back end, collectives", one_each, shown + ", some groups on several" * several),
        PlanCheck("back end, collectives apart from computation", "0 shared", f"{len(distinct & computing)} shared"),
        PlanCheck("back end, kernels of collectives", _counted(calls), _counted(launched)),
    ]


def _counted(calls: Counter[str]) -> str:
    return ", ".join(f"{calls[op]} {op}" for op in COMMUNICATION if calls[op])
