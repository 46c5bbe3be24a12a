"""One rank of a run, as a program: `python -m ms_codegeex.runs.rank RUN_DIRECTORY [LAUNCHER_PID [CHECKPOINT]]`.

All other input is in the run directory; the engine knows how many ranks there are and which one this is. The rank joins
the others, opens data and callbacks, trains, evaluates, and writes the result. For a run that starts from a model,
`from_model.py` is run instead; it opens the model and calls `main`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_codegeex.base.cuda.libraries import prepare
from ms_codegeex.base.digests import json_digest
from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.base.host import available_cores
from ms_codegeex.base.nested import finite
from ms_codegeex.base.printing import print_error
from ms_codegeex.base.processes import die_with_parent
from ms_codegeex.base.reading import read_json
from ms_codegeex.formats.checkpoint import Checkpoint, step_name
from ms_codegeex.runs.files.beats import STACKS, Beats, beat_name
from ms_codegeex.runs.files.records import read_events
from ms_codegeex.runs.files.resolved_config import read_config
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.files.stopping import leave_error, save_under_way

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig
    from ms_codegeex.data.datasets.batches import Sequences
    from ms_codegeex.data.description import ModelDescription
    from ms_codegeex.formats.tensors import LazyTensor
    from ms_codegeex.training.observers import Callback
    from ms_codegeex.training.trainer import Trainer

WITHOUT_EFFECT = ("output", "cluster", "checkpoint", "logging", "profile")  # on times of steps
# tensors by our names, and the description of their model
Weights = tuple[Mapping[str, "LazyTensor"], "ModelDescription"]
SLOWER = "MindSpore's own operators train, which takes about twice as long"


def first_weights(config: RunConfig, checkpoint: Checkpoint | None) -> Weights:
    """Return the weights of a run without a model: initial values, or none if a `checkpoint` has all."""
    from ms_codegeex.data.description import ModelDescription, recorded_description
    from ms_codegeex.training.first_values import first_values

    if config.model.weights is not None or config.lora.rank:
        wrong = f"{config.model.weights}, but this program trains without a model"
        raise UserError(f"model.weights: {wrong}; start ms_codegeex.runs.rank.from_model, as `train --dry-run` shows")
    if checkpoint:
        return {}, recorded_description(checkpoint.state, checkpoint.path)
    return first_values(config), ModelDescription()


def run(
    run_directory: RunDirectory,
    checkpoint: Checkpoint | None,
    beats: Beats,
    launcher: str | None = None,
    weights_of: Callable[[RunConfig, Checkpoint | None], Weights] = first_weights,
) -> None:
    """Train from `checkpoint` or from the beginning, evaluate, and write the result. `beats` tell the launcher, whose
    process id is `launcher`, what this rank is doing. `weights_of` returns the weights to start from."""
    config = read_config(run_directory)
    if config.device == "gpu":
        prepare()  # before the imports below, most of which import MindSpore
    from ms_codegeex.data.datasets.opening import content_hashes, held_out_data, training_data, validation_data
    from ms_codegeex.runs.rank.callbacks import callbacks_of
    from ms_codegeex.runs.rank.joining import join, kept_peak, stress_check
    from ms_codegeex.runs.rank.resumed_schedule import transition_from
    from ms_codegeex.training.start import RankPlace, RunData, RunStart
    from ms_codegeex.training.trainer import Trainer

    last_attempt = run_directory.kept_logs(run_directory.attempt - 1)
    beats.carry(times_key(config), last_attempt / run_directory.beats.name / beat_name(os.environ))
    beats.enter("rendezvous")
    config, rank, tied_group = join(config)
    beats.enter("stress check")
    stress_check(config, run_directory, rank)
    beats.enter("opening of the data")
    held_out = held_out_data(config)
    hashes = content_hashes(config.data) if rank == 0 else {}  # before training: the data at a path may change later
    data = RunData(training_data(config), validation_data(config), hashes)
    callbacks = [beats, *callbacks_of(config, run_directory, rank, checkpoint)]
    beats.enter("building")
    transition = transition_from(config, checkpoint) if checkpoint else None
    start = RunStart(*weights_of(config, checkpoint), transition, left_out(config, run_directory))
    peak, library = kept_peak(config, run_directory, rank, launcher), compiled_operators(config, callbacks)
    trainer = Trainer(config, data, start, RankPlace(rank, tied_group, peak, library), callbacks)
    if checkpoint:
        trainer.restore(checkpoint)
        trainer.status(f"continuing from step {checkpoint.step}")
    if config.model.weights and not trainer.progress.step:
        before = {"validation_loss_before": trainer.validation_loss(), "held_out_before": trainer.losses_on(held_out)}
        if rank == 0:  # kept for the summary, even if the run is interrupted
            write_json(run_directory.before, finite(before))
    trainer.run()
    if not trainer.stopped:  # a stopped run continues in the next attempt
        result = _result(trainer, run_directory, held_out)
        if rank == 0:
            write_json(run_directory.result, finite(result))


def left_out(config: RunConfig, run: RunDirectory) -> list[int]:
    """Return the first samples of the batches that earlier attempts have excluded."""
    if config.faults.policy != "rewind":
        return []
    return [event["left_out"] for event in read_events(run.events) if event["event"] == "rewind"]


def _result(trainer: Trainer, run: RunDirectory, held_out: Mapping[str, Sequences]) -> dict[str, Any]:
    config, last, tokens = trainer.config, trainer.progress.step, trainer.progress.tokens
    best, exhausted = trainer.patience.best if config.training.patience else None, trainer.patience.exhausted
    kept = run.checkpoints / step_name(last)
    if best and best[0] != last and (there := run.checkpoints / step_name(best[0])).is_dir():
        kept = there
        trainer.restore(Checkpoint(kept))
    began = read_json(run.before) if run.before.is_file() else {}  # losses of the initial model
    return {
        "parameters": config.model.sizes.parameter_count(),
        **trainer.final_figures(),
        "evaluated_step": trainer.progress.step,
        "steps": last,
        "out_of_patience": exhausted,
        "tokens": tokens,
        "held_out": trainer.losses_on(held_out),
        "validation_loss_before": began.get("validation_loss_before"),
        "held_out_before": began.get("held_out_before", {}),
        "devices": config.devices,
        "matmul_peak_flops": trainer.rates.peak,
        "evaluation_seconds": trainer.evaluation.seconds,
        "checkpoint": str(kept),
        "chat": trainer.provenance.description.chat is not None,
    }


def times_key(config: RunConfig) -> str:
    """Return a key for learnt times. Other attempts with the same settings on the same machine reuse them."""
    settings = {key: value for key, value in config.to_dict().items() if key not in WITHOUT_EFFECT}
    inputs = {"settings": settings, "machine": platform.node()}
    return json_digest(inputs)[:32]


def compiled_operators(config: RunConfig, callbacks: Sequence[Callback]) -> Path | None:
    """Return the run's library of compiled operators, or None; if only a compiler is missing, warn callbacks."""
    from ms_codegeex.training.operators import missing_operators, operators_library

    library = operators_library(config, _threads(os.environ.get("OMP_NUM_THREADS", "")))
    if library is None and (reason := missing_operators(config)):
        for callback in callbacks:
            callback.warning(f"{SLOWER}: {reason}")
    return library


