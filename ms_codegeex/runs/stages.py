"""The runs of stages: which are finished, and from which checkpoint each one starts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.reading import read_json
from ms_codegeex.config import RunConfig
from ms_codegeex.config.stages import Stage, StagedRun
from ms_codegeex.formats.checkpoint import step_name
from ms_codegeex.formats.checkpoint_folder import list_checkpoints, newest_sound
from ms_codegeex.runs.rendezvous import JOIN_SECONDS
from ms_codegeex.runs.resume import changes_since, is_finished
from ms_codegeex.runs.run_directory import RunDirectory
from ms_codegeex.runs.weights import absolute_weights


def absolute_stages(staged: StagedRun) -> StagedRun:
    """The stages with absolute paths of the runs and of `model.weights`."""
    stages = [
        replace(stage, config=absolute_weights(replace(stage.config, output=str(Path(stage.config.output).absolute()))))
        for stage in staged.stages
    ]
    return replace(staged, output=staged.output.absolute(), stages=tuple(stages))


def check_resume(config: RunConfig) -> None:
    """`UserError` if a stage cannot begin or continue in its directory."""
    resume = config.checkpoint.resume
    if resume not in (None, "auto"):
        raise UserError(
            f"checkpoint.resume: {resume}, but stages continue in their own directories; write --resume auto"
        )
    if resume is None and list_checkpoints(RunDirectory(Path(config.output)).checkpoints):
        raise UserError(
            f"output: {config.output} already holds a run; continue it with --resume auto, or choose another output"
        )


class StageProgress:
    """The finished stages, and the checkpoint from which the next one starts.

    Raises:
        UserError: a stage was trained with settings other than those given, or from a stage that still has to be
            trained further.
    """

    def __init__(self, staged: StagedRun, allow_change: Sequence[str] = ()):
        self.staged, self.finished = staged, set[str]()
        for stage in staged.stages:
            if stage.name not in staged.chosen:
                continue
            if stage.after in staged.chosen and stage.after not in self.finished:
                _check_unbegun(stage)
            elif _is_finished(self.begun(stage), allow_change):
                self.finished.add(stage.name)

    def begun(self, stage: Stage, server: int = 0) -> RunConfig:
        """The stage's configuration with the weights of the finished stage that it starts from. Servers other than 0
        wait until server 0 has finished that stage: it still exports when their workers have ended."""
        if stage.after is None:
            return stage.config
        if server > 0:
            _await_summary(self.staged.stage(stage.after))
        weights = str(left_by(self.staged.stage(stage.after), stage.best))
        return replace(stage.config, model=replace(stage.config.model, weights=weights))


def _await_summary(stage: Stage) -> None:
    run, deadline = RunDirectory(Path(stage.config.output)), time.monotonic() + JOIN_SECONDS
    while not run.is_exported:
        if time.monotonic() > deadline:
            raise RunFailure(
                f"server 0 has not finished stage {stage.name} within {JOIN_SECONDS:.0f} s; start all servers again "
                "with --resume auto"
            )
        time.sleep(1.0)


def _check_unbegun(stage: Stage) -> None:
    run = RunDirectory(Path(stage.config.output))
    if list_checkpoints(run.checkpoints):
        raise UserError(
            f"stages.{stage.name}: {run.path} was trained from a model of stage {stage.after}, which is not finished "
            f"with these settings; choose another output, or delete {run.path}"
        )


def _is_finished(config: RunConfig, allow_change: Sequence[str]) -> bool:
    """Whether a stage's run has ended; a `UserError` names the stage if it was trained with other settings."""
    run = RunDirectory(Path(config.output))
    if not run.is_exported or (checkpoint := newest_sound(run.checkpoints)) is None:
        return False
    try:
        changes_since(config, checkpoint, allow_change)
    except UserError as error:
        raise UserError(f"stages.{config.stage}: {error}") from None
    return is_finished(config, checkpoint)


def left_by(stage: Stage, best: bool) -> Path:
    """The checkpoint that a finished stage leaves to those that follow."""
    run = RunDirectory(Path(stage.config.output))
    if not run.summary.is_file():
        raise UserError(f"model.weights: stage {stage.name} is not finished in {run.path}; train it first")
    summary = read_json(run.summary)
    path = Path(summary["checkpoint"]) if best else run.checkpoints / step_name(summary["steps"])
    if not path.is_dir():
        raise UserError(f"model.weights: {path}, which stage {stage.name} left, is gone; restore it")
    return path
