"""What the extras have registered for verbs of the core, which work without them and never import them by name; and
which packages an extra needs, by the lists of pyproject.toml as they are installed with the package."""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ms_codegeex.base.errors import UserError

WING = "ms_codegeex.extras"
PACKAGE = "ms-codegeex"  # as pip knows it
_LISTED = re.compile(r"([\w.-]+)(?:\[([\w.,-]+)\])?[^;]*(?:;(.*?)\bextra == ['\"]([\w.-]+)['\"])?")


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
    remedy = f"leave the option out, or run `pip install --force-reinstall {PACKAGE}`"
    raise UserError(f"{what}: {missing} is not installed; {remedy}")


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@functools.cache
def _installed() -> Mapping[str, str]:
    """Where the metadata of each installed package are, by its plain name. `importlib.metadata` would take 0.02 s, and
    `serve`'s engine would have its modules."""
    found: dict[str, str] = {}
    for place in sys.path:
        with contextlib.suppress(OSError):
            for name in os.listdir(place or os.curdir):
                if name.endswith((".dist-info", ".egg-info")):
                    found.setdefault(_plain(name.partition("-")[0]), os.path.join(place, name))
    return found


@functools.cache
def _required() -> Sequence[str]:
    for file in ("METADATA", "PKG-INFO"):
        with contextlib.suppress(OSError), open(f"{_installed().get(PACKAGE)}/{file}", encoding="utf-8") as stream:
            header = itertools.takewhile(str.strip, stream)
            return [line.partition(":")[2].strip() for line in header if line.startswith("Requires-Dist:")]
    return ()


def _listed() -> Iterator[tuple[str, Sequence[str], str, bool]]:
    for line in _required():
        if (match := _LISTED.match(line)) and match[4]:
            yield match[1], (match[2] or "").split(","), match[4], bool(match[3].strip())


def missing_packages(name: str) -> list[str]:
    """Packages that the extra `name` asks for on this machine and that are not installed, in any version. Those for
    some machines only are looked at if no other one is missing: `--help` calls this, and reading their markers takes
    0.06 s."""
    found, somewhere = [], []
    for package, others, of, limited in _listed():
        if of == name and package == PACKAGE:
            found += [each for other in others for each in missing_packages(other)]
        elif of == name and _plain(package) not in _installed():
            (somewhere if limited else found).append(package)
    return found or [package for package in somewhere if _is_for_this_machine(package, name)]


def _is_for_this_machine(package: str, name: str) -> bool:
    from packaging.requirements import Requirement

    listed = [one for one in map(Requirement, _required()) if one.name == package and one.marker]
    return any(one.marker.evaluate({"extra": name}) for one in listed if one.marker)


def install_line(name: str) -> str:
    return f"pip install '{PACKAGE}[{name}]'"


def without_packages(packages: Sequence[str], name: str) -> UserError:
    """What a command says that needs the extra `name`, of which these `packages` are not installed."""
    first, others = packages[0], len(packages) - 1
    said = f"{first} and {others} more package{'s'[others == 1 :]} are" if others else f"{first} is"
    return UserError(f"{said} not installed; run `{install_line(name)}`")


def explained(error: BaseException) -> BaseException:
    """A failed import of a package that an extra asks for as a `UserError` that says how to install it; any other
    error as it is."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = _plain(error.name.partition(".")[0])
        names = [of for listed, _, of, _ in _listed() if _plain(listed) == package]
        if names:
            return without_packages([package], names[0])
    return error
