"""Access to the extras. Verbs of the core work without them and never import them by name, but look up what the extras
have registered. Also finds which packages an extra needs, from the installed package's metadata."""

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
PACKAGE = "ms-codegeex"  # name of the distribution
_LISTED = re.compile(r"([\w.-]+)(?:\[([\w.,-]+)\])?[^;]*(?:;(.*?)\bextra == ['\"]([\w.-]+)['\"])?")


def registered(place: str) -> Mapping[str, str]:
    """Return the entries of `place` in `extras/entries.py`; none if the package was installed without the extras."""
    try:
        return importlib.import_module(f"{WING}.entries").ENTRIES[place]
    except ModuleNotFoundError:
        return {}


def extra(place: str, name: str) -> Any:
    """Return the module, function or value that an extra has registered. Raises `UserError` if it is not installed."""
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
    """Return the metadata folder of each installed package, by normalised name. `importlib.metadata` would take 0.02 s
    and load more modules into the engine of `serve`."""
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
    """Return the packages that the extra `name` needs on this machine and that are not installed in any version.
    Packages with an environment marker are checked only if no other package is missing: `--help` calls this function,
    and evaluating the markers takes 0.06 s."""
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
    """Return the error of a command that needs the extra `name`, whose `packages` are not installed."""
    first, others = packages[0], len(packages) - 1
    said = f"{first} and {others} more package{'s'[others == 1 :]} are" if others else f"{first} is"
    return UserError(f"{said} not installed; run `{install_line(name)}`")


def explained(error: BaseException) -> BaseException:
    """Turn a failed import of a package that an extra needs into a `UserError` that says how to install it. Return any
    other error unchanged."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = _plain(error.name.partition(".")[0])
        names = [of for listed, _, of, _ in _listed() if _plain(listed) == package]
        if names:
            return without_packages([package], names[0])
    return error
