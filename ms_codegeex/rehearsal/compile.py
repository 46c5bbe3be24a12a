"""The real model's training graph, compiled for ranks of a simulated cluster and held against the plan.

Full size: parameters, matrix products, collectives of every distinct rank, with the blocks compiled once (lazy inline).
That changes how the engine communicates around a block (see `called_blocks`), so that the graph as a run compiles it,
all blocks inlined, is compiled with a few blocks beside it. Micro-batches repeat the whole network, and need no second
graph.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from ms_codegeex.config import RunConfig
from ms_codegeex.config.chosen_hardware import hardware_of
from ms_codegeex.errors import UserError
from ms_codegeex.files import read_json
from ms_codegeex.mesh import Mesh
from ms_codegeex.parallel.sharding import layouts_of
from ms_codegeex.planning.roofline import matmul_flops
from ms_codegeex.rehearsal.job import Job
from ms_codegeex.rehearsal.limits import memory_of_stages, not_compiled
from ms_codegeex.rehearsal.processes import Task, run_tasks
from ms_codegeex.rehearsal.stubs import simulation_environment
from ms_codegeex.rehearsal.traffic import (
    called_blocks,
    differences,
    found_buckets,
    found_calls,
    joined,
    planned_buckets,
    planned_calls,
)

WORKER = ("-m", "ms_codegeex.rehearsal.compile_worker")
AT_ONCE = 2
WORKER_BYTES, MICRO_BATCHES_BYTES = 3 * 2**30, 11 * 2**30  # of a compile of the 13B; with micro-batches
INLINED_LAYERS = 4
STATE = ("optimizer.", "accu_grads.", "loss_scale.", "accumulated.")  # parameters that are no weights
GROUPS = ("tensor", "data", "stage", "optimizer", "replica", "tied")


@dataclass(frozen=True)
class Check:
    """One statement about a compiled graph, and whether it holds."""

    name: str
    expected: str
    found: str

    @property
    def ok(self) -> bool:
        """Whether found is what was expected."""
        return self.expected == self.found


@dataclass(frozen=True)
class RankReport:
    """What the worker saw of one rank. `inlined`: a graph of fewer blocks, all of them inlined as in a run."""

    rank: int
    stage: int
    inlined: bool
    compile_seconds: float
    build_seconds: float
    peak_memory_bytes: int
    parameters: Mapping[str, Sequence[int]]  # local shapes, optimizer state included
    collectives: Sequence[Mapping[str, Any]]
    matmul_flops: int
    nodes: int
    graph_bytes: int

    @property
    def weights(self) -> dict[str, tuple[int, ...]]:
        """Local shapes without optimizer state, gradients and counters."""
        return {name: tuple(shape) for name, shape in self.parameters.items() if not name.startswith(STATE)}

    @property
    def local_parameters(self) -> int:
        """Elements of weights on this rank."""
        return sum(math.prod(shape) for shape in self.weights.values())


@dataclass(frozen=True)
class CompileReport:
    """All compiled ranks and what was checked on them."""

    config: RunConfig
    ranks: Sequence[RankReport]
    checks: Sequence[Check]

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)

    @property
    def problems(self) -> list[str]:
        """One line for each check that failed."""
        return [f"{x.name}: expected {x.expected}, found {x.found}" for x in self.checks if not x.ok]

    def text(self) -> str:
        """Tables for people."""
        from ms_codegeex.rehearsal.compile_report import text

        return text(self)

    def to_json(self) -> dict[str, Any]:
        """Everything but the parameters' shapes as plain values."""
        kept = [{k: v for k, v in asdict(x).items() if k != "parameters"} for x in self.ranks]
        for values, rank in zip(kept, self.ranks, strict=True):
            values["local_parameters"] = rank.local_parameters
        return {
            "ok": self.ok,
            "devices": self.config.devices,
            "mesh": asdict(self.config.mesh),
            "ranks": kept,
            "checks": [{**asdict(x), "ok": x.ok} for x in self.checks],
            "compile_seconds": max(x.compile_seconds for x in self.ranks),
            "peak_memory_bytes": max(x.peak_memory_bytes for x in self.ranks),
            "problems": self.problems,
            "not_executed": not_compiled(self.config),
        }


