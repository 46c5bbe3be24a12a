"""Start a run's workers, show their progress, end them together, and finish the run. Imports no engine."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil

from ms_codegeex.config import RunConfig, available_cores
from ms_codegeex.errors import RunFailure, UserError
from ms_codegeex.files import read_json
from ms_codegeex.training.checkpoint import Checkpoint, list_checkpoints, newest_sound, resolve
from ms_codegeex.training.display import Display
from ms_codegeex.training.processes import GRACE_SECONDS, Workers
from ms_codegeex.training.run_directory import RunDirectory

POLL_SECONDS = 0.1


def required_memory(config: RunConfig) -> int:
    """Bytes of host memory the run's CPU processes need, roughly.

    Fitted to resident sizes measured with the presets tiny, 25m and base (MindSpore 2.9.0, 512 to 4096 rows): within
    11 % of the first two, a quarter too high for the last. MindSpore's broadcast kernels keep buffers of their own,
    so an activation costs several times its size.
    """
    model, rows = config.model_config(), config.micro_batch * config.seq_length
    weights = (44 if config.local_batch > config.micro_batch else 40) * model.parameter_count()
    row = 48 * model.hidden_size + 16 * model.intermediate_size + 12 * model.num_heads * config.seq_length
    activations = 4 * rows * (model.num_layers + 1) * row
    logits = 4 * 4 * model.vocab_size * min(rows, config.loss_chunk or rows)
    return config.devices * (700_000_000 + weights + activations + logits)


def check_memory(config: RunConfig) -> None:
    """`UserError` if a CPU run cannot fit into the memory that is free now."""
    if config.device != "cpu":
        return
    needed, free = required_memory(config), psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"model.preset: {config.model.get('preset')} with training.micro_batch {config.micro_batch} needs about "
            f"{needed / 1e9:.1f} GB on {config.devices} process(es), {free / 1e9:.1f} GB are free; choose a smaller "
            "model.preset, training.micro_batch or --devices"
        )


def starting_point(config: RunConfig, run: RunDirectory) -> Checkpoint | None:
    """The checkpoint to continue from, chosen once for all workers; None: from scratch.

    `UserError` if the output holds a run that nobody asked to continue, or the checkpoint is of another model.
    """
    resume = config.checkpoint.resume
    if resume is None:
        if list_checkpoints(run.checkpoints):
            raise UserError(
                f"output: {run.path} already holds a run; continue it with --resume auto, or choose another output"
            )
        return None
    checkpoint = newest_sound(run.checkpoints) if resume == "auto" else resolve(Path(resume))
    if checkpoint is not None:
        old, new = checkpoint.state.get("config", {}).get("model", {}), config.to_dict()["model"]
        for key in sorted({*old, *new} - {"preset"}):
            if old.get(key) != new.get(key):
                raise UserError(
                    f"model.{key}: {new.get(key)}, but the run in {checkpoint.path} has {old.get(key)}; "
                    "choose another output, or the model of that run"
                )
    return checkpoint


def prepare_run_directory(config: RunConfig, run: RunDirectory) -> None:
    """Make the run directory and write what is known before the start; an earlier run's checkpoints and log stay."""
    shutil.rmtree(run.logs, ignore_errors=True)
    run.summary.unlink(missing_ok=True)
    run.logs.mkdir(parents=True, exist_ok=True)
    run.write_config(config)
    run.write_environment()


def _environment(config: RunConfig) -> dict[str, str]:
    """What the workers inherit beside the user's environment; a variable the user has set wins."""
    package_parent = str(Path(__file__).resolve().parents[2])
    defaults = {
        "GLOG_v": "3",
        "OMP_NUM_THREADS": str(max(1, available_cores() // config.devices)),
        "PYTHONPATH": os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")])),
    }
    keep = {name: os.environ[name] for name in ("GLOG_v", "OMP_NUM_THREADS") if name in os.environ}
    return {**defaults, **keep}


def run_workers(config: RunConfig, run: RunDirectory, checkpoint: Checkpoint | None) -> None:
    """Run the workers to their end.

    A dead one ends the job at once with its log's last lines (`RunFailure`); Ctrl-C and SIGTERM end all of them.
    """
    display = Display(run.progress, config.steps)
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        display.status(f"starting {config.devices} worker{'s' * (config.devices > 1)}")
        with Workers(
            "ms_codegeex.training.worker",
            [str(run.path), str(os.getpid()), *([str(checkpoint.path)] if checkpoint else [])],
            config.devices,
            run.logs,
            _environment(config),
        ) as workers:
            _watch(workers, config.devices, run, display)
    finally:
        display.poll()
        display.close()
        signal.signal(signal.SIGTERM, previous)


def _terminate(*_: object) -> None:
    sys.exit(128 + signal.SIGTERM)


def _watch(workers: Workers, count: int, run: RunDirectory, display: Display) -> None:
    finished_at: float | None = None
    while True:
        if len(workers.workers) < count:  # looking for processes costs more than looking at known ones
            workers.refresh()
        ended, launcher_ended = workers.ended(), workers.launcher_ended()
        done = len(list(run.logs.glob("done_*.json")))  # read after `ended`: a worker leaves its mark before it ends
        display.poll()
        if done == count:
            finished_at = finished_at or time.monotonic()
            # a worker may hang in its exit handlers: what is done is done
            if ended == count or time.monotonic() - finished_at > GRACE_SECONDS:
                return
        elif run.error.exists() and ended:
            error = read_json(run.error)
            raise (UserError if error["user"] else RunFailure)(error["message"])
        elif ended > done or launcher_ended:
            display.poll()
            display.close()
            raise RunFailure(f"a worker ended before its work was done, the others were ended; {workers.last_lines()}")
        time.sleep(POLL_SECONDS)
