"""The stages of a YAML file, one run after the other: checks of all of them first, then training, then the report."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ms_codegeex.base.errors import UserError, located
from ms_codegeex.base.printing import print_error, print_out, print_result
from ms_codegeex.config import RunConfig
from ms_codegeex.config.loading import StagedRun, TrainingStage
from ms_codegeex.runs.attempts import Restarts
from ms_codegeex.runs.memory_check import check_memory
from ms_codegeex.runs.node import Node
from ms_codegeex.runs.process_list import Form, process_text
from ms_codegeex.runs.staged_run import StagedRunProgress, check_resume, left_by, with_absolute_paths, write_report
from ms_codegeex.runs.training_job import (
    check_datasets,
    check_restarts,
    print_software,
    processes_of,
    resolve_data,
    train_once,
)
from ms_codegeex.runs.weights import check_following, check_weights

NodeOf = Callable[[RunConfig], Node]


def train_staged_run(
    staged: StagedRun,
    node_of: NodeOf,
    corpus: Sequence[str] = (),
    *,
    allow_change: Sequence[str] = (),
    restarts: Restarts,
    dry_run: Form | None = None,
    as_json: bool = False,
) -> None:
    """Train the unfinished stages, in their order; `node_of` gives this server in the job of a configuration. The
    others as in `train`: `corpus` is for stages without a dataset, `as_json` prints stages.json at the end."""
    staged = with_absolute_paths(staged)
    chosen = [stage for stage in staged.stages if stage.name in staged.chosen]
    for stage in chosen:
        check_restarts(restarts, stage.config, node_of(stage.config))
        with located(f"stages.{stage.name}"):
            check_resume(stage.config)
            check_memory(stage.config)
    if dry_run:
        _dry_run(staged.output, chosen, node_of, dry_run)
        return
    staged = _with_data(staged, corpus, as_json, node_of)
    progress = StagedRunProgress(staged, allow_change)
    for number, stage in enumerate(staged.stages, 1):
        if stage.name not in staged.chosen:
            continue
        label = f"stage {number} of {len(staged.stages)}, {stage.name}"
        if stage.name in progress.finished:
            print_error(f"{label}: already finished")
            continue
        print_error(f"{label}: {stage.config.output}")
        node = node_of(stage.config)
        config = progress.begun(stage, node.rank)
        try:
            with located(f"stages.{stage.name}"):
                train_once(config, node, (), allow_change, restarts=restarts, quiet=as_json)
        finally:
            if node.rank == 0:
                with contextlib.suppress(OSError, UserError):  # what ended the stage comes first
                    write_report(staged)
    if node_of(chosen[0].config).rank == 0:
        report = write_report(staged)
        paths = f"report      {staged.output / 'stages.html'}\nlast model  {staged.stages[-1].config.output}"
        print_result(report.content, f"{report.text()}\n\n{paths}", as_json)


def _dry_run(output: Path, stages: Sequence[TrainingStage], node_of: NodeOf, form: Form) -> None:
    runs = {}
    print_error(f"nothing is started, prepared or written; the stages would be runs in {output}")
    print_software([stage.config for stage in stages])
    for stage in stages:
        after = f", from the weights of {stage.after}" if stage.after else ""
        with located(f"stages.{stage.name}"):
            specs = processes_of(stage.config, node_of(stage.config))
        runs[f"# stage {stage.name}, {stage.config.steps:,} steps{after}"] = (Path(stage.config.output), specs)
    print_out(process_text(runs, form))


def _with_data(staged: StagedRun, corpus: Sequence[str], quiet: bool, node_of: NodeOf) -> StagedRun:
    """The stages with the paths of their datasets, once all datasets and the models they start from are sound."""
    resolved: dict[str, tuple[TrainingStage, Path]] = {}
    notes: list[str | None] = []
    for stage in staged.stages:
        if stage.name in staged.chosen:
            with located(f"stages.{stage.name}"):
                config = resolve_data(stage.config, corpus, quiet, node_of(stage.config).count)
                stage = replace(stage, config=config)
                resolved[stage.name] = stage, check_datasets(config)
                notes.append(_check_start(staged, stage, resolved))
    for note in dict.fromkeys(filter(None, notes)):
        print_error(note)
    stages = (resolved[stage.name][0] if stage.name in resolved else stage for stage in staged.stages)
    return replace(staged, stages=tuple(stages))


def _check_start(
    staged: StagedRun, stage: TrainingStage, resolved: Mapping[str, tuple[TrainingStage, Path]]
) -> str | None:
    """Check that the stage can start from its own or an earlier stage's model; a note if a tokenizer is unknown."""
    config, dataset = stage.config, resolved[stage.name][1]
    if stage.after in resolved:
        before, its_dataset = resolved[stage.after]
        return check_following(config, dataset, before.config, its_dataset)
    if stage.after is not None:
        weights = str(left_by(staged.stage(stage.after), stage.best))
        config = replace(config, model=replace(config.model, weights=weights))
    return check_weights(config, dataset)
