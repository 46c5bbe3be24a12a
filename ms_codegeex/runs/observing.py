"""The callbacks of a rank: what observes its training, saves it and stops it."""

from __future__ import annotations

import secrets

from ms_codegeex.config import RunConfig
from ms_codegeex.formats.checkpoint import Checkpoint
from ms_codegeex.runs.callbacks import EventLog, JsonLog, LossPlot, StopOnRequest, TensorBoard
from ms_codegeex.runs.replicas import ReplicaCheck
from ms_codegeex.runs.run_directory import RunDirectory
from ms_codegeex.runs.saving import Checkpoints, Writers
from ms_codegeex.runs.stopping import LastStep
from ms_codegeex.training.observers import Callback


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


def callbacks_of(config: RunConfig, run: RunDirectory, rank: int, checkpoint: Checkpoint | None) -> list[Callback]:
    """The callbacks of this rank, in the order of their calls."""
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
