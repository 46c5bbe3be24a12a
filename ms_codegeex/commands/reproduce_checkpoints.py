"""Loss and pass rate over the checkpoints of a run, for `reproduce --run`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ms_codegeex.base.errors import UserError

if TYPE_CHECKING:
    from ms_codegeex.evaluation.reproduction.checkpoints import Losses
    from ms_codegeex.evaluation.reproduction.papers import PaperPart

DIRECTORY = "checkpoints"  # in --output, with an evaluation for each
KINDS = {"training loss": "loss", "validation loss": "validation_loss"}  # of figures -> keys of log.jsonl


def checkpoints_of(run: Path) -> dict[int, Path]:
    """Step -> checkpoint.

    Raises:
        UserError: this is no run directory, or it has no checkpoints.
    """
    from ms_codegeex.formats.checkpoint_folder import list_checkpoints, step_of
    from ms_codegeex.runs.run_directory import RunDirectory

    if not (found := list_checkpoints(RunDirectory(run).checkpoints)):
        raise UserError(f"--run: {run} has no checkpoints; give a run directory of `train`, or that of one stage")
    return {step_of(path): path for path in found}


def losses_of(run: Path) -> Losses:
    """The losses that the run has logged, without skipped steps."""
    from ms_codegeex.runs.records import read_log
    from ms_codegeex.runs.run_directory import RunDirectory

    log = [line for line in read_log(RunDirectory(run).log) if not line["skipped"]]
    series = {name: [(line["step"], line[key]) for line in log if line[key] is not None] for name, key in KINDS.items()}
    return {name: points for name, points in series.items() if points}


def commands(
    part: PaperPart, data: Path, output: Path, quick: bool, found: Mapping[int, Path], options: list[str]
) -> dict[int, list[str]]:
    """Step -> the words of `evaluate` for its checkpoint. `options`: how our own engine runs and judges."""
    from ms_codegeex.evaluation.reproduction.papers import CHECKPOINT_SAMPLES

    few = [] if quick else ["--n", str(min(part.settings(quick).n, CHECKPOINT_SAMPLES))]
    return {
        step: [
            *part.words(data, output / DIRECTORY / path.name, quick, local=False),
            *few,
            *("--model", str(path)),
            *options,
        ]
        for step, path in found.items()
    }
