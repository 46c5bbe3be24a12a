"""The configuration of a run: typed sections (`sections`), the rules between their keys (`rules`), YAML files and
overrides (`loading`)."""

from ms_codegeex.config.run import RunConfig

__all__ = ["RunConfig"]