def distinct_ranks(mesh: Mesh) -> list[int]:
    """First and last rank of each stage and, there, of every kind of group; all other ranks repeat one of them."""
    chosen = set()
    for stage in range(mesh.pipeline):
        first = mesh.rank(stage, 0, 0)
        for group in GROUPS[:-1]:
            members = getattr(mesh, f"{group}_group")(first)
            chosen |= {members[0], members[-1]}
    return sorted(chosen)


def compile_ranks(
    config: RunConfig, ranks: Sequence[int] | None = None, progress: Callable[[int, int], None] | None = None
) -> CompileReport:
    """Compile these ranks (none: the distinct ones) and check them. `progress(done, all)` is told after each.

    Raises `UserError` for a configuration that is not cut over devices, `RunFailure` with the end of a worker's log.
    """
    if not config.partitioned:
        raise UserError(
            "rehearse: the engine cuts no graph on one device or on CPU processes; set devices to 2 or more, and "
            "device to ascend or gpu"
        )
    chosen = distinct_ranks(config.mesh) if ranks is None else list(ranks)
    for rank in chosen:
        if not 0 <= rank < config.devices:
            raise UserError(f"--ranks: {rank} is not one of the {config.devices} ranks 0 to {config.devices - 1}")
    checks = [_memory_check(*stage) for stage in memory_of_stages(config)]
    config = compiled_config(config)
    few = inlined_config(config)
    with tempfile.TemporaryDirectory(prefix="ms-codegeex-compile-") as folder:
        jobs = [(Job(Path(folder) / "full", config, 1), rank, "once") for rank in chosen]
        if few:
            jobs.append((Job(Path(folder) / "few", few, 1), chosen[0], "inline"))
        compiled = _run(jobs, progress or (lambda done, total: None))
    checks += _checks(config, [x for x in compiled if not x.inlined])
    if few:
        checks += _graph_checks(few, compiled[-1], f"{few.model.sizes.num_layers} layers inlined, ")
    return CompileReport(config, compiled, checks)


def _memory_check(stage: int, needed: float, usable: float) -> Check:
    """That the run as it is planned fits a device of this stage; GiB."""
    limit = f"at most {usable:.1f} GiB"
    return Check(
        f"stage {stage}, memory of a device by the plan", limit, limit if needed <= usable else f"{needed:.1f} GiB"
    )


def compiled_config(config: RunConfig) -> RunConfig:
    """The configuration with as many micro-batches as show everything: two, or one for each stage. The others repeat
    them, and each takes time and memory of the host."""
    few = min(config.accumulation, max(2, config.mesh.pipeline))
    batch = config.micro_batch * few * config.mesh.data
    training = replace(config.training, global_batch=batch, micro_batch=config.micro_batch)
    return replace(config, training=training, parallel=replace(config.parallel, micro_batches=None))


def inlined_config(config: RunConfig) -> RunConfig | None:
    """The configuration with few enough layers to inline them; None where no such graph is needed."""
    layers = config.model.sizes.num_layers
    if config.accumulation > 1:
        return None
    sizes = replace(config.model.sizes, num_layers=min(layers, INLINED_LAYERS))
    return replace(config, model=replace(config.model, sizes=sizes))


