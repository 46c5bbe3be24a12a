"""One rank of a run: `python -m ms_codegeex.runs.worker RUN_DIRECTORY [LAUNCHER_PID [CHECKPOINT]]`.

Everything else is in the run directory; the engine says how many ranks there are and which one this is.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from ms_codegeex.config import RunConfig
from ms_codegeex.errors import RunFailure, UserError
from ms_codegeex.files import write_json
from ms_codegeex.formats.checkpoint import Checkpoint, step_name
from ms_codegeex.hardware import GIB
from ms_codegeex.processes import die_with_parent
from ms_codegeex.runs.run_directory import RunDirectory
from ms_codegeex.runs.worker_error import leave_error


def measure_matmul_peak(ranks: int = 1, size: int = 1024, seconds: float = 0.6, precision: str = "fp32") -> float:
    """FLOP/s of matrix products while all ranks measure at once: the reference for MFU on a CPU or GPU.

    The best over `seconds`, since other programs only slow it down; measured after a barrier because the ranks of one
    machine share its cores.
    """
    import numpy as np
    from mindspore import Tensor, ops

    number = {"fp32": np.float32, "fp16": np.float16}[precision]
    a, matmul, times = Tensor(np.ones((size, size), number)), ops.MatMul(), []
    matmul(a, a).asnumpy()
    if ranks > 1:
        ops.AllReduce()(Tensor(np.zeros(1, np.float32))).asnumpy()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        matmul(a, a).asnumpy()
        times.append(time.perf_counter() - began)
    return 2 * size**3 / min(times)


def _initialise(config: RunConfig) -> tuple[RunConfig, int, str | None]:
    """Choose device and graph mode and join the other ranks. Returns the configuration with the hardware that the
    driver reports, this rank, and the communication group of the tied word embedding."""
    import mindspore as ms
    from mindspore import communication

    from ms_codegeex.parallel import context

    ms.set_context(mode=ms.GRAPH_MODE)
    if "RANK_TABLE_FILE" in os.environ and config.device == "ascend":  # otherwise msrun gives each process its device
        ms.set_device("Ascend", int(os.environ["DEVICE_ID"]))
    else:
        ms.set_device({"cpu": "CPU", "gpu": "GPU", "ascend": "Ascend"}[config.device])
    config = _on_this_device(config)
    if config.devices == 1:
        return config, 0, None
    communication.init()
    if communication.get_group_size() != config.devices:
        raise RunFailure(
            f"{communication.get_group_size()} ranks joined, {config.devices} were expected; check --nodes or the rank "
            "table, and that every server has its share of the devices"
        )
    rank = communication.get_rank()
    return config, rank, context.enter(config, rank) if config.partitioned else None


def _on_this_device(config: RunConfig) -> RunConfig:
    """The configuration with the Ascend that was found and its fused kernels checked again. Also sets in the engine
    what depends on both: the memory limit that the plan assumes, and graph-kernel fusion."""
    import mindspore as ms

    from ms_codegeex.config.chosen_hardware import driver_hardware, running_on
    from ms_codegeex.config.fusions import check_kernels, chosen_kernels

    if config.device == "ascend":
        hardware = driver_hardware(config, ms.hal.get_device_name(device_target="Ascend"))
        config = replace(config, parallel=replace(config.parallel, hardware=hardware))
        check_kernels(config)
    if config.device != "cpu" and config.parallel.hardware:  # an unnamed GPU keeps its default
        ms.runtime.set_memory(max_size=f"{running_on(config).usable_memory // GIB}GB")
    if "graph_kernel" in chosen_kernels(config):
        if config.device == "cpu":  # there jit_level O1 fuses nothing (MindSpore 2.9), but the deprecated switch does
            ms.set_context(enable_graph_kernel=True)
        else:
            ms.set_context(jit_config={"jit_level": "O1"})
    return config


def _matmul_peak(config: RunConfig) -> float:
    """Peak FLOP/s of a device in the precision of the run, the reference for MFU: published for an Ascend, otherwise
    measured."""
    from ms_codegeex.config.chosen_hardware import running_on

    precision = config.training.precision
    if config.device == "ascend":
        return running_on(config).peak(precision)
    if config.device == "gpu":
        return measure_matmul_peak(config.devices, size=8192, precision=precision)
    return measure_matmul_peak(config.devices)


def _barrier() -> None:
    """Wait for all ranks."""
    import mindspore as ms
    from mindspore import Tensor, ops

    ops.AllReduce()(Tensor([0.0], ms.float32)).asnumpy()


def run(run_directory: RunDirectory, checkpoint: Checkpoint | None) -> None:
    """Build everything, train from `checkpoint` or from scratch, evaluate, and write the result."""
    from ms_codegeex.data.datasets.opening import training_data, validation_data
    from ms_codegeex.runs.callbacks import JsonLog, LossPlot, TensorBoard, truncate_log
    from ms_codegeex.runs.saving import Checkpoints
    from ms_codegeex.training.trainer import Trainer

    config = run_directory.read_config()
    config, rank, tied_group = _initialise(config)
    data, validation = training_data(config), validation_data(config)
    callbacks = []
    if rank == 0:
        truncate_log(run_directory.log, checkpoint.step if checkpoint else 0)
        callbacks.append(JsonLog(run_directory, config.logging.every))
        if config.logging.tensorboard:
            callbacks.append(TensorBoard(run_directory.tensorboard, checkpoint.step + 1 if checkpoint else 0))
        if config.logging.plots:
            callbacks.append(LossPlot(run_directory))
    if rank == 0 or config.partitioned:
        root, saving = run_directory.checkpoints, config.checkpoint
        sharded = {"writers": config.devices, "barrier": _barrier} if config.partitioned else {}
        callbacks.append(Checkpoints(root, saving.every, saving.keep, checkpoint, **sharded))
    trainer = Trainer(
        config,
        data,
        validation,
        rank=rank,
        matmul_peak=_matmul_peak(config),
        callbacks=callbacks,
        tied_group=tied_group,
    )
    if checkpoint:
        trainer.restore(checkpoint)
        trainer.status(f"continuing from step {checkpoint.step}")
    trainer.run()
    figures = trainer.final_figures()
    if rank == 0:
        write_json(
            run_directory.result,
            {
                "parameters": trainer.model_config.parameter_count(),
                **figures,
                "steps": trainer.progress.step,
                "devices": config.devices,
                "matmul_peak_flops": trainer.matmul_peak * config.devices,
                "checkpoint": str(run_directory.checkpoints / step_name(trainer.progress.step)),
            },
        )


def main() -> int:
    """Exit status 0 when this rank has done its part; otherwise 2, with a one-line error left for the launcher."""
    die_with_parent(int(sys.argv[2]) if len(sys.argv) > 2 else None)
    run_directory, since = RunDirectory(Path(sys.argv[1])), 0
    try:
        checkpoint = Checkpoint(Path(sys.argv[3])) if len(sys.argv) > 3 else None
        since = checkpoint.step if checkpoint else 0
        run(run_directory, checkpoint)
    except (UserError, RunFailure) as error:
        print(error, file=sys.stderr, flush=True)
        leave_error(run_directory, error, since)
        return 2
    rank = os.environ.get("RANK_ID", "0")
    write_json(run_directory.logs / f"done_{rank}.json", {"rank": rank})
    return 0


if __name__ == "__main__":
    sys.exit(main())
