"""The checkpoints of a run: which exist, which are sound, which are good, which to resume from, which to delete.

*Sound*: every hash matches. *Good*: later finite steps followed it. *Doubtful*: the steps after it were not finite
before it could become good, or this happened to two jobs that resumed from it. `outcome.json`, next to the manifest,
records what is known of the steps after a checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.base.printing import print_error
from ms_codegeex.base.reading import read_json
from ms_codegeex.formats.checkpoint import MANIFEST, NAME, Checkpoint

OUTCOME = "outcome.json"
GOOD, DOUBTFUL = "good", "doubtful"


def list_checkpoints(root: Path) -> list[Path]:
    """The checkpoint directories in `root`, oldest step first, sound or not; half-written ones have other names."""
    by_step: dict[int, Path] = {}
    for path in sorted(Path(root).glob("step-*")):  # "step-n" sorts before "step-n.replaced"
        if (match := NAME.fullmatch(path.name)) and path.is_dir():
            by_step.setdefault(int(match[1]), path)
    return [by_step[step] for step in sorted(by_step)]


def outcome(path: Path) -> str | None:
    """GOOD or DOUBTFUL; None if nothing is known yet of the steps after the checkpoint at `path`, or if the record
    there belongs to another checkpoint."""
    return _noted(path).get("outcome")


def _noted(path: Path) -> dict[str, Any]:
    """The content of `outcome.json`, empty if it is missing, damaged or of another checkpoint."""
    try:
        noted = read_json(path / OUTCOME)
        counts = (noted["step"], noted.get("failures", 0))
        whole = noted["outcome"] in (GOOD, DOUBTFUL) and all(type(each) is int for each in counts)
        return noted if whole and noted["manifest"] == _manifest_hash(path) else {}
    except (UserError, TypeError, KeyError, AttributeError):
        return {}


def _manifest_hash(path: Path) -> str:
    manifest = read_json(path / MANIFEST)
    if not isinstance(manifest, dict) or "sha256" not in manifest:
        raise UserError(f"{path / MANIFEST}: not a checkpoint manifest")
    return manifest["sha256"]


def note_outcome(path: Path, verdict: str, step: int, failures: int = 0) -> None:
    """Record that the steps up to `step` showed the checkpoint at `path` to be GOOD or DOUBTFUL.

    `failures`: how many jobs resumed from it and ended without a better one. Raises `UserError` if it cannot be
    written, or there is no manifest.
    """
    content = {"outcome": verdict, "step": step, "failures": failures, "manifest": _manifest_hash(path)}
    write_json(path / OUTCOME, content)


def doubt(root: Path, since: int, step: int) -> None:
    """Mark checkpoints as doubtful after a job that started from step `since` ended at `step`, which was not finite.

    Those that the job saved become doubtful unless they are good. The one it started from does too; a good one only
    the second time, so that a job that is restarted again and again does not fail in the same way forever.
    """
    job = {path: int(match[1]) for path in list_checkpoints(root) if (match := NAME.fullmatch(path.name))}
    job = {path: number for path, number in job.items() if number >= since}
    progress = any(number > since and outcome(path) == GOOD for path, number in job.items())
    for path, number in job.items():
        noted = _noted(path)
        with contextlib.suppress(UserError):  # a damaged checkpoint is never chosen
            if not noted:
                note_outcome(path, DOUBTFUL, step)
            elif number == since and not progress and noted["outcome"] == GOOD:
                failures = noted.get("failures", 0) + 1
                note_outcome(path, DOUBTFUL if failures > 1 else GOOD, step, failures)


def doubt_after(root: Path, step: int) -> None:
    """Mark the checkpoints of all steps after `step` as doubtful, good ones too."""
    for path in list_checkpoints(root):
        if (match := NAME.fullmatch(path.name)) and int(match[1]) > step:
            with contextlib.suppress(UserError):  # a damaged checkpoint is never chosen
                note_outcome(path, DOUBTFUL, step)


def newest_sound(root: Path, reasons: list[str] | None = None, doubtful: bool = False) -> Checkpoint | None:
    """The newest sound checkpoint in `root`, or None. Doubtful ones count only with `doubtful`.

    The reasons for skipping later ones are added to `reasons`.
    """
    for path in reversed(list_checkpoints(root)):
        try:
            if outcome(path) == DOUBTFUL and not doubtful:
                raise UserError(f"{path}: doubtful, the steps after it were not finite (step {_noted(path)['step']})")
            checkpoint = Checkpoint(path)
            checkpoint.verify()
            return checkpoint
        except UserError as error:
            if reasons is not None:
                reasons.append(str(error))
    return None


def resolve(path: Path) -> Checkpoint:
    """The checkpoint at `path`, or the newest sound one of a run directory (or of its `checkpoints` folder).

    If all are doubtful, the newest is taken with a warning on standard error.
    """
    path = Path(path)
    if (path / MANIFEST).is_file():
        return Checkpoint(path)
    root = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    reasons: list[str] = []
    checkpoint = newest_sound(root, reasons)
    if checkpoint is None and (checkpoint := newest_sound(root, doubtful=True)) is not None:
        print_error(f"warning: {'; '.join(reasons)}; using {checkpoint.path.name} anyway")
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


class SoundCheckpoints:
    """Hashes checkpoints and remembers the sound ones, so that each is read again only if its files change."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[object, ...]] = {}

    def written(self, path: Path) -> None:
        """Note that this process has just written the checkpoint at `path`, so it need not be hashed."""
        self._seen[path] = self._signature(path)

    @staticmethod
    def _signature(path: Path) -> tuple[object, ...]:
        files = ((file, file.stat()) for file in sorted(path.iterdir()) if file.name[0] != "." and file.name != OUTCOME)
        return tuple((file.name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for file, stat in files)

    def __contains__(self, path: Path) -> bool:
        try:
            signature = self._signature(path)
            if self._seen.get(path) != signature:
                Checkpoint(path).verify()
                self._seen[path] = signature
        except (UserError, OSError):
            return False
        return True


def prune(
    root: Path,
    keep: int,
    sound: SoundCheckpoints | None = None,
    is_protected: Callable[[Path], bool] = lambda path: False,
    job: str | None = None,
) -> list[Path]:
    """Delete old checkpoints and leftovers of killed writes; returns the deleted checkpoints, newest first.

    Kept are the newest `keep` (at least 1) that are sound and not doubtful, the newest good one, and the oldest after
    it, which is the next that can become good. Damaged and doubtful ones do not count towards `keep`, and are deleted
    only if they are older than a good one that stays. `sound` caches between calls which ones were found sound; those
    of which `is_protected` is true are never deleted. Nor are the files that the running `job` still writes; their
    `save` names begin with it.
    """
    if keep < 1:
        raise UserError(f"checkpoint.keep is {keep}, expected at least 1")
    sound, checkpoints = sound or SoundCheckpoints(), list_checkpoints(root)
    superseded = set(Path(root).glob("step-*.replaced")) - set(checkpoints)
    doomed = _not_needed(checkpoints, keep, sound) if len(checkpoints) > keep else []
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


def _not_needed(checkpoints: list[Path], keep: int, sound: SoundCheckpoints) -> list[Path]:
    """The deletable ones of `checkpoints` (oldest first), newest first."""
    candidates, good = [], None  # sound and not doubtful, newest first; the newest good one of them
    for path in reversed(checkpoints):
        if good is not None and len(candidates) >= keep:
            break
        known = outcome(path)
        if known != DOUBTFUL and path in sound:
            candidates.append(path)
            good = good or (path if known == GOOD else None)
    if len(candidates) < keep:
        return []
    # up to the newest good one; the one before it in this list is the next that can become good
    last = candidates.index(good) if good else len(candidates)
    needed = {*candidates[:keep], *candidates[max(0, last - 1) : last + 1]}
    older = checkpoints[: checkpoints.index(good)] if good else []  # sound or not
    return [path for path in reversed(checkpoints) if path not in needed and (path in candidates or path in older)]
