"""The processes of an executed rehearsal, started with JOB_DIRECTORY LAUNCHER_PID.

This one imports MindSpore and forks all others. `reference` trains on one device. `export` compiles one rank's
partitioned graph under simulation and writes it with its weights. `run` executes such a graph on this CPU, together
with the other ranks. A line on standard output tells of each step that is done.
"""

from __future__ import annotations

import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore.communication import init

try:
    from mindspore.graph.api import _cell_graph_executor
except ImportError:  # MindSpore 2.7 and 2.8
    from mindspore.common.api import _cell_graph_executor

from ms_codegeex.base.errors import RunFailure, UserError, first_line
from ms_codegeex.base.files import write_json
from ms_codegeex.base.host import available_cores
from ms_codegeex.base.printing import print_error, print_out
from ms_codegeex.base.processes import ForkSpec, die_with_parent, run_processes
from ms_codegeex.base.reading import read_json
from ms_codegeex.config import RunConfig
from ms_codegeex.config.validation import validated
from ms_codegeex.data.datasets.batches import Batch
from ms_codegeex.extras.cluster.rehearsal import callbacks, control_edges, mindir, probed_step
from ms_codegeex.extras.cluster.rehearsal.communicator import FileCommunicator
from ms_codegeex.extras.cluster.rehearsal.job import (
    RehearsalJob,
    batches,
    clip_of,
    engine_window,
    initial_value,
    local_rows,
    norm_limit_of,
    overflows_in,
)
from ms_codegeex.extras.cluster.rehearsal.schedule import schedule
from ms_codegeex.extras.cluster.rehearsal.shrink import single_device
from ms_codegeex.extras.cluster.rehearsal.stubs import rank_environment
from ms_codegeex.parallel import context
from ms_codegeex.parallel.gradients import sixteen_bits, use_gradient_functions
from ms_codegeex.parallel.sharding import Placement, layouts_of

MESSAGE_SECONDS = 900.0  # includes the slowest rank's start-up; a rank that fails ends the others at once


def reference(job: RehearsalJob) -> None:
    """Train on one device; write the outputs of every step and the final weights."""
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    config = single_device(job.config)
    built = probed_step.build_probed(config, probed_step.marked_parameter(job.config))
    names = {layout.name for layout in layouts_of(job.config)}
    weights = [parameter for parameter in built.step.get_parameters() if parameter.name in names]
    for parameter in weights:
        parameter.set_data(Tensor(initial_value(parameter.name, tuple(parameter.shape)), parameter.dtype))
    built.step.set_train(True)
    changing = (probed_step.CLIP, probed_step.OVERFLOW, probed_step.NORM_LIMIT)
    probes = {p.name: p for p in built.step.get_parameters() if p.name in changing}
    data, outputs = batches(config, job.steps), []
    for step in range(job.steps):
        _set_probes(probes, job, step, overflows=True)
        *others, last = Batch(*[a[step] for a in data]).parts(config.accumulation)
        for part in others:
            built.accumulate_step(*map(Tensor, part.arrays()))
        outputs.append(built.step(*map(Tensor, last.arrays())).asnumpy().tolist())
    np.savez(job.file("npz"), **{p.name: p.asnumpy() for p in weights})
    evaluation = None
    if job.evaluates:
        built.evaluation_step.set_train(False)
        parts = Batch(*[a[-1] for a in data]).parts(config.accumulation)
        sums = [built.evaluation_step(*map(Tensor, part.arrays())).asnumpy().astype(np.float64) for part in parts]
        evaluation = np.sum(sums, 0)[:2].tolist()
    write_json(job.file("json"), {"outputs": outputs, "evaluation": evaluation, **_resources()})


def _set_probes(probes: dict[str, Any], job: RehearsalJob, step: int, overflows: bool) -> None:
    probes[probed_step.CLIP].set_data(Tensor(clip_of(job.config, step), ms.float32))
    if probed_step.NORM_LIMIT in probes:
        probes[probed_step.NORM_LIMIT].set_data(Tensor(norm_limit_of(job.config, step, job.steps), ms.float32))
    infinite = overflows and step == overflows_in(job.config, job.steps)
    # MindSpore may drop it on stages that do not hold the marked parameter.
    if infinite or probed_step.OVERFLOW in probes:
        probes[probed_step.OVERFLOW].set_data(Tensor(np.inf if infinite else 0.0, ms.float32))


