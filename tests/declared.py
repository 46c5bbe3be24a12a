"""What pyproject.toml declares that the package depends on, not what is installed."""

import re

from conftest import ROOT
from packaging.requirements import Requirement


def normalised(name):
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def extras():
    """The names of all extras."""
    text = (ROOT / "pyproject.toml").read_text()
    (block,) = re.findall(r"^\[project\.optional-dependencies\]\n((?:[^\[\n].*\n|\n)*)", text, flags=re.MULTILINE)
    return re.findall(r"^(\w+) = \[", block, flags=re.MULTILINE)


def requirements(extra=""):
    """By normalised name; those of an extra if one is named."""
    text = (ROOT / "pyproject.toml").read_text()
    (block,) = re.findall(rf"^{extra or 'dependencies'} = \[.*?\n((?:.*\n)*?)\]", text, flags=re.MULTILINE)
    lines = re.findall(r'^ +"([^"]+)"', block, flags=re.MULTILINE)
    return {normalised(one.name): one for one in map(Requirement, lines)}


def oldest(requirement):
    """The oldest version that it allows, None if it allows all old ones."""
    versions = [one.version for one in requirement.specifier if one.operator in (">=", "==", "~=")]
    return versions[0] if versions else None
