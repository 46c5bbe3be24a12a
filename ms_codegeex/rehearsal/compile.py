"""Compiles the real model's training graph for ranks of a simulated cluster and compares it with the plan.

Parameters, matrix products and collectives of every distinct rank have full size; blocks are compiled once (lazy
inline). That changes how the engine communicates around a block (see `called_blocks`), so a second graph has all blocks
inlined, as in a run, but fewer of them. Micro-batches repeat the whole network and need no second graph.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import psutil

from ms_codegeex.config import RunConfig
from ms_codegeex.config.chosen_hardware import hardware_of
from ms_codegeex.errors import UserError
from ms_codegeex.files import read_json
from ms_codegeex.mesh import Mesh
from ms_codegeex.parallel.sharding import layouts_of
from ms_codegeex.planning.roofline import matmul_flops
from ms_codegeex.processes import python_process, run_reporting
from ms_codegeex.rehearsal.compile_report import CompileReport, PlanCheck, RankReport
from ms_codegeex.rehearsal.coverage import memory_of_stages
from ms_codegeex.rehearsal.job import SINGLE_THREAD, RehearsalJob
from ms_codegeex.rehearsal.stubs import loader_environment
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
WORKER_BYTES, MICRO_BATCHES_BYTES = 3 * 2**30, 11 * 2**30  # host memory to compile the 13B; with micro-batches
INLINED_LAYERS = 4
GROUPS = ("tensor", "data", "stage", "optimizer", "replica")


def distinct_ranks(mesh: Mesh) -> list[int]:
    """The first and last rank of each stage and of each kind of group there; all other ranks repeat one of them."""
    chosen = set()
    for stage in range(mesh.pipeline):
        first = mesh.rank(stage, 0, 0)
        for group in GROUPS:
            members = getattr(mesh, f"{group}_group")(first)
            chosen |= {members[0], members[-1]}
    return sorted(chosen)


def compile_ranks(
    config: RunConfig, ranks: Sequence[int] | None = None, progress: Callable[[int, int], None] | None = None
) -> CompileReport:
    """Compile these ranks (None: the distinct ones) and check them. Calls `progress(done, all)` after each.

    Raises `UserError` for a configuration that is not partitioned, `RunFailure` with the end of a worker's log.
    """
    if not config.partitioned:
        raise UserError(
            "rehearse: the engine partitions no graph on one device or on CPU processes; set devices to 2 or more, "
            "and device to ascend or gpu"
        )
    chosen = distinct_ranks(config.mesh) if ranks is None else list(ranks)
    for rank in chosen:
        if not 0 <= rank < config.devices:
            raise UserError(f"--ranks: {rank} is not one of the {config.devices} ranks 0 to {config.devices - 1}")
    checks = [_memory_check(*stage) for stage in memory_of_stages(config)]
    config = compiled_config(config)
    few = inlined_config(config)
    with tempfile.TemporaryDirectory(prefix="ms-codegeex-compile-") as folder:
        jobs = [(RehearsalJob(Path(folder) / "full", config, 1), rank, "once") for rank in chosen]
        if few:
            jobs.append((RehearsalJob(Path(folder) / "few", few, 1), chosen[0], "inline"))
        compiled = _run(jobs, progress or (lambda done, total: None))
    checks += _checks(config, [x for x in compiled if not x.inlined])
    if few:
        checks += _graph_checks(few, compiled[-1], f"{few.model.sizes.num_layers} layers inlined, ")
    return CompileReport(config, compiled, checks)


def _memory_check(stage: int, needed: float, usable: float) -> PlanCheck:
    """Check that the plan fits the memory of a device of this stage; GiB."""
    limit = f"at most {usable:.1f} GiB"
    return PlanCheck(
        f"stage {stage}, planned memory of a device", limit, limit if needed <= usable else f"{needed:.1f} GiB"
    )


def compiled_config(config: RunConfig) -> RunConfig:
    """The configuration with as few micro-batches as show everything: two, or one per stage. More would repeat them and
    cost time and host memory."""
    few = min(config.accumulation, max(2, config.mesh.pipeline))
    batch = config.micro_batch * few * config.mesh.data
    training = replace(config.training, global_batch=batch, micro_batch=config.micro_batch)
    return replace(config, training=training, parallel=replace(config.parallel, micro_batches=None))


def inlined_config(config: RunConfig) -> RunConfig | None:
    """The configuration with few enough layers to inline; None if no such graph is needed."""
    layers = config.model.sizes.num_layers
    if config.accumulation > 1:
        return None
    sizes = replace(config.model.sizes, num_layers=min(layers, INLINED_LAYERS))
    return replace(config, model=replace(config.model, sizes=sizes))


def _run(jobs: Sequence[tuple[RehearsalJob, int, str]], progress: Callable[[int, int], None]) -> list[RankReport]:
    words = []
    for job, rank, how in jobs:
        job.directory.mkdir(exist_ok=True)
        job.write()
        words += [str(job.directory), str(rank), how]
    need = MICRO_BATCHES_BYTES if jobs[0][0].config.accumulation > 1 else WORKER_BYTES
    at_once = max(1, min(AT_ONCE, psutil.virtual_memory().available // need))
    command = [*WORKER, str(os.getpid()), str(at_once), *words]
    environment = {**SINGLE_THREAD, **loader_environment()}
    done = count()
    progress(next(done), len(jobs))
    run_reporting(
        python_process("compilation", command, jobs[0][0].directory, environment),
        lambda line: progress(next(done), len(jobs)),
    )
    return [_read(job, rank, how) for job, rank, how in jobs]


def _read(job: RehearsalJob, rank: int, how: str) -> RankReport:
    stage = job.config.mesh.coordinates(rank)[0]
    return RankReport(stage=stage, inlined=how == "inline", **read_json(job.file("json", rank)))


def _checks(config: RunConfig, compiled: Sequence[RankReport]) -> list[PlanCheck]:
    checks = []
    for rank in compiled:
        checks += _graph_checks(config, rank, f"rank {rank.rank}, ")
    mesh, total, stages = config.mesh, 0, {x.stage: x for x in compiled}
    if len(stages) < mesh.pipeline:
        return checks  # only all stages together hold the whole model
    for layout in layouts_of(config):
        local = stages[layout.stage].weights.get(layout.name, ())
        if not layout.copy_of and local:
            total += mesh.stage_size * math.prod(local) // layout.replication(mesh)
    expected = config.model.sizes.parameter_count()
    return [*checks, PlanCheck("parameters: all shards over their replication", f"{expected:,}", f"{total:,}")]


def _graph_checks(config: RunConfig, rank: RankReport, name: str) -> list[PlanCheck]:
    """Parameters, matrix products and collectives of one graph."""
    mesh, chip = config.mesh, hardware_of(config)
    planned = {x.name: x.local_shape(mesh) for x in layouts_of(config) if x.stage == rank.stage}
    wrong = sorted(x for x in planned.keys() | rank.weights.keys() if planned.get(x) != rank.weights.get(x))
    checks = [
        PlanCheck(
            f"{name}local parameters", f"{sum(map(math.prod, planned.values())):,}", f"{rank.local_parameters:,}"
        ),
        PlanCheck(
            f"{name}shapes of parameters",
            "as planned" if not wrong else f"{wrong[0]} {list(planned.get(wrong[0], ()))}",
            "as planned" if not wrong else f"{list(rank.weights.get(wrong[0], ()))} ({len(wrong)} differ)",
        ),
        PlanCheck(
            f"{name}FLOPs of matrix products",
            f"{matmul_flops(config, rank.stage, chip):,}",
            f"{rank.matmul_flops:,}",
        ),
    ]
    return [*checks, *_collective_checks(config, rank, name)]


def _collective_checks(config: RunConfig, rank: RankReport, name: str) -> list[PlanCheck]:
    """One check of calls and one of buckets if all agree; otherwise one for each kind that differs."""
    planned = planned_calls(config, rank.rank)
    called = not rank.inlined and config.accumulation == 1
    if called:
        planned = called_blocks(config, rank.rank, planned)
    found = joined(planned, found_calls(rank.collectives))
    checks = [
        PlanCheck(f"{name}{what}", f"{expected} calls", f"{count} calls")
        for what, expected, count in differences(planned, found)
    ]
    total = f"{sum(found.values()):,} calls"
    checks = checks or [PlanCheck(f"{name}collectives", total, total)]
    wanted, seen = planned_buckets(config, rank.rank, called), found_buckets(rank.collectives)
    wrong = [
        PlanCheck(f"{name}{what}", f"{expected} calls", f"{count} calls")
        for what, expected, count in differences(wanted, seen)
    ]
    fused = f"{len({key[2] for key in seen})} buckets of {sum(seen.values()):,} calls"
    return checks + (wrong or [PlanCheck(f"{name}fusion", fused, fused)])