def export(job: RehearsalJob, rank: int) -> None:
    """Compile this rank's graph, and that of the evaluation in a pipeline; write them as MindIR with their weights, and
    facts about them as JSON."""
    config = job.config
    cell = partitioned_step(config, rank)
    full = {p.name: p.asnumpy().copy() for p in cell.get_parameters()}  # compiling shards them
    first = [a[0] for a in batches(config, 1)]
    inputs = list(map(Tensor, _calls(config, rank, first, config.graph_micro_batches)[0]))
    began = time.monotonic()
    compiled(cell, inputs)
    facts = {"compile_seconds": time.monotonic() - began, **_written(job, rank, cell, full, "mindir")}
    if job.evaluates:
        inputs = list(map(Tensor, _calls(config, rank, first, config.evaluation_micro_batches)[0]))
        compiled(cell.set_train(False), inputs)
        evaluation = _written(job, rank, cell, full, "evaluation.mindir", len(facts["collectives"]))
        facts["evaluation"] = evaluation["collectives"]
    write_json(job.file("json", rank), {**facts, **_resources()})


def _written(job: RehearsalJob, rank: int, cell: Any, full: dict[str, np.ndarray], name: str, after: int = 0) -> dict:
    model = mindir.parse(exported(cell))
    collectives = [asdict(c) for c in mindir.collectives(model, rank)]
    shown = {"parameters": mindir.described(model), "passes": schedule(model, rank)["passes"]}
    windows = fill(model, cell.parameter_layout_dict, full, job.config, rank)
    library = callbacks.library()
    control_edges.hold(model, library)
    mindir.rewrite(model, library, after)
    job.file(name, rank).write_bytes(model.SerializeToString())
    return {"collectives": collectives, **shown, "windows": windows}


def partitioned_step(config: RunConfig, rank: int) -> Any:
    """This rank's train step on a simulated cluster. Nothing is executed; simulation needs the GPU target."""
    ms.set_context(mode=ms.GRAPH_MODE, device_target="GPU")
    init()
    if half := sixteen_bits(config):
        use_gradient_functions(half)
    built = probed_step.build_probed(config, probed_step.marked_parameter(config), context.enter(config, rank))
    return built.step.set_train(True)


def compiled(cell: Any, inputs: Sequence[Tensor]) -> None:
    """Compile the cell. `RunFailure` with MindSpore's own last line, which it puts before a long call stack."""
    try:
        cell.compile(*inputs)
    except Exception as error:
        print_error(traceback.format_exc())
        raise RunFailure(f"MindSpore does not compile the plan: {first_line(error)}") from None


def exported(cell: Any) -> bytes:
    return _cell_graph_executor._graph_executor.get_func_graph_proto(cell.current_phase, "mind_ir", False)


def fill(model: Any, engine: dict[str, Any], full: dict[str, np.ndarray], config: RunConfig, rank: int) -> dict:
    """Write this rank's shard of every value into the graph; return the shards of weights as [start, stop] per axis.

    `engine`: the layouts that MindSpore chose; `full`: unsharded values as they were built.
    """
    placement, replica, windows = Placement(config, rank), config.mesh.coordinates(rank)[1], {}
    for proto in model.graph.parameter:
        name, local = mindir.parameter_name(proto.name), tuple(proto.dims)
        weight = name.removeprefix(probed_step.COPY)  # AdamW's copies start equal to the weights
        known = weight in placement.layouts
        value = initial_value(placement.stored_name(weight), full[name].shape) if known else full[name]
        if name in engine:
            window = engine_window(engine[name], rank, value.shape, local, replica)
            value = value[tuple(window)]
            if name in placement.layouts:
                windows[name] = [[part.start, part.stop] for part in window]
        if value.shape != local:
            raise RunFailure(f"{name}: rank {rank} holds {list(local)}, its layout says {list(value.shape)}")
        proto.raw_data = np.ascontiguousarray(value, full[name].dtype).tobytes()
    return windows