def _run(jobs: Sequence[tuple[Job, int, str]], progress: Callable[[int, int], None]) -> list[RankReport]:
    tasks = []
    for job, rank, how in jobs:
        job.directory.mkdir(exist_ok=True)
        job.write()
        scratch = job.directory / f"scratch_{rank}"  # the engine leaves its own files where it runs
        scratch.mkdir()
        words = (*WORKER, str(job.directory), str(os.getpid()), str(rank), how)
        environment = simulation_environment(rank, job.config.devices)
        tasks.append(Task(f"compile of rank {rank}", words, scratch, environment))
    done: list[Task] = []

    def ended(task: Task) -> None:
        done.append(task)
        progress(len(done), len(tasks))

    progress(0, len(tasks))
    need = MICRO_BATCHES_BYTES if jobs[0][0].config.accumulation > 1 else WORKER_BYTES
    run_tasks(tasks, max(1, min(AT_ONCE, psutil.virtual_memory().available // need)), ended)
    return [_read(job, rank, how) for job, rank, how in jobs]


def _read(job: Job, rank: int, how: str) -> RankReport:
    stage = job.config.mesh.coordinates(rank)[0]
    return RankReport(stage=stage, inlined=how == "inline", **read_json(job.file("json", rank)))


def _checks(config: RunConfig, compiled: Sequence[RankReport]) -> list[Check]:
    checks = []
    for rank in compiled:
        checks += _graph_checks(config, rank, f"rank {rank.rank}, ")
    mesh, total, stages = config.mesh, 0, {x.stage: x for x in compiled}
    if len(stages) < mesh.pipeline:
        return checks  # the model is only whole on all stages
    for layout in layouts_of(config):
        local = stages[layout.stage].weights.get(layout.name, ())
        if not layout.copy_of and local:
            total += mesh.stage_size * math.prod(local) // layout.replication(mesh)
    expected = config.model.sizes.parameter_count()
    return [*checks, Check("parameters: all shards over their replication", f"{expected:,}", f"{total:,}")]


def _graph_checks(config: RunConfig, rank: RankReport, name: str) -> list[Check]:
    """Parameters, matrix products and collectives of one graph."""
    mesh, chip = config.mesh, hardware_of(config)
    planned = {x.name: x.local_shape(mesh) for x in layouts_of(config) if x.stage == rank.stage}
    wrong = sorted(x for x in planned.keys() | rank.weights.keys() if planned.get(x) != rank.weights.get(x))
    checks = [
        Check(f"{name}local parameters", f"{sum(map(math.prod, planned.values())):,}", f"{rank.local_parameters:,}"),
        Check(
            f"{name}shapes of parameters",
            "as planned" if not wrong else f"{wrong[0]} {list(planned.get(wrong[0], ()))}",
            "as planned" if not wrong else f"{list(rank.weights.get(wrong[0], ()))} ({len(wrong)} differ)",
        ),
        Check(
            f"{name}FLOPs of matrix products",
            f"{matmul_flops(config, rank.stage, chip):,}",
            f"{rank.matmul_flops:,}",
        ),
    ]
    return [*checks, *_collective_checks(config, rank, name)]


def _collective_checks(config: RunConfig, rank: RankReport, name: str) -> list[Check]:
    """One check of calls and one of buckets where all agree, else one for each kind that does not."""
    planned = planned_calls(config, rank.rank)
    called = not rank.inlined and config.accumulation == 1
    if called:
        planned = called_blocks(config, rank.rank, planned)
    found = joined(planned, found_calls(rank.collectives))
    checks = [
        Check(f"{name}{what}", f"{expected} calls", f"{count} calls")
        for what, expected, count in differences(planned, found)
    ]
    total = f"{sum(found.values()):,} calls"
    checks = checks or [Check(f"{name}collectives", total, total)]
    wanted, seen = planned_buckets(config, rank.rank, called), found_buckets(rank.collectives)
    wrong = [
        Check(f"{name}{what}", f"{expected} calls", f"{count} calls")
        for what, expected, count in differences(wanted, seen)
    ]
    fused = f"{len({key[2] for key in seen})} buckets of {sum(seen.values()):,} calls"
    return checks + (wrong or [Check(f"{name}fusion", fused, fused)])
