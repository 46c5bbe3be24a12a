"""Name -> model family. The engine is imported only when a network is asked for."""

from __future__ import annotations

import importlib
from types import ModuleType

from ms_codegeex.errors import UserError

FAMILIES = ("codegeex", "codegen", "codegeex2")


class Family:
    """The modules of one family: `config` (sizes, presets), `weights` (foreign names), `model` (cells, needs
    MindSpore)."""

    def __init__(self, name: str):
        self.name = name

    def _module(self, part: str) -> ModuleType:
        return importlib.import_module(f"ms_codegeex.models.{self.name}.{part}")

    @property
    def config(self) -> ModuleType:
        """`build_config`, the config dataclass and `PRESETS`."""
        return self._module("config")

    @property
    def parallel(self) -> ModuleType:
        """Where parameters lie on a mesh, and the strategies of the cells."""
        return self._module("parallel")

    @property
    def weights(self) -> ModuleType:
        """The map between our parameter names and each foreign format."""
        return self._module("weights")

    @property
    def model(self) -> ModuleType:
        """The cells."""
        return self._module("model")


def family(name: str) -> Family:
    """The family of that name; an unknown one is a `UserError`."""
    if name not in FAMILIES:
        raise UserError(f"model.family: '{name}' is unknown; choose one of {', '.join(FAMILIES)}")
    return Family(name)
