"""Find the configuration files that come with the package, by name, and read YAML tables next to the code that uses
them.

The configurations are the repository's `configs/`, to which `ms_codegeex/configs` links. So a checkout, an editable
installation and a wheel have the same files under the same path."""

from __future__ import annotations

import difflib
import functools
from importlib import resources
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError

SUFFIXES = (".yaml", ".yml")
RECIPES = "recipes"  # the group of plans in docs/recipes.md, which can also be run
BEGINNINGS = Path(__file__).with_name("beginnings.yaml")


@functools.cache
def shipped_table(path: Path) -> Any:
    from ms_codegeex.base.yaml_reading import read_yaml_file  # deferred: many processes read no table

    return read_yaml_file(path)


def shipped_directory(group: str = "") -> Path:
    return Path(str(resources.files("ms_codegeex"))) / "configs" / group


def shipped_names(group: str = "") -> list[str]:
    return sorted(path.stem for path in shipped_directory(group).glob("*.yaml"))


def find_config(name: str | Path, group: str = "", option: str = "--config") -> Path:
    """Return the path of the YAML file `name`: a path to a file, or the name of a shipped one. Raises `UserError` if it
    is not readable or does not exist; the message names `option`, the nearest shipped name and all others."""
    path = Path(name)
    groups = (group,) if group else (group, RECIPES)
    try:
        if path.exists() and not path.is_dir():
            return path
        if path.name == str(name):
            for shipped in (shipped_directory(each) / f"{name}.yaml" for each in groups):
                if shipped.is_file():
                    return shipped
    except OSError as error:
        raise UserError(
            f"{option}: {name} is not readable ({error.strerror}); give another path or a shipped name"
        ) from None
    names = shipped_names(group)
    wanted = path.stem if path.suffix in SUFFIXES else path.name
    close = difflib.get_close_matches(wanted, [one for each in groups for one in shipped_names(each)], 1, 0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    more = "" if group else f", and the {len(shipped_names(RECIPES))} of docs/recipes.md"
    raise UserError(f"{option}: {name} is neither a file nor a shipped name; {hint}shipped: {', '.join(names)}{more}")
