"""What the extras have registered for verbs of the core, which work without them and never import them by name; and
which packages an extra needs, by the lists of pyproject.toml as they are installed with the package."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Mapping, Sequence
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


@functools.cache
def _listed() -> Sequence[tuple[str, tuple[str, ...], str, bool]]:
    """Each package that an extra asks for: its name, or ours with the names of other extras; the extra; and whether it
    is for some machines only. Nothing where this package itself is not installed."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        lines = requires(PACKAGE) or ()
    except PackageNotFoundError:
        return ()
    found = [match for line in lines if (match := _LISTED.match(line)) and match[4]]
    return [(each[1], tuple((each[2] or "").split(",")), each[4], bool(each[3].strip())) for each in found]


def missing_packages(name: str) -> list[str]:
    """Packages that the extra `name` asks for on this machine and that are not installed, in any version. Those that it
    asks for on some machines are looked at if no other one is missing: `--help` calls this, and it takes 0.06 s."""
    found, somewhere = [], []
    for package, others, of, limited in _listed():
        if of == name and package == PACKAGE:
            found += [each for other in others for each in missing_packages(other)]
        elif of == name and not _is_installed(package):
            (somewhere if limited else found).append(package)
    return found or [package for package in somewhere if _is_for_this_machine(package, name)]


def _is_installed(package: str) -> bool:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        return distribution(package) is not None
    except PackageNotFoundError:
        return False


def _is_for_this_machine(package: str, name: str) -> bool:
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    listed = [one for one in map(Requirement, requires(PACKAGE) or ()) if one.name == package and one.marker]
    return any(one.marker.evaluate({"extra": name}) for one in listed if one.marker)


def install_line(name: str) -> str:
    """The command that installs an extra."""
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
        package = error.name.partition(".")[0].replace("_", "-")
        names = [of for listed, _, of, _ in _listed() if listed.replace("_", "-").lower() == package.lower()]
        if names:
            return without_packages([package], names[0])
    return error
