"""The wheel, and environments with it: for tests of what a user has without a checkout. A plugin of pytest."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WITHOUT_MINDFORMERS = "raise ModuleNotFoundError(\"No module named 'mindformers'\", name='mindformers')\n"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """Built from a copy: setuptools leaves a directory `build`, and puts what an old one holds into the wheel."""
    directory = tmp_path_factory.mktemp("wheel")
    copy = directory / "copy"
    copy.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("ms_codegeex", "configs"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    words = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", directory, copy]
    subprocess.run([sys.executable, "-I", *words], check=True, cwd=directory)
    (path,) = directory.glob("*.whl")
    return path


def environment_with(wheel, place):
    """`bin` of a new virtual environment with the wheel in it. The packages that it depends on come from the tests'
    environment, whose directory is last on the path."""
    subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", place], check=True)
    (site,) = place.glob("lib/python3*/site-packages")
    words = ["-m", "pip", "--python", place / "bin" / "python", "install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run([sys.executable, "-I", *words], check=True)
    # A line of a .pth file adds a directory to the path, but not what the .pth files in that directory say.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (site / "mindformers.py").write_text(WITHOUT_MINDFORMERS)
    script = (Path(sysconfig.get_path("scripts")) / "msrun").read_text().partition("\n")[2]  # MindSpore's launcher
    (place / "bin" / "msrun").write_text(f"#!{place}/bin/python\n{script}")
    (place / "bin" / "msrun").chmod(0o755)
    return place / "bin"