def _threads(variable: str) -> int:
    """Return the number of threads that the launcher has set; all cores for values that only OpenMP understands."""
    return int(variable) if variable.isdecimal() and int(variable) else available_cores()


def main(weights_of: Callable[[RunConfig, Checkpoint | None], Weights] = first_weights) -> int:
    """Run this rank. Return 0 if it has done its part, else 2, after leaving a one-line error for the launcher."""
    faulthandler.register(STACKS, all_threads=True)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # some schedulers send it to all processes; only the launcher acts
    die_with_parent(int(sys.argv[2]) if len(sys.argv) > 2 else None)
    run_directory, since, rank = RunDirectory(Path(sys.argv[1])), 0, os.environ.get("RANK_ID", "0")
    try:
        beats = Beats(run_directory.beats / beat_name(os.environ))
        checkpoint = Checkpoint(Path(sys.argv[3])) if len(sys.argv) > 3 else None
        since = checkpoint.step if checkpoint else 0
        run(run_directory, checkpoint, beats, sys.argv[2] if len(sys.argv) > 2 else None, weights_of)
    except (UserError, RunFailure) as error:
        print_error(str(error))
        leave_error(run_directory, error, since)
        # the end of one worker ends all, so wait until rank 0 has saved; the launcher sets a limit
        with contextlib.suppress(UserError, OSError):  # on a full disk, the error may be missing
            while save_under_way(run_directory):
                time.sleep(0.1)
        return 2
    write_json(run_directory.logs / f"done_{rank}.json", {"rank": rank})
    return 0


if __name__ == "__main__":
    sys.exit(main())
