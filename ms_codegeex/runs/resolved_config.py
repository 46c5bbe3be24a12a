"""The resolved configuration of a run, in its directory: written when the run is opened, read by every rank; and what
it means after the run was moved."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_file, moved_along
from ms_codegeex.base.printing import print_error
from ms_codegeex.base.yaml_reading import read_yaml_file
from ms_codegeex.config import RunConfig
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.config.values import parse_overrides
from ms_codegeex.runs.run_directory import RunDirectory

PLACES = {  # keys that name a place, or several
    "data": ("train", "blend", "validation", "held_out", "tokenizer"),
    "model": ("weights",),
    "lora": ("weights",),
    "parallel": ("calibration",),
}


def write_config(run: RunDirectory, config: RunConfig) -> None:
    """Write the resolved configuration: every default filled in, all paths absolute. `train --config` reads it."""
    with atomic_file(run.config) as temporary:
        temporary.write_text(yaml.safe_dump(config.to_dict(), sort_keys=False), encoding="utf-8")


def read_config(run: RunDirectory) -> RunConfig:
    """Read and check it; a `UserError` names the file, or says that `run` is not a run directory."""
    try:
        values = read_yaml_file(run.config)
    except FileNotFoundError:
        raise UserError(f"{run.path}: not a run directory (no config.yaml)") from None
    try:
        if not isinstance(values, Mapping):
            raise UserError(f"found {type(values).__name__}, expected sections with keys; restore it")
        return build_run_config(values)
    except UserError as error:
        raise UserError(f"{run.config}: not the configuration of a run ({error})") from None


def since_moved(file: Path, overrides: Sequence[str]) -> list[str]:
    """Overrides for `config.yaml` in a run directory that was moved or copied after it was written: the run is where
    the file is, and what has moved along with it lies where it did, seen from there. Says so on standard error. None
    for any other file, and for keys that `overrides` state."""
    run, stated = RunDirectory(file.absolute().parent), parse_overrides(overrides)
    if file.absolute() != run.config or not run.events.is_file() or not run.config.is_file():
        return []
    values = read_yaml_file(file)
    before = values.get("output") if isinstance(values, Mapping) else None
    if not isinstance(before, str) or os.path.realpath(before) == os.path.realpath(run.path):
        return []
    found: dict[str, Any] = {} if "output" in stated else {"output": str(run.path)}
    for section, names in PLACES.items():
        for name in names:
            value = (values.get(section) or {}).get(name)
            now = _found(value, Path(before), run.path)
            if now != value and name not in (stated.get(section) or {}):
                found[f"{section}.{name}"] = now
    words = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in found.items()]
    if words:
        print_error(f"{file}: this run was in {before}, so {' '.join(words)}")
    return words


def _found(value: Any, before: Path, now: Path) -> Any:
    """The value of a key, with each path in it that is gone but exists from the new place of the run."""
    if isinstance(value, Mapping):
        return {_found(key, before, now): _found(each, before, now) for key, each in value.items()}
    if isinstance(value, list):
        return [_found(each, before, now) for each in value]
    return str(moved_along(Path(value), before, now)) if isinstance(value, str) else value
