"""The processes of an executed rehearsal: `python -m ms_codegeex.rehearsal.worker ROLE JOB_DIRECTORY [RANK]`.

`reference` trains on one device. `export` compiles one rank's partitioned graph under simulation and writes it with its
weights. `run` executes such a graph on this CPU, with the other ranks.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.config import RunConfig, build_run_config
from ms_codegeex.errors import RunFailure, UserError
from ms_codegeex.files import read_json, write_json
from ms_codegeex.rehearsal.exchange import Exchange
from ms_codegeex.rehearsal.job import Job, batches, engine_window, initial_value, local_rows
from ms_codegeex.training.processes import die_with_parent

STATE = ("accu_grads.", "accumulated.", "loss_scale.", "optimizer.step")  # starts as the step made it


def single_device(config: RunConfig) -> RunConfig:
    """The same training on one device, in micro-batches of the same size: what a partitioned run has to equal."""
    values = config.to_dict()
    values["devices"], values["device"] = 1, "cpu"
    values["training"].update(micro_batch=config.micro_batch, recompute="none", loss_chunk=0)
    values["parallel"] = {}
    return build_run_config(values)


def reference(job: Job) -> None:
    """Train on one device; leave outputs of every step, weights before and after."""
    import mindspore as ms
    from mindspore import Tensor

    from ms_codegeex.training.build import build

    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    config = single_device(job.config)
    built = build(config, momentum=True)
    for parameter in built.optimizer.parameters:
        parameter.set_data(Tensor(initial_value(parameter.name, tuple(parameter.shape))))
    built.step.set_train(True)
    data, micro, outputs = batches(config, job.steps), config.micro_batch, []
    for step in range(job.steps):
        for i in range(config.accumulation - 1):
            built.accumulate_step(*[Tensor(a[step, i * micro : (i + 1) * micro]) for a in data])
        outputs.append(built.step(*[Tensor(a[step, -micro:]) for a in data]).asnumpy().tolist())
    np.savez(job.file("npz"), **{p.name: p.asnumpy() for p in built.optimizer.parameters})
    write_json(job.file("json"), {"outputs": outputs, **_resources()})


def export(job: Job, rank: int) -> None:
    """Compile this rank's graph; write it as MindIR with its weights, and what it communicates."""
    import mindspore as ms
    from mindspore import Tensor
    from mindspore.common.api import _cell_graph_executor
    from mindspore.communication import init

    from ms_codegeex.parallel import context
    from ms_codegeex.rehearsal import mindir
    from ms_codegeex.training.build import build

    config = job.config
    ms.set_context(mode=ms.GRAPH_MODE, device_target="GPU")  # simulated: nothing is executed
    init()
    built = build(config, momentum=True, tied_group=context.enter(config, rank))
    cell = built.step
    cell.set_train(True)
    full = {p.name: p.asnumpy().copy() for p in cell.get_parameters()}  # compiling cuts them
    inputs = [Tensor(local_rows(config, rank, a[0])) for a in batches(config, 1)]
    began = time.monotonic()
    cell.compile(*inputs)
    seconds = time.monotonic() - began
    proto = _cell_graph_executor._graph_executor.get_func_graph_proto(cell.current_phase, "mind_ir", False)
    model = mindir.parse(proto)
    owners = {layout.name: layout.copy_of for layout in _layouts(config)}
    windows = _fill(model, cell.parameter_layout_dict, full, owners, config, rank)
    mindir.rewrite_to(model, job.file("mindir", rank))
    write_json(
        job.file("json", rank),
        {"windows": windows, "compile_seconds": seconds, **mindir.report(mindir.parse(proto), rank), **_resources()},
    )


def _layouts(config: RunConfig) -> list[Any]:
    from ms_codegeex.models.registry import family

    return family(config.family).parallel.parameter_layouts(config.model_config(), config.mesh, config.parallel)


def run(job: Job, rank: int) -> None:
    """Execute the exported graph; leave outputs of every step and the final weights."""


def _resources() -> dict[str, Any]:
    return {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
