"""Decides where a run starts: from scratch or from a checkpoint, and from which one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.printing import print_error
from ms_codegeex.config import RunConfig
from ms_codegeex.formats.checkpoint import Checkpoint, step_name
from ms_codegeex.formats.checkpoint_folder import DOUBTFUL, list_checkpoints, newest_sound, outcome, resolve
from ms_codegeex.runs.run_directory import RunDirectory


@dataclass(frozen=True)
class StartingPoint:
    """The checkpoint to start from (None for a new run), and the later checkpoints to skip, each with the reason:
    `damaged` or `doubtful`."""

    checkpoint: Checkpoint | None = None
    passed_over: tuple[tuple[Path, str], ...] = ()


def starting_point(config: RunConfig, run: RunDirectory) -> StartingPoint:
    """Choose the checkpoint to continue from, once for all workers, and verify its hashes. Changes nothing.

    Prints on standard error why later checkpoints are skipped. `UserError` if the output already holds a run and
    `checkpoint.resume` is not set, if it holds no sound checkpoint, or if it holds a later one than the given one.
    """
    resume, existing = config.checkpoint.resume, list_checkpoints(run.checkpoints)
    if resume is None:
        if existing:
            raise UserError(
                f"output: {run.path} already holds a run; continue it with --resume auto, or choose another output"
            )
        return StartingPoint()
    if resume == "auto":
        return _newest(run, existing)
    checkpoint = resolve(Path(resume))
    checkpoint.verify()
    if later := [path for path in existing if path.name > step_name(checkpoint.step)]:
        raise UserError(
            f"output: {run.path} holds {later[-1].name}, which is later than {checkpoint.path.name} to continue from; "
            "choose another output"
        )
    return StartingPoint(checkpoint)


def _newest(run: RunDirectory, existing: list[Path]) -> StartingPoint:
    """The newest checkpoint of the run that is neither damaged nor doubtful."""
    reasons: list[str] = []
    checkpoint = newest_sound(run.checkpoints, reasons)
    for reason in reasons:
        print_error(f"skipped: {reason}")
    later = [path for path in existing if checkpoint is None or path.name > checkpoint.path.name]
    passed_over = tuple((path, DOUBTFUL if outcome(path) == DOUBTFUL else "damaged") for path in later)
    if checkpoint is None and passed_over:
        doubtful = [path for path, reason in passed_over if reason == DOUBTFUL]
        remedy = f"continue from a doubtful one with --resume {doubtful[0]}, or " if doubtful else ""
        raise UserError(
            f"output: no checkpoint in {run.checkpoints} is {'free of doubt' if doubtful else 'sound'}; {remedy}choose "
            "another output"
        )
    return StartingPoint(checkpoint, passed_over)
