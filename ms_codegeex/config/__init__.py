"""The configuration of a run: typed sections, YAML files and overrides, and the rules between keys."""

from ms_codegeex.config.loading import build_run_config, check_run_config, load_config, load_runs, load_stages
from ms_codegeex.config.run import RunConfig
from ms_codegeex.config.sections import (
    DataConfig,
    FaultsConfig,
    LossScaleConfig,
    OptimizerConfig,
    ParallelConfig,
    ScheduleConfig,
    TrainingConfig,
)

__all__ = [
    "DataConfig",
    "FaultsConfig",
    "LossScaleConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "RunConfig",
    "ScheduleConfig",
    "TrainingConfig",
    "build_run_config",
    "check_run_config",
    "load_config",
    "load_runs",
    "load_stages",
]
