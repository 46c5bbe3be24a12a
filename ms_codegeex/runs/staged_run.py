"""The runs of stages: which are finished, from which checkpoint each one starts, and the report on all: stages.json, a
text table, a page, and one plot of their losses."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ms_codegeex.base import webpage
from ms_codegeex.base.errors import RunFailure, UserError, located
from ms_codegeex.base.files import atomic_file, write_json
from ms_codegeex.base.printing import table
from ms_codegeex.base.reading import read_json
from ms_codegeex.config import RunConfig
from ms_codegeex.config.loading import StagedRun, TrainingStage
from ms_codegeex.formats.checkpoint import list_checkpoints, newest_sound, step_name
from ms_codegeex.runs.display import loss_figure
from ms_codegeex.runs.records import read_log
from ms_codegeex.runs.rendezvous import JOIN_SECONDS
from ms_codegeex.runs.resume import changes_since, is_finished
from ms_codegeex.runs.run_directory import RunDirectory
from ms_codegeex.runs.weights import absolute_weights

HEADS = ("stage", "starts from", "steps", "tokens", "training", "validation before", "validation after")
PLOT = "loss.png"


def with_absolute_paths(staged: StagedRun) -> StagedRun:
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
        wrong = f"{resume}, but stages continue in their own directories"
        raise UserError(f"checkpoint.resume: {wrong}; write --resume auto")
    if resume is None and list_checkpoints(RunDirectory(Path(config.output)).checkpoints):
        remedy = "continue it with --resume auto, or choose another output"
        raise UserError(f"output: {config.output} already holds a run; {remedy}")


class StagedRunProgress:
    """The finished stages, and the checkpoint from which the next one starts. `UserError` if a stage was trained with
    settings other than those given, or from a stage that still has to be trained further."""

    def __init__(self, staged: StagedRun, allow_change: Sequence[str] = ()):
        self.staged, self.finished = staged, set[str]()
        for stage in staged.stages:
            if stage.name not in staged.chosen:
                continue
            if stage.after in staged.chosen and stage.after not in self.finished:
                run = RunDirectory(Path(stage.config.output))
                if list_checkpoints(run.checkpoints):
                    wrong = f"{run.path} was trained from a model of stage {stage.after}"
                    remedy = f"which is not finished with these settings; choose another output, or delete {run.path}"
                    raise UserError(f"stages.{stage.name}: {wrong}, {remedy}")
            elif _is_finished(self.begun(stage), allow_change):
                self.finished.add(stage.name)

    def begun(self, stage: TrainingStage, server: int = 0) -> RunConfig:
        """The stage's configuration with the weights of the finished stage that it starts from. Servers other than 0
        wait until server 0 has finished that stage: it still exports when their workers have ended."""
        if stage.after is None:
            return stage.config
        if server > 0:
            _await_summary(self.staged.stage(stage.after))
        weights = str(left_by(self.staged.stage(stage.after), stage.best))
        return replace(stage.config, model=replace(stage.config.model, weights=weights))


def _await_summary(stage: TrainingStage) -> None:
    run, deadline = RunDirectory(Path(stage.config.output)), time.monotonic() + JOIN_SECONDS
    while not run.is_exported:
        if time.monotonic() > deadline:
            remedy = "start all servers again with --resume auto"
            raise RunFailure(f"server 0 has not finished stage {stage.name} within {JOIN_SECONDS:.0f} s; {remedy}")
        time.sleep(1.0)


def _is_finished(config: RunConfig, allow_change: Sequence[str]) -> bool:
    """Whether a stage's run has ended; a `UserError` names the stage if it was trained with other settings."""
    run = RunDirectory(Path(config.output))
    if not run.is_exported or (checkpoint := newest_sound(run.checkpoints, verify=False)) is None:
        return False
    with located(f"stages.{config.stage}"):
        changes_since(config, checkpoint, allow_change)
    return is_finished(config, checkpoint)


def left_by(stage: TrainingStage, best: bool) -> Path:
    """The checkpoint that a finished stage leaves to those that follow."""
    run = RunDirectory(Path(stage.config.output))
    if not run.summary.is_file():
        raise UserError(f"model.weights: stage {stage.name} is not finished in {run.path}; train it first")
    summary = read_json(run.summary)
    path = Path(summary["checkpoint"]) if best else run.checkpoints / step_name(summary["steps"])
    if not path.is_dir():
        raise UserError(f"model.weights: {path}, which stage {stage.name} left, is gone; restore it")
    return path


