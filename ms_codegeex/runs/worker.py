"""One rank of a run: `python -m ms_codegeex.runs.worker RUN_DIRECTORY [LAUNCHER_PID [CHECKPOINT]]`.

Everything else is in the run directory; the engine says how many ranks there are and which one this is.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import platform
import secrets
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.files import read_json, write_json
from ms_codegeex.base.hardware import GIB
from ms_codegeex.base.printing import print_error
from ms_codegeex.base.processes import die_with_parent
from ms_codegeex.config import RunConfig
from ms_codegeex.cuda.libraries import prepare
from ms_codegeex.formats.checkpoint import Checkpoint, step_name
from ms_codegeex.runs.hangs import STACKS
from ms_codegeex.runs.records import read_events
from ms_codegeex.runs.run_directory import RunDirectory, finite
from ms_codegeex.runs.worker_error import leave_error, save_under_way

if TYPE_CHECKING:
    from ms_codegeex.data.datasets.batches import Sequences
    from ms_codegeex.training.observers import Callback
    from ms_codegeex.training.trainer import Trainer


def measure_matmul_peak(
    ranks: int = 1, size: int = 1024, seconds: float = 0.6, precision: str = "fp32", at_once: int = 1
) -> float:
    """FLOP/s of matrix products while all ranks measure at once: the reference for MFU on a CPU or GPU.

    The result is the best over `seconds`, since other programs only slow it down. It is measured after a barrier,
    because the ranks of one machine share its cores. With `at_once` above 1, that many products are started before the
    rank waits for the last of them. No result is copied from the device, which would take longer than the product.
    """
    import mindspore as ms
    import numpy as np
    from mindspore import Tensor, ops

    number = {"fp32": ms.float32, "fp16": ms.float16, "bf16": ms.bfloat16}[precision]
    a, matmul, times = Tensor(np.ones((size, size), np.float32), number), ops.MatMul(), []
    matmul(a, a).asnumpy()
    if ranks > 1:
        ops.AllReduce()(Tensor(np.zeros(1, np.float32))).asnumpy()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        for _ in range(at_once):
            product = matmul(a, a)
        if at_once == 1:
            product.asnumpy()
        else:
            ms.runtime.synchronize()
        times.append((time.perf_counter() - began) / at_once)
    return 2 * size**3 / min(times)


def _initialise(config: RunConfig) -> tuple[RunConfig, int, str | None]:
    """Choose device and graph mode and join the other ranks. Returns the configuration with the hardware that the
    driver reports, this rank, and the communication group of the tied word embedding."""
    if config.device == "gpu":
        prepare()
    # The launcher has read the table. The engine would only notice the variable: it changes the compiler's level, and
    # then refuses to start from a table (MindSpore 2.9).
    os.environ.pop("RANK_TABLE_FILE", None)
    import mindspore as ms
    from mindspore import communication

    from ms_codegeex.parallel import context

    ms.set_context(mode=ms.GRAPH_MODE)
    if os.environ.get("MS_ROLE") == "MS_SCHED":  # it computes nothing, and msrun gives it no device
        ms.set_device("CPU")
    else:
        if config.device == "cpu":
            ms.set_device("CPU")
        else:  # every launcher, msrun too, says which
            ms.set_device({"gpu": "GPU", "ascend": "Ascend"}[config.device], int(os.environ["DEVICE_ID"]))
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
    """The configuration with the Ascend that was found, after checking its fused kernels again. Also sets the engine's
    options that depend on both: the memory limit that the plan assumes, and graph-kernel fusion."""
    import mindspore as ms

    from ms_codegeex.config.chosen_hardware import driver_hardware, running_on
    from ms_codegeex.config.fusions import check_kernels, chosen_kernels

    if config.device == "ascend":
        hardware = driver_hardware(config, ms.hal.get_device_name(ms.get_current_device().device_id, "Ascend"))
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
        return measure_matmul_peak(config.devices, size=8192, precision=precision, at_once=16)
    return measure_matmul_peak(config.devices)


def _kept_peak(config: RunConfig, run: RunDirectory, rank: int, launcher: str | None) -> float:
    """The same, measured once for all attempts of a command.

    Either all ranks measure or none does, since they synchronise while measuring; so rank 0 writes the file only
    afterwards. On several servers, the file system may show it only to some ranks, so there each attempt measures.
    """
    if launcher is None or config.device == "ascend" or run.servers.is_dir():
        return _matmul_peak(config)
    of = {"command": [platform.node(), launcher], "devices": config.devices, "precision": config.training.precision}
    with contextlib.suppress(UserError):
        if run.peak.is_file() and (kept := read_json(run.peak))["of"] == of:
            return kept["flops"]
    flops = _matmul_peak(config)
    if rank == 0:
        with contextlib.suppress(UserError):  # a full disk
            write_json(run.peak, {"of": of, "flops": flops})
    return flops


def _left_out(config: RunConfig, run: RunDirectory) -> list[int]:
    """The first samples of the batches that earlier attempts have left out."""
    if config.faults.policy != "rewind":
        return []
    return [event["left_out"] for event in read_events(run.events) if event["event"] == "rewind"]


def _any_rank(answer: bool) -> bool:
    """Whether any rank says yes; called by all of them."""
    import mindspore as ms
    from mindspore import Tensor, ops

    return bool(ops.AllReduce()(Tensor([float(answer)], ms.float32)).asnumpy()[0])


def _job_name(config: RunConfig, rank: int) -> str:
    """A random name for the saves of this job, the same on all ranks that write."""
    import mindspore as ms
    from mindspore import Tensor, ops

    number = secrets.randbelow(2**24)  # exact in FP32
    if config.partitioned:
        mine = Tensor([float(number if rank == 0 else 0)], ms.float32)
        number = int(ops.AllReduce()(mine).asnumpy()[0])
    return f"{number:06x}"


def _callbacks(config: RunConfig, run: RunDirectory, rank: int, checkpoint: Checkpoint | None) -> list[Callback]:
    """The callbacks of this rank, in the order of their calls."""
    from ms_codegeex.runs.callbacks import EventLog, JsonLog, LossPlot, StopOnRequest, TensorBoard
    from ms_codegeex.runs.replicas import ReplicaCheck
    from ms_codegeex.runs.saving import Checkpoints, Writers
    from ms_codegeex.runs.stopping import LastStep

    start = checkpoint.step if checkpoint else 0
    several = run.servers.is_dir() and config.devices > 1  # their file systems may show a file late
    callbacks: list[Callback] = [StopOnRequest(LastStep(run, leads=rank == 0), _any_rank if several else None)]
    if rank == 0:
        callbacks.append(JsonLog(run, config.logging.every))
        if config.logging.tensorboard:
            callbacks.append(TensorBoard(run.tensorboard, start + 1 if checkpoint else 0))
        if config.logging.plots:
            callbacks.append(LossPlot(run))
    if config.faults.replicas and config.devices > 1:
        callbacks.append(ReplicaCheck(run.replicas, config.faults.replicas, config.devices, start))
    if rank == 0 or config.partitioned:
        saving = config.checkpoint
        checkpoints = Checkpoints(
            run.checkpoints,
            saving.every,
            saving.keep,
            checkpoint,
            writers=Writers(config.devices if config.partitioned else 1, _job_name(config, rank)),
            keep_best=config.training.patience > 0,
            keep_every=saving.keep_every,
            background=saving.background,
        )
        callbacks.append(checkpoints)
    if rank == 0:
        callbacks.append(EventLog(run))  # the last one, because the others report events at their end
    return callbacks


def run(run_directory: RunDirectory, checkpoint: Checkpoint | None, launcher: str | None = None) -> None:
    """Build everything, train from `checkpoint` or from scratch, evaluate, and write the result. `launcher`: the
    process id of the command."""
    from ms_codegeex.data.datasets.opening import held_out_data, training_data, validation_data
    from ms_codegeex.runs.compile_cache import compile_cache
    from ms_codegeex.runs.weights import infill_of, weights_of
    from ms_codegeex.training.trainer import Trainer

    config = run_directory.read_config()
    config, rank, tied_group = _initialise(config)
    data, validation, held_out = training_data(config), validation_data(config), held_out_data(config)
    trainer = Trainer(
        config,
        data,
        validation,
        rank=rank,
        matmul_peak=_kept_peak(config, run_directory, rank, launcher),
        callbacks=_callbacks(config, run_directory, rank, checkpoint),
        left_out=_left_out(config, run_directory),
        tied_group=tied_group,
        weights=weights_of(config, begins=not checkpoint) if config.lora.rank or not checkpoint else {},
        infill=infill_of(config, checkpoint),
    )
    if config.compile_cache:
        with compile_cache(config, run_directory, rank) as found:
            trainer.compile()
        trainer.event("graphs", cached=found)
    if checkpoint:
        trainer.restore(checkpoint)
        trainer.status(f"continuing from step {checkpoint.step}")
    if config.model.weights and not trainer.progress.step:
        before = {"validation_loss_before": trainer.validation_loss(), "held_out_before": trainer.losses_on(held_out)}
        if rank == 0:  # kept for the summary, however often the run is interrupted
            write_json(run_directory.before, finite(before))
    trainer.run()
    if not trainer.stopped:  # otherwise the next attempt continues
        result = _result(trainer, run_directory, held_out)
        if rank == 0:
            write_json(run_directory.result, finite(result))


def _result(trainer: Trainer, run: RunDirectory, held_out: Mapping[str, Sequences]) -> dict[str, Any]:
    """The figures of the finished run. All losses are those of one checkpoint: the best one if the run keeps it,
    otherwise the last. Every rank evaluates."""
    config, last, tokens = trainer.config, trainer.progress.step, trainer.progress.tokens
    best = trainer.patience.best if config.training.patience else None
    kept = run.checkpoints / step_name(last)
    if best and best[0] != last and (there := run.checkpoints / step_name(best[0])).is_dir():
        kept = there
        trainer.restore(Checkpoint(kept))
    began = read_json(run.before) if run.before.is_file() else {}  # of the model that the run started from
    return {
        "parameters": config.model.sizes.parameter_count(),
        **trainer.final_figures(),
        "evaluated_step": trainer.progress.step,
        "steps": last,
        "tokens": tokens,
        "held_out": trainer.losses_on(held_out),
        "validation_loss_before": began.get("validation_loss_before"),
        "held_out_before": began.get("held_out_before", {}),
        "devices": config.devices,
        "matmul_peak_flops": trainer.rates.peak,
        "checkpoint": str(kept),
    }


def _wait_for_save(run: RunDirectory) -> None:
    """The end of one worker ends them all, so this one waits until rank 0 has saved; the launcher says how long."""
    with contextlib.suppress(UserError, OSError):  # a full disk has no room for the error
        while save_under_way(run):
            time.sleep(0.1)


def main() -> int:
    """Exit status 0 if this rank has finished its part; otherwise 2, with a one-line error left for the launcher."""
    faulthandler.register(STACKS, all_threads=True)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # some schedulers send it to every process; the launcher answers it
    die_with_parent(int(sys.argv[2]) if len(sys.argv) > 2 else None)
    run_directory, since = RunDirectory(Path(sys.argv[1])), 0
    try:
        checkpoint = Checkpoint(Path(sys.argv[3])) if len(sys.argv) > 3 else None
        since = checkpoint.step if checkpoint else 0
        run(run_directory, checkpoint, sys.argv[2] if len(sys.argv) > 2 else None)
    except (UserError, RunFailure) as error:
        print_error(str(error))
        leave_error(run_directory, error, since)
        _wait_for_save(run_directory)
        return 2
    rank = os.environ.get("RANK_ID", "0")
    write_json(run_directory.logs / f"done_{rank}.json", {"rank": rank})
    return 0


if __name__ == "__main__":
    sys.exit(main())
