"""The configuration of a run: typed `sections`, `rules` between their keys, `loading` of YAML files and overrides."""

from ms_codegeex.config.run import RunConfig

__all__ = ["RunConfig"]
