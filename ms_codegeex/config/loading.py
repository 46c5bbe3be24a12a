"""From YAML files and overrides to the configuration of a run, or of the runs that the key `stages` describes, each
from the weights of one before it; or to the first mistake in them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ms_codegeex.base.errors import UserError, located, suggestion
from ms_codegeex.base.host import available_cores
from ms_codegeex.base.shipped import SUFFIXES, find_config
from ms_codegeex.base.yaml_reading import read_yaml_file
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.config.run import RunConfig
from ms_codegeex.config.validation import check_tree, validated
from ms_codegeex.config.values import merged, parse_overrides, read_yaml, with_home
from ms_codegeex.models.registry import FAMILIES, family

OWN = ("name", "start")  # keys of a stage that are not keys of a run
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class StartConfig:
    """Where a stage's weights come from."""

    stage: str | None = None  # name of an earlier stage; none: the one before
    checkpoint: Literal["last", "best"] | None = None  # none: the best if that stage keeps it, otherwise the last


@dataclass(frozen=True)
class TrainingStage:
    """One stage: a run in `output`/`name`, from the weights of stage `after`, or as its own configuration says."""

    name: str
    config: RunConfig
    after: str | None = None
    best: bool = False  # from the best checkpoint of that stage, not from its last one


@dataclass(frozen=True)
class StagedRun:
    """The stages of a file in their order, the directory that holds their runs, and the stages to train."""

    output: Path
    stages: tuple[TrainingStage, ...]
    chosen: tuple[str, ...]

    def stage(self, name: str | None) -> TrainingStage:
        """The stage of that name."""
        return next(stage for stage in self.stages if stage.name == name)


@dataclass(frozen=True)
class TrainingStageValues:
    """A stage before its configuration is built."""

    name: str
    values: dict[str, Any]
    after: str | None
    checkpoint: str | None


def _smallest_world(parallel: Any) -> int:
    """The fewest devices for the given axes; a value of the wrong type is reported when the configuration is built."""
    if not isinstance(parallel, Mapping):
        return 1
    sizes = [parallel.get("data") or parallel.get("optimizer_shard"), parallel.get("tensor"), parallel.get("pipeline")]
    return math.prod(size for size in sizes if type(size) is int and size > 0)


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """The YAML file `path`, or the shipped one of that name (none: defaults), with dotted overrides on top, checked. Of
    a file with stages, the one that the override `stage=NAME` names."""
    file, values, over = _read(path, overrides)
    if "stages" not in values:
        for key in ("stages", "stage"):
            if key in over:
                raise UserError(f"{key}: {path or 'the default'} has no stages; leave it out, or give another --config")
        return _built(merged(values, _with_own_tokenizer(values, over)))
    chosen = _chosen(stages := training_stage_values(values, over, file), over)
    if len(chosen) > 1:
        raise UserError(f"stages: {file} has several; choose one with stage=NAME, of {', '.join(chosen)}")
    return next(_built_stage(stage) for stage in stages if stage.name in chosen)


def load_staged_run(path: Path, overrides: Sequence[str] = ()) -> StagedRun | None:
    """All stages of a YAML file, each checked, of which the override `stage=NAME` chooses one; None if it has none."""
    file, values, over = _read(path, overrides)
    if "stages" not in values:
        return None
    everything = training_stage_values(values, over, file)
    configs = {stage.name: _built_stage(stage) for stage in everything}
    stages = []
    for stage in everything:
        keeps_best = stage.after is not None and configs[stage.after].training.patience > 0
        if stage.checkpoint == "best" and not keeps_best:
            wrong = f"best, but stage {stage.after} keeps no best checkpoint"
            remedy = "set its training.patience and training.evaluate_every"
            raise UserError(f"stages.{stage.name}.start.checkpoint: {wrong}; {remedy}")
        best = keeps_best and stage.checkpoint != "last"
        stages.append(TrainingStage(stage.name, configs[stage.name], stage.after, best))
    return StagedRun(Path(stages[0].config.output).parent, tuple(stages), _chosen(everything, over))


def _chosen(stages: Sequence[TrainingStageValues], overrides: Mapping[str, Any]) -> tuple[str, ...]:
    """The stage that the override `stage` names, or all."""
    names = tuple(stage.name for stage in stages)
    chosen = overrides.get("stage")
    if chosen is None:
        return names
    if str(chosen) not in names:
        raise UserError(f"stage: found {chosen!r}, expected one of {', '.join(names)}")
    return (str(chosen),)


