"""Open a run directory: lock it against other jobs, choose where the run starts, and write the files that are known
before training. Other servers join it."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ms_codegeex.base.errors import UserError, remedy_of
from ms_codegeex.base.files import write_json
from ms_codegeex.base.installed import versions
from ms_codegeex.base.locks import take_lock
from ms_codegeex.base.printing import print_error
from ms_codegeex.config import RunConfig
from ms_codegeex.config.values import flattened
from ms_codegeex.data.tokenizer.recorded import keep_files
from ms_codegeex.formats.checkpoint import (
    Checkpoint,
    DamagedFile,
    list_checkpoints,
    newest_sound,
    resolve,
    set_aside,
    step_of,
)
from ms_codegeex.runs.files.resolved_config import read_config, write_config
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.files.stopping import set_doubtful_checkpoints_aside
from ms_codegeex.runs.resume import Change

REPORTED_PACKAGES = ("mindspore", "numpy", "safetensors", "tokenizers", "pydantic", "matplotlib")


@dataclass(frozen=True)
class StartingPoint:
    """The checkpoint to start from (None for a new run), and the later, damaged ones to skip."""

    checkpoint: Checkpoint | None = None
    passed_over: tuple[Path, ...] = ()


def starting_point(config: RunConfig, run: RunDirectory) -> StartingPoint:
    """Choose the checkpoint to continue from, once for all workers, by manifests and file sizes; each worker checks the
    hashes of what it loads. Changes nothing. Prints on standard error why later checkpoints are skipped. `UserError` if
    the output already holds a run and `checkpoint.resume` is not set, if it holds no intact checkpoint, or if it holds
    a later one than the given one."""
    resume, existing = config.checkpoint.resume, list_checkpoints(run.checkpoints)
    if resume is None:
        if existing:
            remedy = "continue it with --resume auto, or choose another output"
            raise UserError(f"output: {run.path} already holds a run; {remedy}")
        return StartingPoint()
    if resume == "auto":
        reasons: list[str] = []
        newest = newest_sound(run.checkpoints, reasons, verify=False)
        for reason in reasons:
            print_error(f"skipped: {reason}")
        damaged = tuple(path for path in existing if newest is None or path.name > newest.path.name)
        if newest is None and damaged:
            raise _none_left(run)
        return StartingPoint(newest, damaged)
    checkpoint = resolve(Path(resume), "last")
    if later := [path for path in existing if step_of(path) > checkpoint.step]:
        own = checkpoint.path.resolve().parent == run.checkpoints.resolve()
        wrong = f"{run.path} holds {later[-1].name}, which is later than {checkpoint.path.name} to continue from"
        remedy = f"choose another output{', or --resume auto for the newest that is sound' if own else ''}"
        raise UserError(f"output: {wrong}; {remedy}")
    return StartingPoint(checkpoint)


def _none_left(run: RunDirectory) -> UserError:
    return UserError(f"output: no checkpoint in {run.checkpoints} is sound; choose another output")


def pass_over(checkpoint: Checkpoint | None, run: RunDirectory, damage: DamagedFile) -> None:
    """Set aside the checkpoint that a rank found to be damaged, so that the next attempt takes the one before.
    `UserError` if `damage` is elsewhere (such as in the model to start from), the checkpoint is not the run's, or it
    was the last."""
    own = checkpoint is not None and checkpoint.path.resolve().parent == run.checkpoints.resolve()
    if checkpoint is None or not own or not str(damage).startswith(f"{checkpoint.path.absolute()}/"):
        raise UserError(str(damage))
    set_aside(checkpoint.path, "damaged")
    if not list_checkpoints(run.checkpoints):
        raise _none_left(run)


@contextlib.contextmanager
def held_run(run: RunDirectory) -> Iterator[None]:
    """Lock the run directory against other jobs. Folders created here are removed again if the run is not opened."""
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
        set_doubtful_checkpoints_aside(run)
        yield
    finally:
        with contextlib.suppress(OSError):  # someone removed the folder, or put files into it
            if new and not run.config.exists():  # the run was not opened
                (run.path / ".lock").unlink()
                for folder in made:
                    folder.rmdir()
        os.close(lock)


def open_run(config: RunConfig, run: RunDirectory, start: StartingPoint, changes: Sequence[Change] = ()) -> None:
    """Write the start event, the configuration, the environment and the tokenizer's files. The run must be locked
    (`held_run`). All files of earlier attempts stay: their logs are moved, and checkpoints that `start` passes over are
    renamed. Without a checkpoint to start from, the recorded losses of the initial model are deleted. `UserError` for a
    path that `config.yaml` cannot hold."""
    for key, value in flattened(config.to_dict()).items():
        try:
            f"{key}{json.dumps(value, ensure_ascii=False)}".encode()
        except UnicodeEncodeError:
            raise UserError(f"{key}: {value!r} is not text in UTF-8; rename it, or choose another") from None
    try:
        for path in start.passed_over:
            set_aside(path, "damaged")
        keep_logs(run)
        run.logs.mkdir(exist_ok=True)
        step = start.checkpoint.step if start.checkpoint else 0
        if start.checkpoint is None:
            run.before.unlink(missing_ok=True)
        run.add_event("start", attempt=run.attempt + 1, step=step, changed=[asdict(change) for change in changes])
    except OSError as error:
        wrong = f"{run.path} cannot be written ({error.strerror})"
        raise UserError(f"output: {wrong}; {remedy_of(error, 'choose another output')}") from None
    for name in config.data.directories[:1]:
        keep_files(Path(name), run.path)
    write_config(run, config)
    software = {"python": platform.python_version(), "platform": platform.platform()}
    machine = {"machine": platform.machine(), "cpu_count": os.cpu_count()}
    packages = versions(("ms-codegeex", *REPORTED_PACKAGES))
    write_json(run.environment, {**software, **machine, "packages": packages})


def keep_logs(run: RunDirectory) -> None:
    """Move the logs and the summary of the last attempt into a folder for it, below `logs`."""
    folder = run.kept_logs(run.attempt)
    files = [path for path in (*run.logs.glob("*"), run.summary) if path.exists()]
    moved = [path for path in files if not path.name.startswith("attempt-")]
    if moved:
        folder.mkdir(parents=True, exist_ok=True)
    for path in moved:
        path.replace(folder / path.name)


def join_run(config: RunConfig, run: RunDirectory) -> None:
    """Raise `UserError` unless server 0 has opened the run with the same configuration, which workers read."""
    ours, theirs = flattened(config.to_dict()), flattened(read_config(run).to_dict())
    for key in sorted({*ours, *theirs}):
        if ours.get(key) != theirs.get(key):
            wrong = f"{ours.get(key)}, but server 0 runs with {theirs.get(key)}"
            raise UserError(f"{key}: {wrong}; give every server the same command")
