"""What pyproject.toml declares that the package depends on, not what is installed."""

import re

from conftest import ROOT
from packaging.requirements import Requirement

OURS = "ms-codegeex"


def normalised(name):
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def extras():
    """The names of all extras."""
    text = (ROOT / "pyproject.toml").read_text()
    (block,) = re.findall(r"^\[project\.optional-dependencies\]\n((?:[^\[\n].*\n|\n)*)", text, flags=re.MULTILINE)
    return re.findall(r"^(\w+) = \[", block, flags=re.MULTILINE)


def listed(extra=""):
    """The lines of the core's list, or of that of an extra."""
    text = (ROOT / "pyproject.toml").read_text()
    (block,) = re.findall(rf"^{extra or 'dependencies'} = \[.*?\n((?:.*\n)*?)\]", text, flags=re.MULTILINE)
    return [Requirement(line) for line in re.findall(r'^ +"([^"]+)"', block, flags=re.MULTILINE)]


def requirements(extra=""):
    """By normalised name; those of an extra if one is named, and of the extras that it names."""
    found = {}
    for one in listed(extra):
        if one.name == OURS:
            found |= {name: package for each in sorted(one.extras) for name, package in requirements(each).items()}
        else:
            found[normalised(one.name)] = one
    return found


def parts_of_all():
    """The extras that `[all]` names: those of the package itself."""
    (line,) = listed("all")
    return sorted(line.extras)


def oldest(requirement):
    """The oldest version that it allows, None if it allows all old ones."""
    versions = [one.version for one in requirement.specifier if one.operator in (">=", "==", "~=")]
    return versions[0] if versions else None
