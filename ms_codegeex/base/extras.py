"""What the extras have registered for verbs of the core, which work without them and never import them by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from ms_codegeex.base.errors import UserError

WING = "ms_codegeex.extras"


def registered(place: str) -> Mapping[str, str]:
    """The entries of a place in `extras/entries.py`; none if the installation was made without the wing."""
    try:
        return importlib.import_module(f"{WING}.entries").ENTRIES[place]
    except ModuleNotFoundError:
        return {}


def extra(place: str, name: str) -> Any:
    """The module, function or value that an extra has registered; `UserError` if the installation was made without."""
    module, _, inside = registered(place).get(name, "").partition(":")
    missing, path = WING, f"{WING}.{module}"
    try:
        if module:
            found = importlib.import_module(path)
            return getattr(found, inside) if inside else found
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise
        missing = error.name
    what = f"{place.partition(' ')[2]} {name}".strip()
    raise UserError(f"{what}: {missing} is not installed; leave the option out or install it")
