"""From YAML files and overrides to the configuration of a run, or to the first mistake in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.host import available_cores
from ms_codegeex.base.shipped import find_config
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.config.run import RunConfig
from ms_codegeex.config.stages import Stage, StagedRun, StageValues, stage_values
from ms_codegeex.config.values import merged, parse_overrides, read_yaml


def _smallest_world(parallel: Any) -> int:
    """The fewest devices for the given axes; a value of the wrong type is reported when the configuration is built."""
    if not isinstance(parallel, Mapping):
        return 1
    sizes = [parallel.get("data") or parallel.get("optimizer_shard"), parallel.get("tensor"), parallel.get("pipeline")]
    return math.prod(size for size in sizes if type(size) is int and size > 0)


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """The YAML file `path`, or the shipped one of that name (none: defaults), with dotted overrides on top, checked.

    Of a file with stages, the one that the override `stage=NAME` names.
    """
    file, values, over = _read(path, overrides)
    if "stages" not in values:
        if "stages" in over:
            raise UserError(f"stages: {path} has none; leave the override out, or add them to the file")
        return _built(merged(values, over))
    chosen = _chosen(stages := stage_values(values, over, file), over)
    if len(chosen) > 1:
        raise UserError(f"stages: {file} has several; choose one with stage=NAME, of {', '.join(chosen)}")
    return next(_built_stage(stage) for stage in stages if stage.name in chosen)


def load_stages(path: Path, overrides: Sequence[str] = ()) -> StagedRun | None:
    """All stages of a YAML file, each checked, of which the override `stage=NAME` chooses one; None if it has none."""
    file, values, over = _read(path, overrides)
    if "stages" not in values:
        return None
    everything = stage_values(values, over, file)
    configs = {stage.name: _built_stage(stage) for stage in everything}
    stages = []
    for stage in everything:
        keeps_best = stage.after is not None and configs[stage.after].training.patience > 0
        if stage.checkpoint == "best" and not keeps_best:
            raise UserError(
                f"stages.{stage.name}.start.checkpoint: best, but stage {stage.after} keeps no best checkpoint; set "
                "its training.patience and training.evaluate_every"
            )
        best = keeps_best and stage.checkpoint != "last"
        stages.append(Stage(stage.name, configs[stage.name], stage.after, best))
    return StagedRun(Path(stages[0].config.output).parent, tuple(stages), _chosen(everything, over))


def _chosen(stages: Sequence[StageValues], overrides: Mapping[str, Any]) -> tuple[str, ...]:
    """The stage that the override `stage` names, or all."""
    names = tuple(stage.name for stage in stages)
    chosen = overrides.get("stage")
    if chosen is None:
        return names
    if chosen not in names:
        raise UserError(f"stage: found {chosen!r}, expected one of {', '.join(names)}")
    return (chosen,)


def _read(path: Path | None, overrides: Sequence[str]) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The file, its values and the overrides."""
    file = find_config(path) if path else Path("default")
    return file, read_yaml(file) if path else {}, parse_overrides(overrides)


def _built_stage(stage: StageValues) -> RunConfig:
    try:
        return _built(stage.values)
    except UserError as error:
        raise UserError(f"stages.{stage.name}: {error}") from None


def _built(values: dict[str, Any]) -> RunConfig:
    if values.get("devices") is None:
        values["devices"] = _smallest_world(values.get("parallel"))
        single = build_run_config(values)
        shareable = single.devices == 1 and single.device == "cpu" and single.local_batch % 2 == 0
        if shareable and available_cores() >= 2 and (single.training.micro_batch or 1) <= single.local_batch // 2:
            values["devices"] = 1 if single.parallel.data else 2
    return build_run_config(values)
