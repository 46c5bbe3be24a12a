"""A virtual environment for one test, with packages that are not among the tests' own."""

import os
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import ROOT

VARIABLES = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
PYTEST = ("-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider")  # after its Python


def own_environment(place, *packages):
    """Its Python, after `pip install` of these packages. Packages of this environment are used where their versions
    fit. Skips the test if there is no package index."""
    subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", place], check=True)
    (site,) = place.glob("lib/python3*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = place / "bin" / "python"
    subprocess.run([*pip_of_index(python, place), "install", "-q", *packages], check=True)
    return python


def cached_environment(name, *packages, without=()):
    """The Python of an environment of this name that has these packages, and not those that they bring `without` need.
    It is made once, in MS_CODEGEEX_ENVIRONMENTS or the user's cache, and installs nothing when it is there. Skips the
    test if it cannot be made."""
    root = os.environ.get("MS_CODEGEEX_ENVIRONMENTS") or Path.home() / ".cache" / "ms-codegeex-tests"
    place, python = Path(root) / name, Path(root) / name / "bin" / "python"
    done, wanted = place / "packages.txt", " ".join((platform.python_version(), *packages))
    if done.is_file() and done.read_text() == wanted:
        return python
    subprocess.run([sys.executable, "-I", "-m", "venv", "--clear", place], check=True)
    pip = [python, "-I", "-m", "pip", "--disable-pip-version-check"]
    for words in (["install", "-q", *packages], ["uninstall", "-q", "-y", *without] if without else None):
        if words and subprocess.run([*pip, *words], env=VARIABLES).returncode:
            pytest.skip(f"needs a package index with {' '.join(packages)}")
    done.write_text(wanted)
    return python


def pip_of_index(python, place):
    """The words that run this environment's pip for another Python. Skips the test if there is no package index; a
    download into `place` shows that."""
    pip = [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "--python", python]
    words = [*pip, "download", "-q", "--no-deps", "-d", place / "index", "packaging"]
    if subprocess.run(words, env=VARIABLES).returncode:
        pytest.skip("needs a package index")
    return pip


def run_in(python, *words, given=None, cwd=None, timeout=120):
    """Run this Python with these words, and with a text on standard input; it finds the checkout."""
    how = {"capture_output": True, "text": True, "timeout": timeout, "cwd": cwd}
    return subprocess.run([python, *map(str, words)], env=VARIABLES | {"PYTHONPATH": str(ROOT)}, input=given, **how)
