"""The resolved configuration in a run directory, written when the run is opened and read by every rank."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_file
from ms_codegeex.base.yaml_reading import read_yaml_file
from ms_codegeex.config import RunConfig
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.runs.files.run_directory import RunDirectory


def write_config(run: RunDirectory, config: RunConfig) -> None:
    with atomic_file(run.config) as temporary:
        temporary.write_text(yaml.safe_dump(config.to_dict(), sort_keys=False), encoding="utf-8")


def read_config(run: RunDirectory) -> RunConfig:
    """Read and check the run's configuration. `UserError` if the file is invalid, or `run` is not a run directory."""
    try:
        values = read_yaml_file(run.config)
    except FileNotFoundError:
        raise UserError(f"{run.path}: not a run directory (no config.yaml); name the output of a run") from None
    if not isinstance(values, Mapping):
        raise UserError(f"{run.config}: found {type(values).__name__}, expected sections with keys; restore it")
    try:
        return build_run_config(values)
    except UserError as error:
        raise UserError(f"{run.config}: not the configuration of a run ({error}); restore it") from None
