"""One rank of a run, as a program: `python -m ms_codegeex.runs.rank RUN_DIRECTORY [LAUNCHER_PID [CHECKPOINT]]`.

Everything else is in the run directory; the engine says how many ranks there are and which one this is. Here the rank
joins the others and opens what `worker` trains with: data, the model to start from, callbacks.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.base.host import available_cores
from ms_codegeex.base.printing import print_error
from ms_codegeex.base.processes import die_with_parent
from ms_codegeex.cuda.libraries import prepare
from ms_codegeex.formats.checkpoint import Checkpoint
from ms_codegeex.runs.beats import Beats, beat_name
from ms_codegeex.runs.hangs import STACKS
from ms_codegeex.runs.opening import beats_before, read_config
from ms_codegeex.runs.run_directory import RunDirectory
from ms_codegeex.runs.stopping import leave_error, save_under_way

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig
    from ms_codegeex.training.observers import Callback

WITHOUT_EFFECT = ("output", "stage", "cluster", "checkpoint", "logging", "profile")  # top-level keys
SLOWER = "MindSpore's own operators train, which takes about twice as long"


def run(run_directory: RunDirectory, checkpoint: Checkpoint | None, beats: Beats, launcher: str | None = None) -> None:
    """Train from `checkpoint` or from the beginning. `beats` tell the command what this rank is doing; `launcher`: its
    process id."""
    config = read_config(run_directory)
    if config.device == "gpu":
        prepare()  # before the imports that follow, because most of them import MindSpore
    from ms_codegeex.data.datasets.opening import content_hashes, held_out_data, training_data, validation_data
    from ms_codegeex.runs.callbacks import callbacks_of
    from ms_codegeex.runs.joining import join, kept_peak, stress_check
    from ms_codegeex.runs.resume import transition_from
    from ms_codegeex.runs.weights import infill_of, weights_of
    from ms_codegeex.runs.worker import train
    from ms_codegeex.training.operators import layers_of
    from ms_codegeex.training.short_gradients import step_of

    beats.carry(times_key(config), beats_before(run_directory) / beat_name(os.environ))
    beats.enter("rendezvous")
    config, rank, tied_group = join(config)
    beats.enter("stress check")
    stress_check(config, run_directory, rank)
    beats.enter("opening of the data")
    data, validation, held_out = training_data(config), validation_data(config), held_out_data(config)
    datasets = content_hashes(config.data) if rank == 0 else {}  # before training: a path may hold other data later
    callbacks = [beats, *callbacks_of(config, run_directory, rank, checkpoint)]
    beats.enter("building")
    train(
        config,
        run_directory,
        checkpoint,
        data,
        validation,
        held_out,
        rank=rank,
        callbacks=callbacks,
        matmul_peak=kept_peak(config, run_directory, rank, launcher),
        tied_group=tied_group,
        weights=weights_of(config, begins=not checkpoint) if config.lora.rank or not checkpoint else {},
        infill=infill_of(config, checkpoint),
        datasets=datasets,
        transition=transition_from(config, checkpoint) if checkpoint else None,
        library=compiled_operators(config, callbacks),
        step=step_of(config),
        layers=layers_of(config),
    )


def times_key(config: RunConfig) -> str:
    """A name for the times that an attempt has learnt: another attempt uses them if it trains with the same settings on
    the same machine."""
    settings = {key: value for key, value in config.to_dict().items() if key not in WITHOUT_EFFECT}
    inputs = {"settings": settings, "machine": platform.node()}
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]


def compiled_operators(config: RunConfig, callbacks: Sequence[Callback]) -> Path | None:
    """The library of operators that the run trains with; None if it has none, which the callbacks hear of if it is for
    want of a compiler."""
    from ms_codegeex.training.operators import missing_operators, operators_library

    library = operators_library(config, _threads(os.environ.get("OMP_NUM_THREADS", "")))
    if library is None and (reason := missing_operators(config)):
        for callback in callbacks:
            callback.warning(f"{SLOWER}: {reason}")
    return library


def _threads(variable: str) -> int:
    """Threads of this process, which the launcher has set; all cores for what OpenMP alone understands."""
    return int(variable) if variable.isdecimal() and int(variable) else available_cores()


def main() -> int:
    """Exit status 0 if this rank has finished its part; otherwise 2, with a one-line error left for the launcher."""
    faulthandler.register(STACKS, all_threads=True)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # some schedulers send it to every process; the launcher answers it
    die_with_parent(int(sys.argv[2]) if len(sys.argv) > 2 else None)
    run_directory, since, rank = RunDirectory(Path(sys.argv[1])), 0, os.environ.get("RANK_ID", "0")
    try:
        beats = Beats(run_directory.beats / beat_name(os.environ))
        checkpoint = Checkpoint(Path(sys.argv[3])) if len(sys.argv) > 3 else None
        since = checkpoint.step if checkpoint else 0
        run(run_directory, checkpoint, beats, sys.argv[2] if len(sys.argv) > 2 else None)
    except (UserError, RunFailure) as error:
        print_error(str(error))
        leave_error(run_directory, error, since)
        # the end of one worker ends them all, so this one waits until rank 0 has saved; the launcher says how long
        with contextlib.suppress(UserError, OSError):  # a full disk has no room for the error
            while save_under_way(run_directory):
                time.sleep(0.1)
        return 2
    write_json(run_directory.logs / f"done_{rank}.json", {"rank": rank})
    return 0


if __name__ == "__main__":
    sys.exit(main())
