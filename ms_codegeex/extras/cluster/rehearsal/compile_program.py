"""Compile training graphs of ranks at their real size; started with LAUNCHER_PID AT_ONCE (JOB_DIRECTORY RANK MODE)…;
MODE is a `CompileMode` as JSON.

This process imports MindSpore and forks one for each graph, at most `AT_ONCE` at a time; a line on standard output
tells of each that is done. Nothing is executed and no memory is allocated for weights: MindSpore partitions shapes.
Without `inline`, what is repeated is compiled once and called (lazy inline): the blocks, or the whole network if a step
runs it for each micro-batch. With it, every block is inlined as in a run, and costs time and memory each time.
With `backend`, Ascend's back end runs as well, writes its graph after stream assignment, and dies.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor
from mindspore.communication import init
from mindspore.nn.utils import no_init_parameters

from ms_codegeex.base.files import write_json
from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.base.printing import print_out
from ms_codegeex.base.processes import ForkSpec, die_with_parent, run_processes
from ms_codegeex.config import RunConfig
from ms_codegeex.config.chosen_hardware import flat_cells
from ms_codegeex.extras.cluster.rehearsal import cann_stubs, mindir
from ms_codegeex.extras.cluster.rehearsal.backend import LEVEL
from ms_codegeex.extras.cluster.rehearsal.execution_program import answered, compiled, exported
from ms_codegeex.extras.cluster.rehearsal.job import CompileMode, RehearsalJob
from ms_codegeex.extras.cluster.rehearsal.schedule import schedule
from ms_codegeex.extras.cluster.rehearsal.stubs import rank_environment
from ms_codegeex.parallel import context
from ms_codegeex.parallel.gradients import sixteen_bits, use_gradient_functions
from ms_codegeex.parallel.sharding import recompute_of_blocks
from ms_codegeex.training.build import build, call_not_inline


def compile_rank(job: RehearsalJob, rank: int, mode: CompileMode) -> None:
    """Compile one rank's graph and write what it shows to `rank_N.json`."""
    began, stage = time.monotonic(), job.config.mesh.coordinates(rank)[0]
    step = simulated_step(job.config, rank, mode)
    if mode.backend:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        ms.set_context(save_graphs=1, save_graphs_path=str(job.directory / "graphs"), jit_config={"jit_level": "O0"})
    built = time.monotonic()
    compiled(step, local_inputs(job.config))
    ended = time.monotonic()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # MindSpore's alone; its graph is read later
    data = exported(step)
    model = mindir.parse(data)
    write_json(
        job.file("json", rank),
        {
            "rank": rank,
            "stage": stage,
            "inlined": mode.inline,
            "layers": job.config.model.sizes.num_layers,
            "build_seconds": built - began,
            "compile_seconds": ended - built,
            "peak_memory_bytes": peak,
            "parameters": mindir.described(model),
            "collectives": aggregated(mindir.collectives(model, rank)),
            "communicators": mindir.communicators(model),
            "products": mindir.matmul_flops(model, flat_cells(job.config)),
            "narrow": mindir.narrow(model),
            "register_calls": [x for x in mindir.executed(model) if "FloatStatus" in x],  # `training/overflow.py`
            "loss_scale": float(step.scale.asnumpy()),
            **schedule(model, rank),
            "nodes": sum(len(graph.node) for graph in (model.graph, *model.functions)),
            "graph_bytes": len(data),
        },
    )


def simulated_step(config: RunConfig, rank: int, mode: CompileMode) -> Any:
    """The rank's train step with its real optimizer, without memory for weights and moments."""
    if mode.target == "ascend":
        sys.path.append(str(cann_stubs.stub_folder() / "python"))
    ms.set_context(mode=ms.GRAPH_MODE, device_target={"ascend": "Ascend", "gpu": "GPU"}[mode.target])
    init()
    half = sixteen_bits(config)
    if half or mode.inline or config.accumulation > 1:  # or all layers are inlined: a large graph
        use_gradient_functions(half)
    with no_init_parameters():
        built = build(config, tied_group=context.enter(config, rank), partitioned=True)
    if not mode.inline:
        compile_once(built.network, config)
    return built.step.set_train(True)


def compile_once(network: Any, config: RunConfig) -> None:
    """Mark cells as MindSpore's `lazy_inline` does when they are built: cells with equal marks become one graph.

    MindSpore allows one level of this. A step with several micro-batches repeats the network, any other the blocks. A
    block outside their list (CodeGeeX's top query layer) takes other inputs, so it becomes a separate graph.
    """
    if config.accumulation > 1:
        call_not_inline(network)
        return
    for block, recomputed in zip(network.model.blocks, recompute_of_blocks(config), strict=False):
        block.cell_init_args = f"lazy_inline_block_{recomputed}"
    for name, cell in network.model.name_cells().items():
        if isinstance(cell, type(network.model.blocks[0])):
            cell.cell_init_args = f"lazy_inline_{name}"
    for block in network.model.blocks:  # recomputation cannot split the inputs of a function
        block._recompute_slice_activation(False)


def local_inputs(config: RunConfig) -> list[Any]:
    """inputs, labels, loss_mask, samples with the rows that one device loads."""
    rows, seq = config.training.global_batch // config.mesh.stage_size // config.calls, config.seq_length
    ids, mask = np.zeros((rows, seq), np.int32), np.ones((rows, seq), np.float32)
    return [Tensor(ids), Tensor(ids), Tensor(mask), Tensor(ids[:, 0].copy())]


def aggregated(collectives: Sequence[Any]) -> list[dict[str, Any]]:
    """Equal collectives merged: op, ranks of the group, dtype, bytes of one call, fusion id, calls in a step."""
    keys, calls = ("op", "ranks", "dtype", "bytes", "fusion"), Counter()
    for node in collectives:
        calls[tuple(getattr(node, key) for key in keys)] += node.calls
    return [{**dict(zip(keys, key, strict=True)), "calls": count} for key, count in calls.items()]


def compile_all(jobs: Sequence[tuple[RehearsalJob, int, CompileMode]], at_once: int) -> None:
    """Compile each graph in a separate process, and report on standard output when it has ended."""
    specs = []
    for job, rank, mode in jobs:
        scratch = job.directory / f"scratch_{rank}"  # MindSpore leaves its own files where it runs
        function = partial(answered, compile_rank, job, rank, mode)
        environment = rank_environment(rank, job.config.devices)
        if mode.backend:
            environment.update(LEVEL)
        specs.append(ForkSpec(f"compile of rank {rank}", function, scratch, environment))
    run_processes(specs, at_once, lambda done: print_out(done.label))


def main(arguments: Sequence[str]) -> int:
    """Compile the graphs of a command line; returns the exit status."""
    die_with_parent(int(arguments[0]))
    words, jobs = iter(arguments[2:]), []
    for directory, rank, word in zip(words, words, words, strict=True):
        jobs.append((RehearsalJob.read(Path(directory)), int(rank), CompileMode(**parse_json(word))))
    return answered(compile_all, jobs, int(arguments[1]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
