"""Opens a run directory: one job at a time holds it, writes the files known before training starts, or joins it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.locks import take_lock
from ms_codegeex.config import RunConfig
from ms_codegeex.config.values import flattened
from ms_codegeex.data.tokenizer.recorded import keep_files
from ms_codegeex.formats.checkpoint_folder import set_aside
from ms_codegeex.runs.resume import Change
from ms_codegeex.runs.run_directory import RunDirectory
from ms_codegeex.runs.starting_point import StartingPoint
from ms_codegeex.runs.worker_error import mark_doubtful_checkpoints


@contextlib.contextmanager
def held_run(run: RunDirectory) -> Iterator[None]:
    """Lock the run directory against other jobs. Folders made here are removed again if the run is not opened."""
    made = [folder for folder in (run.path, *run.path.parents) if not folder.exists()]
    new = not (run.path / ".lock").exists()
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        lock = take_lock(run.path / ".lock", wait=False)
    except OSError as error:
        raise UserError(f"output: {run.path} cannot be made ({error.strerror}); choose another output") from None
    if lock is None:
        raise UserError(f"output: another job is running in {run.path}; wait for it or choose another output")
    try:
        mark_doubtful_checkpoints(run)
        yield
    finally:
        with contextlib.suppress(OSError):  # somebody has removed the folder, or put files into it
            if new and not run.config.exists():  # it was not opened
                (run.path / ".lock").unlink()
                for folder in made:
                    folder.rmdir()
        os.close(lock)


def open_run(config: RunConfig, run: RunDirectory, start: StartingPoint, changes: Sequence[Change] = ()) -> None:
    """Write the start event, the configuration, the environment and the tokenizer's files. The run must be held.

    All files of earlier attempts stay; their logs are moved, and checkpoints that `start` passes over are renamed.
    """
    try:
        for path, reason in start.passed_over:
            set_aside(path, reason)
        run.keep_logs()
        run.logs.mkdir(exist_ok=True)
        step = start.checkpoint.step if start.checkpoint else 0
        run.add_event("start", attempt=run.attempt + 1, step=step, changed=[asdict(change) for change in changes])
    except OSError as error:
        raise UserError(
            f"output: {run.path} cannot be written ({error.strerror}); free some space or choose another output"
        ) from None
    for name in config.data.directories[:1]:
        keep_files(Path(name), run.path)
    run.write_config(config)
    run.write_environment()


def join_run(config: RunConfig, run: RunDirectory) -> None:
    """`UserError` unless server 0 has opened the run with the same configuration, which is the one workers read."""
    ours, theirs = flattened(config.to_dict()), flattened(run.read_config().to_dict())
    for key in sorted({*ours, *theirs}):
        if ours.get(key) != theirs.get(key):
            raise UserError(
                f"{key}: {ours.get(key)}, but server 0 runs with {theirs.get(key)}; give every server the same command"
            )
