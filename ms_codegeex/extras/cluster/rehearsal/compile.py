"""Compiles the real model's training graph for ranks of a simulated cluster and compares it with the plan.

Parameters, matrix products and collectives of every distinct rank have full size; blocks are compiled once (lazy
inline). That changes how MindSpore communicates around a block (see `called_blocks`), so a second graph has all blocks
inlined, as in a run, but fewer of them. Micro-batches repeat the whole network and need no second graph.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Literal

import psutil

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.mesh import Mesh
from ms_codegeex.base.reading import read_json
from ms_codegeex.config import RunConfig
from ms_codegeex.config.chosen_hardware import flat_cells, hardware_of, running_on
from ms_codegeex.extras.cluster.plans.roofline import matmul_flops
from ms_codegeex.extras.cluster.rehearsal import cann_stubs, mindir, plan_checks
from ms_codegeex.extras.cluster.rehearsal import stubs as gpu_stubs
from ms_codegeex.extras.cluster.rehearsal.backend import backend_kernels, stream_checks
from ms_codegeex.extras.cluster.rehearsal.compile_report import CompileReport, RankReport
from ms_codegeex.extras.cluster.rehearsal.coverage import memory_of_stages
from ms_codegeex.extras.cluster.rehearsal.job import CompileMode, RehearsalJob, compile_graphs
from ms_codegeex.extras.cluster.rehearsal.plan_checks import PlanCheck, state_checks
from ms_codegeex.extras.cluster.rehearsal.schedule import message_checks, schedule_check
from ms_codegeex.models.decoder_config import SPARE
from ms_codegeex.parallel.sharding import MOMENTS, layouts_of, moments_of
from ms_codegeex.planning.communicators import communicators_of
from ms_codegeex.planning.cost_model import MatMul, executed_products, runs_again
from ms_codegeex.planning.model_parts import parts_of

AT_ONCE = 2
PROCESS_BYTES = 3 * 2**30  # host memory to compile the 13B
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
    config: RunConfig,
    ranks: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    target: Literal["gpu", "ascend"] = "gpu",
    backend: bool = False,
) -> CompileReport:
    """Compile these ranks (None: the distinct ones) and check them. Calls `progress(done, all)` after each.

    `target`: MindSpore's, gpu or ascend; either one partitions every run. `backend`: also run
    Ascend's back end on one graph, and check its streams.

    Raises `UserError` for a configuration that is not partitioned, `RunFailure` with the end of a process's log.
    """
    if config.device == "cpu":
        raise UserError("rehearse: CPU processes partition no graph; set device to ascend or gpu")
    hardware_of(config).peak(config.training.precision)
    chosen = distinct_ranks(config.mesh) if ranks is None else list(ranks)
    for rank in chosen:
        if not 0 <= rank < config.devices:
            raise UserError(f"--ranks: {rank} is not one of the {config.devices} ranks 0 to {config.devices - 1}")
    checks = [_memory_check(*stage) for stage in memory_of_stages(config)]
    config = compiled_config(config)
    few = inlined_config(config)
    with tempfile.TemporaryDirectory(prefix="ms-codegeex-compile-") as folder:
        full = RehearsalJob(Path(folder) / "full", config, 1)
        # MindSpore cannot gather weights twice around a block that is called
        called = config.accumulation > 1 or not config.mesh.gathers_twice
        jobs = [(full, rank, CompileMode(inline=not called, target=target)) for rank in chosen]
        if few:
            mode = CompileMode(inline=True, target=target)
            jobs.append((RehearsalJob(Path(folder) / "few", few, 1), chosen[0], mode))
        compiled = _run(jobs, progress or (lambda done, total: None))
    planned = config.of_a_call
    checks += _checks(planned, compiled[: len(chosen)])
    if few:
        checks += _graph_checks(few, compiled[-1], f"{few.model.sizes.num_layers} layers inlined, ")
    kernels = []
    if backend:
        shown = compiled[-1] if few else compiled[0]
        kernels = backend_kernels(few or config, shown.rank, inline=shown.inlined)
        checks += stream_checks(kernels, shown.collectives)
    return CompileReport(planned, compiled, checks, target, kernels)


def _memory_check(stage: int, needed: float, usable: float) -> PlanCheck:
    limit = f"at most {usable:.1f} GiB"
    found = limit if needed <= usable else f"{needed:.1f} GiB"
    return PlanCheck(f"stage {stage}, planned memory of a device", limit, found)


def compiled_config(config: RunConfig) -> RunConfig:
    """The configuration with as few micro-batches as show everything: two, or one per stage, with virtual stages two.
    More would repeat them and cost time and host memory."""
    rounds = 2 if config.mesh.virtual_stages > 1 else 1
    few = min(config.graph_micro_batches, max(2, rounds * config.mesh.pipeline)) if config.partitioned else 1
    batch = config.micro_batch * few * config.mesh.data * min(config.reductions, 2)
    training = replace(config.training, global_batch=batch, micro_batch=config.micro_batch)
    parallel = replace(config.parallel, micro_batches=None, graph_micro_batches=few)
    return replace(config, training=training, parallel=parallel)


def inlined_config(config: RunConfig) -> RunConfig | None:
    """The configuration with few enough layers to inline; None if no such graph is needed."""
    layers = config.model.sizes.num_layers
    if config.accumulation > 1 or config.mesh.gathers_twice:
        return None
    sizes = replace(config.model.sizes, num_layers=min(layers, INLINED_LAYERS))
    blocks = config.training.recompute_blocks
    if blocks and layers > INLINED_LAYERS:  # fewer of each kind
        counts = config.mesh.layers_per_stage(sizes.attention_layers)
        blocks = [min(number, count - 1) for number, count in zip(blocks, counts, strict=True)]
    training = replace(config.training, recompute_blocks=blocks)
    return replace(config, model=replace(config.model, sizes=sizes), training=training)


def _run(
    jobs: Sequence[tuple[RehearsalJob, int, CompileMode]], progress: Callable[[int, int], None]
) -> list[RankReport]:
    at_once = max(1, min(AT_ONCE, psutil.virtual_memory().available // PROCESS_BYTES))
    stubs = cann_stubs if jobs[0][2].target == "ascend" else gpu_stubs
    done = count()
    progress(next(done), len(jobs))
    environment = stubs.loader_environment()
    compile_graphs("compilation", jobs, environment, at_once, lambda _: progress(next(done), len(jobs)))
    return [RankReport(**read_json(job.file("json", rank))) for job, rank, _ in jobs]


def _checks(config: RunConfig, compiled: Sequence[RankReport]) -> list[PlanCheck]:
    checks = []
    for rank in compiled:
        checks += _graph_checks(config, rank, f"rank {rank.rank}, ")
    checks += message_checks({x.rank: x.messages for x in compiled})
    mesh, total, stages = config.mesh, 0, {x.stage: x for x in compiled}
    if len(stages) < mesh.pipeline:
        return checks  # only all stages together hold the whole model
    for layout in layouts_of(config):
        local = stages[layout.stage].weights.get(layout.name, ())
        if not layout.copy_of and local:
            total += mesh.stage_size * math.prod(local) // layout.replication(mesh)
    expected = sum(layout.size for layout in layouts_of(config) if not layout.copy_of)
    return [*checks, PlanCheck("parameters: all shards over their replication", f"{expected:,}", f"{total:,}")]


def _graph_checks(config: RunConfig, rank: RankReport, name: str) -> list[PlanCheck]:
    mesh = config.mesh
    layouts = [x for x in layouts_of(config) if x.stage == rank.stage]
    moments = sum(math.prod(shape) for key, (shape, _) in rank.parameters.items() if key.startswith(MOMENTS))
    planned = sum(x.local_size(mesh) * len(moments_of(config, x)) for x in layouts)
    scaled = "loss_scale.good_steps" in rank.parameters  # a step without loss scaling counts none
    register = "NPUClearFloatStatusV2, NPUGetFloatStatusV2" if running_on(config).saturates else "infinities"
    compared = {
        "local parameters": (f"{sum(x.local_size(mesh) for x in layouts):,}", f"{rank.local_parameters:,}"),
        "moments": (f"{planned:,}", f"{moments:,}"),
        "FLOPs of matrix products": (_by_dtype(_matmul_flops(config, rank)), _by_dtype(rank.products)),
        "norms, softmax, loss, update": ("FP32", _in_fp32(config, rank.narrow)),
        "loss scale": (_planned_scale(config), f"{rank.loss_scale:g}, {'dynamic' if scaled else 'constant'}"),
        "overflow": (register, ", ".join(sorted(rank.register_calls)) or "infinities"),
    }
    groups = Counter(tuple(sorted(x.ranks)) for x in communicators_of(config, rank.rank) if x.groups)
    seen = Counter(map(tuple, rank.communicators))
    wrong = sorted(((groups - seen) + (seen - groups)).elements())
    compared["communicators"] = tuple(_count(x, wrong) for x in (groups, seen))
    checks = [PlanCheck(what, *values) for what, values in compared.items()]
    checks += state_checks(config, rank.stage, rank.parameters)
    if mesh.pipeline > 1 and config.accumulation > 1:
        checks.append(schedule_check(config, rank.stage, rank.passes))
    return [replace(x, name=name + x.name) for x in checks] + _collective_checks(config, rank, name)


def _count(groups: Counter[tuple[int, ...]], wrong: Sequence[tuple[int, ...]]) -> str:
    return f"{groups.total()}" + (f", {groups[wrong[0]]} of ranks {list(wrong[0])}" if wrong else "")


def _planned_scale(config: RunConfig) -> str:
    """BF16 has the range of FP32, so neither needs a loss scale."""
    training = config.training
    return f"{training.loss_scale.initial:g}, dynamic" if training.precision == "fp16" else "1, constant"


def _in_fp32(config: RunConfig, narrow: Sequence[str]) -> str:
    wide = config.model.sizes.softmax_fp32 and not flat_cells(config)  # whose kernel is FP32 inside
    wrong = [x for x in narrow if wide or x not in mindir.SOFTMAX]
    return f"16 bits in {', '.join(wrong)}" if wrong else "FP32"


def _by_dtype(products: Mapping[str, int]) -> str:
    return ", ".join(f"{flops:,} {dtype}" for dtype, flops in sorted(products.items()) if flops)


def _matmul_flops(config: RunConfig, rank: RankReport) -> Counter[str]:
    chip = hardware_of(config)
    planned = matmul_flops(config, rank.stage, chip)
    total = Counter({plan_checks.DTYPES[precision]: flops for precision, flops in planned.items()})
    narrow, sizes = plan_checks.DTYPES[config.training.precision], config.model.sizes
    flat = flat_cells(config)
    if flat and not config.training.attention_rate:  # with it they have a product of their own, with a constant
        scores = config.local_batch * sizes.num_heads * config.seq_length**2
        total[narrow] += 2 * SPARE * scores * sizes.attention_layers
    if rank.inlined or config.accumulation > 1:
        return total
    parts = [part for part in parts_of(config, chip) if part.stage == rank.stage]
    for part in parts:
        if part.recompute == "selective" and not flat:
            repeated = (x for x in part.operators if isinstance(x, MatMul) and x.name == "context")
            total[narrow] -= part.count * sum(x.flops for x in repeated if runs_again(part.recompute, x.recompute))
    each = [sum(x.flops for x in executed_products(part)) for part in parts if part.name == "block"]
    total[narrow] += each[1] - each[0] if config.lora.rank and len(each) > 1 else 0
    return total


def _collective_checks(config: RunConfig, rank: RankReport, name: str) -> list[PlanCheck]:
    called = not rank.inlined and config.accumulation == 1
    planned = (plan_checks.called_blocks if called else plan_checks.planned_calls)(config, rank.rank)
    calls = plan_checks.joined(planned, plan_checks.found_calls(rank.collectives))
    wanted, seen = plan_checks.planned_buckets(config, rank.rank, called), plan_checks.found_buckets(rank.collectives)
    buckets = f"{len({key[2] for key in seen})} buckets of {sum(seen.values()):,} calls"
    checks = []
    for what, total, *both in (
        ("collectives", f"{sum(calls.values()):,} calls", planned, calls),
        ("fusion", buckets, wanted, seen),
    ):
        different = plan_checks.differences(*both)
        wrong = [PlanCheck(f"{name}{kind}", f"{x} calls", f"{y} calls") for kind, x, y in different]
        checks += wrong or [PlanCheck(f"{name}{what}", total, total)]
    return checks
