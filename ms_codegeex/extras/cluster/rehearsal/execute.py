"""Executes a plan on CPU processes and compares it with training on one device."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.mesh import Mesh
from ms_codegeex.base.processes import python_process, run_reporting
from ms_codegeex.base.reading import read_json
from ms_codegeex.config import RunConfig
from ms_codegeex.extras.cluster.rehearsal.compare import ADAMW_LIMIT, LOSS_FALL_LIMITS, TOLERANCES, Comparison, compare
from ms_codegeex.extras.cluster.rehearsal.coverage import not_executed
from ms_codegeex.extras.cluster.rehearsal.job import SINGLE_THREAD, RehearsalJob
from ms_codegeex.extras.cluster.rehearsal.shrink import RANK_BYTES, shrunk, small_mesh
from ms_codegeex.extras.cluster.rehearsal.stubs import loader_environment

PROGRAM = ("-m", "ms_codegeex.extras.cluster.rehearsal.execution_program")
STEPS = {"fp32": 5, "fp16": 10}  # in FP16 some steps are skipped
ReportProgress = Callable[[str, int, int], None]  # what has been done, how many of how many


@dataclass(frozen=True)
class ExecutionReport:
    """A finished execution: the configuration that ran, its comparison, and the time and memory it took."""

    planned: Mesh
    config: RunConfig
    comparison: Comparison
    compile_seconds: float  # the slowest rank's
    peak_memory_bytes: int  # the sum over all ranks, which run at the same time; what they share counts for each
    collectives: dict[str, int]  # communication nodes of all ranks by kind
    left_out: tuple[str, ...] = ()  # what the verdict does not cover

    @property
    def passed(self) -> bool:
        return not self.comparison.problems

    def to_json(self) -> dict[str, Any]:
        comparison = self.comparison
        return {
            "verdict": "pass" if self.passed else "fail",
            "ranks": self.config.mesh.world,
            "steps": comparison.steps,
            "loss_relative_error": comparison.loss_error,
            "evaluation_relative_error": comparison.evaluation_error,
            "parameter_relative_error": comparison.parameter_error,
            "worst_parameter": comparison.parameter_errors[0].name,
            "replicas_equal": comparison.replicas_equal,
            "skipped_steps": comparison.skipped_steps,
            "clipped_steps": comparison.clipped_steps,
            "unclipped_steps": comparison.unclipped_steps,
            "adamw_relative_error": comparison.adamw_error,
            "loss_fall": comparison.loss_fall,
            "compile_seconds": self.compile_seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
            "collectives": self.collectives,
            "problems": list(comparison.problems),
            "not_executed": list(self.left_out),
        }


def check_executable(config: RunConfig, steps: int | None) -> None:
    """`UserError` if an execution could show nothing."""
    if steps is not None and steps < 4:
        raise UserError(f"--steps: {steps} steps are too few to show an error that builds up; give 4 or more")
    if config.devices == 1:
        remedy = "give --devices N or a parallel.* key above 1, or --compile alone"
        raise UserError(f"devices: 1 device has nothing to share; {remedy}")


def check_memory(mesh: Mesh) -> None:
    """`UserError` if this machine has too little memory to run all ranks of the mesh at once."""
    needed, free = mesh.world * RANK_BYTES, psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"--mesh: the {mesh.world} ranks of {mesh} need about {needed / 1e9:.1f} GB at once, {free / 1e9:.1f} GB "
            "are free; choose a smaller mesh, for example --mesh data=2,tensor=2"
        )


def execute(
    config: RunConfig,
    mesh: Mesh | None = None,
    steps: int | None = None,
    progress: ReportProgress = lambda what, number, count: None,
    program: Sequence[str] = PROGRAM,
) -> ExecutionReport:
    """Train `steps` steps of the plan, shrunk onto `mesh`, on its ranks and on one device, and compare them.

    `program`: the Python arguments that start `rehearsal.execution_program`.
    """
    small = shrunk(config, mesh or small_mesh(config.mesh))
    check_memory(small.mesh)
    world = small.mesh.world
    with tempfile.TemporaryDirectory(prefix="ms-codegeex-rehearsal-") as name:
        job = RehearsalJob(Path(name), small, steps or STEPS[small.training.precision])
        job.messages.mkdir()
        job.write()

        environment = {**SINGLE_THREAD, **loader_environment()}
        words = [*program, name, str(os.getpid())]
        finished = iter(range(1, world + 2))
        run_reporting(
            python_process("rehearsal", words, job.directory, environment),
            lambda what: progress(what, next(finished, world + 1), world + 1),
        )
        return _collect(job, config)


def _collect(job: RehearsalJob, planned: RunConfig) -> ExecutionReport:
    ranks = range(job.config.mesh.world)
    facts = [read_json(job.file("json", rank)) for rank in ranks]
    kinds: dict[str, int] = {}
    for fact in facts:
        for collective in fact["collectives"]:
            kinds[collective["op"]] = kinds.get(collective["op"], 0) + collective["calls"]
    return ExecutionReport(
        planned=planned.mesh,
        config=job.config,
        comparison=compare(job),
        compile_seconds=max(fact["compile_seconds"] for fact in facts),
        peak_memory_bytes=sum(read_json(job.file("run.json", rank))["peak_memory_bytes"] for rank in ranks),
        collectives=kinds,
        left_out=tuple(not_executed(planned, job.config)),
    )


def report(execution: ExecutionReport) -> str:
    """The verdict as a table in plain text."""
    result, config = execution.comparison, execution.config
    tolerances = TOLERANCES[config.training.precision]
    worst = result.parameter_errors[0]
    model, counts = config.model.sizes, (result.clipped_steps, result.unclipped_steps, result.skipped_steps)
    layers = f"{model.num_layers} layers x {model.hidden_size}, {config.training.precision}"
    batch = f"{config.accumulation} micro-batch(es) of {config.micro_batch} sequences per replica"
    rows = [
        ("mesh", f"{execution.planned}  ->  {config.mesh}", ""),
        ("model", f"{layers}, {batch}", ""),
        ("steps", "{}: {} clipped, {} not, {} skipped".format(result.steps, *counts), ""),
        ("weights moved by", f"{result.update:.1%} of their norm", ""),
        ("loss", f"relative error {result.loss_error:.1e}", f"limit {tolerances.loss:.0e}"),
        ("parameters", f"error {worst.error:.1e} of the movement ({worst.name})", f"limit {tolerances.parameter:.0e}"),
        ("AdamW", f"error {result.adamw_error:.1e} of the movement, against its formula", f"limit {ADAMW_LIMIT:.0e}"),
        (
            "fall of the loss",
            f"{result.loss_fall:.2f} of what the gradient predicts",
            "limits {} to {}".format(*LOSS_FALL_LIMITS),
        ),
        ("replicas", "equal bit for bit" if result.replicas_equal else "DIFFERENT", ""),
        ("communication", ", ".join(f"{n} {op}" for op, n in sorted(execution.collectives.items())), ""),
        ("slowest compilation", f"{execution.compile_seconds:.1f} s", ""),
        ("memory, all ranks", f"{execution.peak_memory_bytes / 1e9:.1f} GB", ""),
    ]
    if result.evaluation_error is not None:
        rows.insert(5, ("evaluation", f"relative error {result.evaluation_error:.1e}", f"limit {tolerances.loss:.0e}"))
    lines = [f"  {name:<20} {value}" + (f"   ({limit})" if limit else "") for name, value, limit in rows]
    lines += [f"  problem: {problem}" for problem in result.problems]
    lines += [f"  not executed: {line}" for line in execution.left_out]
    verdict = "PASS: it trains as one device does" if execution.passed else "FAIL"
    return "\n".join([f"execution on {config.mesh.world} CPU processes: {verdict}", *lines])
