"""Name -> model family. The engine is imported only when a network is requested."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType

from ms_codegeex.base.errors import UserError
from ms_codegeex.models.parameters import ParameterTable

FAMILIES = ("codegeex", "codegen", "codegeex2", "qwen2")


@dataclass(frozen=True)
class Family:
    """The modules of one family: `config` (table of parameters, sizes, presets), `weights` (foreign names), `model`
    (cells; needs MindSpore)."""

    name: str

    def _module(self, part: str) -> ModuleType:
        return importlib.import_module(f"ms_codegeex.models.{self.name}.{part}")

    @property
    def config(self) -> ModuleType:
        return self._module("config")

    @property
    def table(self) -> ParameterTable:
        return self.config.PARAMETERS

    @property
    def weights(self) -> ModuleType:
        return self._module("weights")

    @property
    def model(self) -> ModuleType:
        return self._module("model")


def family(name: str) -> Family:
    """The family of that name; an unknown one is a `UserError`."""
    if name not in FAMILIES:
        raise UserError(f"model.family: '{name}' is unknown; choose one of {', '.join(FAMILIES)}")
    return Family(name)
