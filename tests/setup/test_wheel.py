"""The wheel in an environment of its own, away from the checkout: everything is in it, and mindformers is not needed.

The packages it depends on come from the tests' environment, whose directory is last on the path. mindformers is not
among them.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT
from small_benchmarks import humaneval_x

WITHOUT_MINDFORMERS = "raise ModuleNotFoundError(\"No module named 'mindformers'\", name='mindformers')\n"
SMALLER = (
    "training.global_batch=4 training.evaluate_samples=4 data.seq_length=32 model.hidden_size=16 model.num_layers=1 "
    "model.num_heads=2 model.intermediate_size=32 model.max_position_embeddings=512"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy: setuptools leaves a directory `build`, and puts what an old one holds into the wheel."""
    directory = tmp_path_factory.mktemp("wheel")
    copy = directory / "copy"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("ms_codegeex", "configs"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    words = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", directory, copy]
    subprocess.run([sys.executable, "-I", *words], check=True, cwd=directory)
    (path,) = directory.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def bin_directory(wheel, tmp_path_factory):
    """`bin` of a virtual environment with the wheel in it."""
    place = tmp_path_factory.mktemp("installed") / "venv"
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


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Where the commands run: two packages of source code and nothing else."""
    directory = tmp_path_factory.mktemp("work")
    for package in ("json", "email"):
        source = Path(os.__file__).parent / package
        shutil.copytree(source, directory / "src" / package, ignore=shutil.ignore_patterns("__pycache__"))
    return directory


@pytest.fixture(scope="module")
def installed(bin_directory, work):
    """Runs the installed program; returns its standard output."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(*words, program="ms-codegeex", status=0):
        result = subprocess.run(
            [bin_directory / program, *map(str, words)], cwd=work, env=environment, capture_output=True, text=True
        )
        assert result.returncode == status, f"{words}\n{result.stdout}\n{result.stderr}"
        return result.stdout if status == 0 else result.stderr

    return run


def test_the_wheel_has_every_file_of_the_package_and_of_configs(wheel):
    expected = {
        *(str(path.relative_to(ROOT)) for path in (ROOT / "ms_codegeex").rglob("*") if path.is_file()),
        *(f"ms_codegeex/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*") if path.is_file()),
    }
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == {name for name in expected if "__pycache__" not in name}
    assert "ms_codegeex/configs/evaluation/codegeex_humaneval_x.yaml" in names


def test_help_and_plan_by_name(installed, bin_directory):
    assert "VERB" in installed("--help")
    where = installed("-c", "import ms_codegeex; print(ms_codegeex.__file__)", program="python")
    assert Path(where.strip()).is_relative_to(bin_directory.parent)
    assert json.loads(installed("plan", "--config", "codegeex_13b", "--json"))["mesh"]["tensor"] == 8
    assert "did you mean 'codegeex_tiny'?" in installed("plan", "--config", "codegex_tiny", status=2)


def test_only_the_bridge_asks_for_mindformers(installed):
    asking = re.compile(r"^\s*(import|from) mindformers\b", re.MULTILINE)
    files = [path for path in (ROOT / "ms_codegeex").rglob("*.py") if asking.search(path.read_text())]
    assert {path.parent.name for path in files} == {"mindformers_bridge"}
    bridge = ("-m", "ms_codegeex.mindformers_bridge", "--config", "codegeex_tiny")
    assert "run `pip install 'ms-codegeex[mindformers]'`" in installed(*bridge, program="python", status=2)


@pytest.mark.slow
def test_the_whole_way(installed, work):
    """`doctor`, five steps, `convert` and `evaluate`, with shipped files by their names."""
    report = json.loads(installed("doctor", "--json"))
    assert report["ready"] is True
    (extra,) = (check for check in report["checks"] if check["name"] == "[mindformers]")
    assert extra["area"] == "packages"
    words = ("train", "--config", "codegeex_tiny", "training.steps=5", *SMALLER.split(), "output=run")
    summary = json.loads(installed(*words, "--json", "--corpus", "src"))
    assert summary["steps"] == 5 and summary["validation_loss"] > 0
    assert json.loads(installed("inspect", "run", "--json"))["kind"] == "run"
    installed("convert", "--model", "run", "--to", "hf", "--output", "model")
    assert (work / "model" / "config.json").is_file()
    task = ("evaluate", "humaneval-x", "--data", humaneval_x(work / "hx"), "--output", "eval", "--model", "model")
    less = ("--n", "1", "--limit", "1", "--language", "python", "--max-new-tokens", "2", "--generate-only")
    installed(*task, "--recipe", "codegeex_humaneval_x", *less)
    assert json.loads((work / "eval" / "evaluation.json").read_text())["recipe"]["top_p"] == 0.95
