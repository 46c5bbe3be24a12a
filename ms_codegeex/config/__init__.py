"""The configuration of a run: typed sections (here), the rules between their keys (`rules`), YAML files and overrides
(`loading`)."""

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
]
