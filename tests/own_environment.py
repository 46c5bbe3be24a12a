"""A virtual environment for one test, with packages that are not among the tests' own."""

import os
import subprocess
import sys
import sysconfig

import pytest
from conftest import ROOT

VARIABLES = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def own_environment(place, *packages):
    """Its Python, after `pip install` of these packages. Packages of this environment are used where their versions
    fit. Skips the test if there is no package index."""
    subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", place], check=True)
    (site,) = place.glob("lib/python3*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = place / "bin" / "python"
    subprocess.run([*pip_of_index(python, place), "install", "-q", *packages], check=True)
    return python


def pip_of_index(python, place):
    """The words that run this environment's pip for another Python. Skips the test if there is no package index; a
    download into `place` shows that."""
    pip = [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "--python", python]
    words = [*pip, "download", "-q", "--no-deps", "-d", place / "index", "packaging"]
    if subprocess.run(words, env=VARIABLES).returncode:
        pytest.skip("needs a package index")
    return pip


def run_in(python, *words, given=None):
    """Run this Python with these words, and with a text on standard input; it finds the checkout."""
    how = {"capture_output": True, "text": True, "timeout": 120}
    return subprocess.run([python, *map(str, words)], env=_variables(), input=given, **how)


def started(python, *words):
    """The same, while it reads and writes lines."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([python, *words], env=_variables(), **pipes)


def _variables():
    return VARIABLES | {"PYTHONPATH": str(ROOT)}