@dataclass(frozen=True)
class StagedRunReport:
    """The content of stages.json: the output, and for each stage its directory, its progress and its losses in nats per
    token. `held_out` are the losses on `data.held_out` by name, `held_out_before` those of the model that the stage
    started from."""

    content: Mapping[str, Any]

    def text(self) -> str:
        """Two tables: the stages, and the loss on each held-out dataset after each stage."""
        blocks = [table(HEADS, [_row(stage) for stage in self.content["stages"]], left=2)]
        if rows := list(_held_out_rows(self.content["stages"])):
            names = list(rows[0][1])
            lines = [[name, *(_number(losses.get(key)) for key in names)] for name, losses in rows]
            blocks.append("held-out loss, nats per token\n" + table(("after", *names), lines))
        return "\n\n".join(blocks)

    def page(self) -> str:
        """The same as a page, with a chart for each held-out dataset."""
        stages, rows = self.content["stages"], list(_held_out_rows(self.content["stages"]))
        sections = [("Stages", webpage.table(HEADS, map(_row, stages)))]
        if rows:
            names = list(rows[0][1])
            lines = ([name, *(_number(losses.get(key)) for key in names)] for name, losses in rows)
            sections.append(("Held-out loss, nats per token", webpage.table(("after", *names), lines, len(names))))
            sections.append(("Held-out loss by stage", webpage.charts(*(_chart(name, rows) for name in names))))
        sections.append(("Loss curve", webpage.note(f"{PLOT}, next to this page.")))
        return webpage.page("Stages of a training run", sections)


def write_report(staged: StagedRun) -> StagedRunReport:
    """Write stages.json, stages.txt, stages.html and loss.png next to the stages' runs."""
    stages = [_stage(number, stage) for number, stage in enumerate(staged.stages, 1)]
    report = StagedRunReport({"output": str(staged.output), "stages": stages})
    staged.output.mkdir(parents=True, exist_ok=True)
    write_json(staged.output / "stages.json", report.content)
    for name, content in (("stages.txt", report.text() + "\n"), ("stages.html", report.page())):
        with atomic_file(staged.output / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    if any(stage.config.logging.plots for stage in staged.stages):
        plot_losses(staged)
    return report


def _stage(number: int, stage: TrainingStage) -> dict[str, Any]:
    run = RunDirectory(Path(stage.config.output))
    log, summary = read_log(run.log), read_json(run.summary) if run.summary.is_file() else {}
    evaluated = [line["validation_loss"] for line in log if line["validation_loss"] is not None]
    before = read_json(run.before) if run.before.is_file() else {}
    return {
        "name": stage.name,
        "number": number,
        "directory": str(run.path),
        "starts_from": stage.after or (Path(weights).name if (weights := stage.config.model.weights) else None),
        "finished": bool(summary),
        "steps": summary.get("steps", log[-1]["step"] if log else 0),
        "planned_steps": stage.config.steps,
        "tokens": (log[-1]["tokens"] or 0) if log else 0,
        "training_loss": log[-1]["loss"] if log else None,
        "validation_loss_before": before.get("validation_loss_before"),
        "validation_loss": summary.get("validation_loss", evaluated[-1] if evaluated else None),
        "held_out_before": before.get("held_out_before", {}),
        "held_out": summary.get("held_out", {}),
        "checkpoint": summary.get("checkpoint"),
    }


def _row(stage: Mapping[str, Any]) -> list[str]:
    steps = f"{stage['steps']:,}" + ("" if stage["finished"] else f" of {stage['planned_steps']:,}")
    losses = (stage[key] for key in ("training_loss", "validation_loss_before", "validation_loss"))
    return [stage["name"], stage["starts_from"] or "scratch", steps, f"{stage['tokens']:,}", *map(_number, losses)]


def _held_out_rows(stages: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, Mapping[str, float]]]:
    """The held-out losses of each finished stage, after those of a model that the first one started from."""
    for stage in stages:
        if stage["number"] == 1 and stage["held_out_before"]:
            yield str(stage["starts_from"]), stage["held_out_before"]
        if stage["held_out"]:
            yield stage["name"], stage["held_out"]


def _number(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.4f}"


def _chart(name: str, rows: Iterable[tuple[str, Mapping[str, float]]]) -> webpage.Html:
    known = [(stage, losses[name]) for stage, losses in rows if losses.get(name) is not None]
    return webpage.bars(name, [(stage, loss, _number(loss)) for stage, loss in known])


def plot_losses(staged: StagedRun) -> None:
    """Draw the losses of all stages, one after the other, with a line where each begins."""
    logs = [(stage.name, read_log(RunDirectory(Path(stage.config.output)).log)) for stage in staged.stages]
    logs = [(name, log) for name, log in logs if log]
    if not logs:
        return
    begin = 0
    with loss_figure(staged.output / PLOT, 9, "step, counted over the stages") as (loss, rate):
        for number, (name, log) in enumerate(logs):
            steps, colour = [begin + line["step"] for line in log], f"C{number}"
            good = [(step, line["loss"]) for step, line in zip(steps, log, strict=True) if not line["skipped"]]
            points = [(begin + x["step"], x["validation_loss"]) for x in log if x["validation_loss"] is not None]
            loss.plot(*zip(*good, strict=True) if good else ((), ()), lw=1, color=colour, label=name)
            if points:
                loss.plot(*zip(*points, strict=True), "o", ms=4, mec="black", color=colour, label=f"{name}, validation")
            rate.plot(steps, [line["learning_rate"] for line in log], lw=1, color=colour)
            if begin:
                for axes in (loss, rate):
                    axes.axvline(begin, color="grey", lw=0.8, ls="--")
            begin = steps[-1]
