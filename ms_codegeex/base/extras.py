"""Rooms around the core, which the core knows by name only: it works without them."""

from __future__ import annotations

import importlib
from types import ModuleType

from ms_codegeex.base.errors import UserError


def extra(module: str, option: str) -> ModuleType:
    """A module of the package that only this option needs; `UserError` if the installation was made without it."""
    name = f"ms_codegeex.{module}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise UserError(f"{option}: {error.name} is not installed; leave the option out or install it") from None
