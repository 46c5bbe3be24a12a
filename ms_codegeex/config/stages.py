"""The key `stages` of a YAML file: runs that follow each other, each from the weights of one before it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ms_codegeex.base.errors import UserError
from ms_codegeex.config.run import RunConfig
from ms_codegeex.config.validation import check_tree, validated
from ms_codegeex.config.values import merged

OWN = ("name", "start")  # keys of a stage that are no keys of a run
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class StartConfig:
    """Where a stage's weights come from."""

    stage: str | None = None  # name of an earlier stage; none: the one before
    checkpoint: Literal["last", "best"] | None = None  # none: the best if that stage keeps it, otherwise the last


@dataclass(frozen=True)
class Stage:
    """One stage: a run in `output`/`name`, from the weights of stage `after`, or as its own configuration says."""

    name: str
    config: RunConfig
    after: str | None = None
    best: bool = False  # from the best checkpoint of that stage, not from its last one


@dataclass(frozen=True)
class StagedRun:
    """The stages of a file in their order, the directory that holds their runs, and the stages to train."""

    output: Path
    stages: tuple[Stage, ...]
    chosen: tuple[str, ...]

    def stage(self, name: str | None) -> Stage:
        """The stage of that name."""
        return next(stage for stage in self.stages if stage.name == name)


@dataclass(frozen=True)
class StageValues:
    """A stage before its configuration is built."""

    name: str
    values: dict[str, Any]
    after: str | None
    checkpoint: str | None


def staged_output(values: Mapping[str, Any], file: Path) -> str:
    """The directory that holds the stages' runs."""
    return str(values.get("output") or f"runs/{file.stem}")


def stage_values(values: Mapping[str, Any], overrides: Mapping[str, Any], file: Path) -> list[StageValues]:
    """The values of each stage: the file's other keys, the stage's own on top of them, then the overrides: first those
    for all stages, then those for this one, `stages.NAME.key=value`.

    Args:
        values: of the file, with its `stages`, whose `base` files have been read.
        overrides: nested, from the command line.
        file: for the default output.
    """
    entries = _entries(values["stages"])
    names = [entry["name"] for entry in entries]
    own = overrides.get("stages") or {}
    if not isinstance(own, Mapping):
        raise UserError("stages: they are not given on the command line; write stages.NAME.key=value")
    for name in own:
        if name not in names:
            raise UserError(f"stages.{name}: no such stage; {_hint(str(name), names)}")
    common = {key: value for key, value in values.items() if key != "stages"}
    everywhere = {key: value for key, value in overrides.items() if key not in ("stages", "stage")}
    weights = _weights(merged(common, everywhere))  # for the first stage only
    output = staged_output(merged(common, everywhere), file)
    found = []
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
        found.append(StageValues(name, result, after, start.checkpoint))
    return found


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
    check_tree(StartConfig, given, prefix)
    start = validated(StartConfig, given, f"{prefix}.")
    if start.stage is not None and start.stage not in earlier:
        raise UserError(f"{prefix}.stage: {start.stage} is not an earlier stage; {_hint(start.stage, earlier)}")
    if start.checkpoint and not earlier:
        raise UserError(f"{prefix}.checkpoint: no stage is before this one; leave it out, or set model.weights")
    return start


def _hint(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1, 0.5)
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(known) or 'none'}"


def _weights(values: Mapping[str, Any]) -> Any:
    model = values.get("model")
    return model.get("weights") if isinstance(model, Mapping) else None


def _without_weights(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values without `model.weights`."""
    model = values.get("model")
    if not isinstance(model, Mapping):
        return dict(values)
    return {**values, "model": {key: value for key, value in model.items() if key != "weights"}}