def _read(path: Path | None, overrides: Sequence[str]) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The file, its values and the overrides."""
    file, over = find_config(path) if path else Path("default"), parse_overrides(overrides)
    if "base" in over:
        raise UserError("base: is a key of files; give its file as --config")
    return file, with_home(read_yaml(file)) if path else {}, over


def _with_own_tokenizer(values: Mapping[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """The overrides, with the sizes that `data.tokenizer_size` among them gives a model that starts anew."""
    data, model = (each if isinstance(each, Mapping) else {} for each in (over.get("data"), over.get("model")))
    size, whole = data.get("tokenizer_size"), merged(values, over).get("model") or {}
    name = whole.get("family", "codegeex")
    if type(size) is not int or whole.get("weights") is not None or name not in FAMILIES:
        return over
    after = family(name).config.build_config(None, {}).after_end
    own = {} if after is None else {"vocab_size": size, "eos_token_id": size - 1 - after}
    return {**over, "model": {**own, **model}}


def _built_stage(stage: TrainingStageValues) -> RunConfig:
    with located(f"stages.{stage.name}"):
        return _built(stage.values)


def _with_chip(values: dict[str, Any]) -> dict[str, Any]:
    """With the chip of a hardware file in `parallel.hardware`, and the file in `parallel.calibration`."""
    parallel = values.get("parallel")
    name = parallel.get("hardware") if isinstance(parallel, Mapping) else None
    if not isinstance(name, str) or Path(name).suffix not in SUFFIXES:
        return values
    try:
        content = read_yaml_file(Path(name))
    except FileNotFoundError:
        remedy = "write it with `calibrate`, or name a chip"
        raise UserError(f"parallel.hardware: {name} does not exist; {remedy}") from None
    base = content.get("base") if isinstance(content, Mapping) else None
    if not isinstance(base, str):
        raise UserError(f"parallel.hardware: {name} names no chip as its base; write it again with `calibrate`")
    return {**values, "parallel": {**parallel, "hardware": base, "calibration": name}}


def _built(values: dict[str, Any]) -> RunConfig:
    values = _with_chip(values)
    if values.get("devices") is None:
        values["devices"] = _smallest_world(values.get("parallel"))
        single = build_run_config(values)
        shareable = (
            single.devices == 1 and single.device == "cpu" and single.local_batch % 2 == 0 and not single.lora.bits
        )
        if shareable and available_cores() >= 2 and (single.training.micro_batch or 1) <= single.local_batch // 2:
            values["devices"] = 1 if single.parallel.data else 2
    return build_run_config(values)


def training_stage_values(
    values: Mapping[str, Any], overrides: Mapping[str, Any], file: Path
) -> list[TrainingStageValues]:
    """The values of each stage: the file's other keys, the stage's own on top of them, then the overrides: first those
    for all stages, then those for this one, `stages.NAME.key=value`. `values`: those of the file with its `stages`,
    whose `base` files have been read. `overrides`: nested. `file`: for the default output."""
    entries = _entries(values["stages"])
    names = [entry["name"] for entry in entries]
    own = overrides.get("stages", {})
    if not isinstance(own, Mapping):
        raise UserError("stages: they are not given on the command line; write stages.NAME.key=value")
    for name in own:
        if name not in names:
            raise UserError(f"stages.{name}: no such stage; {suggestion(str(name), names)}")
        if not isinstance(own[name], Mapping):
            raise UserError(f"stages.{name}: found {own[name]!r}; write stages.{name}.key=value")
        for key in ("output", "stage", *OWN):
            if key in own[name]:
                remedy = f"change it in {file}" if key in OWN else "leave it out: a stage's run is in OUTPUT/NAME"
                raise UserError(f"stages.{name}.{key}: cannot be overridden; {remedy}")
    common = {key: value for key, value in values.items() if key != "stages"}
    everywhere = {key: value for key, value in overrides.items() if key not in ("stages", "stage")}
    together = merged(common, everywhere)
    weights = _weights(together)  # for the first stage only
    output = together.get("output") or f"runs/{file.stem}"
    if not isinstance(output, str):
        raise UserError(f"output: found {output!r}; input should be a valid string")
    stages = []
    for number, entry in enumerate(entries):
        name, start = entry["name"], _start(entry, names[:number])
        layers = ({k: v for k, v in entry.items() if k not in OWN}, _without_weights(everywhere), own.get(name) or {})
        result = _without_weights(common)
        for layer in layers:
            result = merged(result, layer)
        after = start.stage or (names[number - 1] if number else None)
        if number == 0 and weights is not None and _weights(result) is None:
            result = merged(result, {"model": {"weights": weights}})
        if _weights(result) is not None:
            if start.stage or start.checkpoint:
                raise UserError(f"stages.{name}.start: model.weights is given too; leave one of them out")
            after = None
        result |= {"output": str(Path(output) / name), "stage": name}
        stages.append(TrainingStageValues(name, result, after, start.checkpoint))
    return stages


def _entries(stages: Any) -> list[dict[str, Any]]:
    if not isinstance(stages, Sequence) or isinstance(stages, str) or not stages:
        raise UserError(f"stages: found {stages!r}, expected a list of stages, each with a name and keys of a run")
    names: list[str] = []
    for number, entry in enumerate(stages):
        where = f"stages[{number}]"
        if not isinstance(entry, Mapping):
            raise UserError(f"{where}: found {entry!r}, expected a name and keys of a run")
        name = entry.get("name")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise UserError(f"{where}.name: found {name!r}, expected a name for a folder, such as multi")
        if name in names:
            raise UserError(f"{where}.name: {name} is the name of an earlier stage too; choose another")
        names.append(name)
    return [dict(entry) for entry in stages]


def _start(entry: Mapping[str, Any], earlier: Sequence[str]) -> StartConfig:
    """The stage's `start`, checked against the names of the stages before it."""
    prefix, given = f"stages.{entry['name']}.start", entry.get("start") or {}
    if not isinstance(given, Mapping):
        raise UserError(f"{prefix}: found {given!r}, expected the keys stage and checkpoint")
    start = validated(StartConfig, check_tree(StartConfig, given, prefix), f"{prefix}.")
    if start.stage is not None and start.stage not in earlier:
        raise UserError(f"{prefix}.stage: {start.stage} is not an earlier stage; {suggestion(start.stage, earlier)}")
    if start.checkpoint and not earlier:
        raise UserError(f"{prefix}.checkpoint: no stage is before this one; leave it out, or set model.weights")
    return start


def _weights(values: Mapping[str, Any]) -> Any:
    model = values.get("model")
    return model.get("weights") if isinstance(model, Mapping) else None


def _without_weights(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values without `model.weights`."""
    model = values.get("model")
    if not isinstance(model, Mapping):
        return dict(values)
    return {**values, "model": {key: value for key, value in model.items() if key != "weights"}}
