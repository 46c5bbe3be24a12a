"""The checkpoints of a run: which exist, which to resume from, which to delete.

*Intact*: manifest and files fit each other. *Sound*: every hash matches, too. *Settled*: at least `SETTLED_STEPS` steps
came after it; a run whose numbers are not finite goes back to such a one."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.checkpoint import MANIFEST, NAME, Checkpoint

SETTLED_STEPS = 10


def list_checkpoints(root: Path) -> list[Path]:
    """The checkpoint directories in `root`, oldest step first, sound or not; half-written ones have other names."""
    by_step: dict[int, Path] = {}
    for path in sorted(Path(root).glob("step-*")):  # "step-n" sorts before "step-n.replaced"
        if (match := NAME.fullmatch(path.name)) and path.is_dir():
            by_step.setdefault(int(match[1]), path)
    return [by_step[step] for step in sorted(by_step)]


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint of `list_checkpoints`."""
    match = NAME.fullmatch(path.name)
    assert match
    return int(match[1])


def newest_sound(root: Path, reasons: list[str] | None = None, verify: bool = True) -> Checkpoint | None:
    """The newest sound checkpoint in `root`, or None. Without `verify` it is only intact: whoever reads it hashes what
    it reads. The reasons for skipping later ones are added to `reasons`."""
    for path in reversed(list_checkpoints(root)):
        try:
            checkpoint = Checkpoint(path)
            if verify:
                checkpoint.verify()
            return checkpoint
        except UserError as error:
            if reasons is not None:
                reasons.append(str(error))
    return None


def resolve(path: Path) -> Checkpoint:
    """The checkpoint at `path`, or the newest sound one of a run directory (or of its `checkpoints` folder)."""
    path = Path(path)
    if (path / MANIFEST).is_file():
        return Checkpoint(path)
    root = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    reasons: list[str] = []
    checkpoint = newest_sound(root, reasons)
    if checkpoint is None:
        why = "; ".join(reasons) if reasons else f"no step-* directory in {root}"
        raise UserError(f"{path}: no sound checkpoint ({why}); expected a checkpoint or run directory")
    target = checkpoint.path.resolve()
    if path.resolve() not in target.parents:  # a stranger's run would lead to a model of the user's
        raise UserError(f"{checkpoint.path}: leads to {target}, outside {path}; give that checkpoint itself")
    return checkpoint


def set_aside(path: Path, why: str) -> Path:
    """Rename a skipped checkpoint, so that its step can be saved again; returns the new path."""
    number, target = 1, path.with_name(f"{why}-{path.name}")
    while target.exists():
        number += 1
        target = path.with_name(f"{why}-{path.name}.{number}")
    os.replace(path, target)
    return target


def set_doubtful_aside(root: Path, first: int, keep_one: bool) -> list[Path]:
    """Set aside the checkpoints of step `first` and later ones; with `keep_one` not the oldest of all: a run has to
    begin somewhere. Returns their new paths."""
    paths = list_checkpoints(root)[keep_one:]
    return [set_aside(path, "doubtful") for path in paths if step_of(path) >= first]


def prune(
    root: Path,
    keep: int,
    settled: int,
    is_protected: Callable[[Path], bool] = lambda path: False,
    job: str | None = None,
) -> list[Path]:
    """Delete old checkpoints and leftovers of killed writes; returns the deleted checkpoints, newest first. Kept are
    the newest `keep` (at least 1) that are intact; the newest of step `settled` or before, and the one after it, which
    is settled next. Damaged ones do not count, and are deleted only if they are older than a settled one. Those of
    which `is_protected` is true stay, and what the running `job` still writes: its `save` names begin with it."""
    if keep < 1:
        raise UserError(f"checkpoint.keep is {keep}, expected at least 1")
    checkpoints = list_checkpoints(root)
    superseded = set(Path(root).glob("step-*.replaced")) - set(checkpoints)
    doomed = _not_needed(checkpoints, keep, settled) if len(checkpoints) > keep else []
    doomed = [path for path in doomed if not is_protected(path)]
    for path in doomed:
        # a half-deleted checkpoint must not look like a damaged one
        os.replace(path, path.with_name(f".{path.name}.deleted"))
    present = (path for pattern in (".step-*.tmp", ".step-*.failed") for path in Path(root).glob(pattern))
    unfinished = [path for path in present if job is None or f".{job}-" not in path.name]
    for leftover in (*Path(root).glob(".step-*.deleted"), *unfinished, *superseded):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
    return doomed


def _not_needed(checkpoints: list[Path], keep: int, settled: int) -> list[Path]:
    """The deletable ones of `checkpoints` (oldest first), newest first."""
    intact: list[Path] = []  # newest first, up to the newest settled one if that is not among the first `keep`
    for path in reversed(checkpoints):
        if len(intact) >= keep and step_of(intact[-1]) <= settled:
            break
        if _is_intact(path):
            intact.append(path)
    if len(intact) < keep:
        return []
    last = next((place for place, path in enumerate(intact) if step_of(path) <= settled), len(intact))
    needed = {*intact[:keep], *intact[max(0, last - 1) : last + 1]}
    older = checkpoints[: checkpoints.index(intact[last])] if last < len(intact) else []  # damaged ones, too
    return [path for path in reversed(checkpoints) if path not in needed and (path in intact or path in older)]


def _is_intact(path: Path) -> bool:
    with contextlib.suppress(UserError, OSError):
        return Checkpoint(path) is not None
    return False
