"""The configuration of a run: typed `sections`, the `rules` between their keys, `loading` of YAML and overrides."""

from ms_codegeex.config.run import RunConfig

__all__ = ["RunConfig"]