def run(job: RehearsalJob, rank: int) -> None:
    """Execute the exported graph together with the other ranks; write the outputs of every step and the final
    weights."""
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    # One thread executes: otherwise MindSpore chooses the order of ready operators from the sixth step on, and ranks
    # that wait for different messages of each other hang.
    ms.set_context(inter_op_parallel_num=1, runtime_num_threads=1)
    facts = read_json(job.file("json", rank))
    nodes = [validated(mindir.CollectiveNode, each) for each in (*facts["collectives"], *facts.get("evaluation", ()))]
    messages = FileCommunicator(job.messages, rank, MESSAGE_SECONDS).functions(nodes)
    with callbacks.Callbacks({control_edges.FUNCTION: lambda value, *_: value, **messages}).errors():
        _execute(job, rank, facts["windows"])


def _execute(job: RehearsalJob, rank: int, windows: Iterable[str]) -> None:
    network = nn.GraphCell(ms.load(str(job.file("mindir", rank))))
    held = {mindir.parameter_name(name): p for name, p in network.parameters_dict().items()}
    formula = probed_step.AdamWFormula(job.config.training.optimizer, probed_step.parameters_of(held, probed_step.COPY))
    data, outputs = batches(job.config, job.steps), []
    for step in range(job.steps):
        _set_probes(held, job, step, overflows=rank == job.config.mesh.world - 1)
        parts = _calls(job.config, rank, [a[step] for a in data], job.config.graph_micro_batches)
        outputs.append([network(*map(Tensor, part)) for part in parts][-1].asnumpy().tolist())
        if outputs[-1][5]:
            formula.update(outputs[-1][3], probed_step.parameters_of(held, probed_step.GRADIENT))
    np.savez(job.file("npz", rank), **{name: held[name].asnumpy() for name in windows})
    errors = formula.errors(probed_step.parameters_of(held, probed_step.COPY))
    evaluation = _evaluated(job, rank, held, [a[-1] for a in data]) if job.evaluates else None
    shown = {"outputs": outputs, "adamw": errors, "evaluation": evaluation}
    write_json(job.file("run.json", rank), {**shown, **_resources()})


def _evaluated(job: RehearsalJob, rank: int, held: dict[str, Any], batch: Sequence[np.ndarray]) -> list[float]:
    network = nn.GraphCell(ms.load(str(job.file("evaluation.mindir", rank))))
    for name, parameter in network.parameters_dict().items():
        parameter.set_data(Tensor(held[mindir.parameter_name(name)].asnumpy()))
    parts = _calls(job.config, rank, batch, job.config.evaluation_micro_batches)
    return np.sum([network(*map(Tensor, part)).asnumpy().astype(np.float64) for part in parts], 0)[:2].tolist()


def _calls(
    config: RunConfig, rank: int, batch: Sequence[np.ndarray], micro_batches: int
) -> list[tuple[np.ndarray, ...]]:
    local = Batch(*[local_rows(config, rank, a) for a in batch])
    return [part.arrays() for part in local.parts(config.accumulation // micro_batches)]


def _resources() -> dict[str, Any]:
    return {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def play(job: RehearsalJob) -> None:
    """Start every process, and report on standard output what has ended. `RunFailure` names the first that failed."""
    ranks = range(job.config.mesh.world)

    def process(label: str, function: Callable[..., None], *rank: int, **environment: str) -> ForkSpec:
        return ForkSpec(label, partial(answered, function, job, *rank), job.directory, environment)

    compiling = [process("reference", reference)]
    for rank in ranks:
        compiling.append(process(f"export of rank {rank}", export, rank, **rank_environment(rank, len(ranks))))
    run_processes(compiling, min(available_cores(), 2), lambda done: print_out(f"compiled: {done.label}"))
    print_out(f"executing {job.steps} steps on {len(ranks)} processes")
    run_processes([process(f"run of rank {rank}", run, rank) for rank in ranks], len(ranks))


def answered(function: Callable[..., None], *arguments: Any) -> int:
    """Call the function; on an error, print its message on standard error and return 2."""
    try:
        function(*arguments)
    except (UserError, RunFailure) as error:
        print_error(str(error))
        return 2
    return 0


def main(arguments: Sequence[str], play: Callable[[RehearsalJob], None] = play) -> int:
    die_with_parent(int(arguments[1]))
    return answered(play, RehearsalJob.read(Path(arguments[0])))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
