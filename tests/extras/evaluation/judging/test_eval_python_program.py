"""Interpreters for programs, and what the reports of runs are worth."""

import ast
import platform
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.evaluation.judging.python_program import INSIDE, PythonInterpreter, Runner, read_report
from ms_codegeex.extras.evaluation.sandbox import End, Execution, ResourceLimits, Verdict
from ms_codegeex.extras.evaluation.toolchains.python import Python


def run(runner, sandbox, text, *arguments, **options):
    command = runner.command("witness-1", ResourceLimits(wall=20), "program.py", *arguments, **options)
    (execution,) = sandbox.run([command], {"program.py": text.encode()}, runner.readable)
    return read_report(execution, "witness-1")


def test_a_link_to_an_interpreter_elsewhere(tmp_path, sandbox):
    (tmp_path / "python").symlink_to(sys.executable)
    for python in (None, Path(sys.executable), tmp_path / "python", Path("/usr/bin/python3")):
        if python and not python.exists():
            continue
        assert run(Runner.open(python), sandbox, "import json, os").finished, python
    assert run(Runner.open(), sandbox, "import numpy").finished
    assert Runner.open().interpreter.lacks(["numpy", "json", "no_such_library"]) == ["no_such_library"]


def test_the_scripts_of_the_sandbox_are_for_old_interpreters_and_import_nothing_else():
    ours = {path.stem for path in INSIDE.glob("*.py")}
    for path in INSIDE.glob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 7))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        top = {name.partition(".")[0] for name in names}
        assert top - ours - {"numpy"} <= sys.stdlib_module_names, path  # NumPy if a program uses it, for its seed


def test_random_numbers_are_the_same_every_time(sandbox):
    text = "import random\nimport numpy as np\nraise ValueError(random.random(), np.random.rand())"
    reported = {run(Runner.open(), sandbox, text).execution.stderr for _ in range(2)}
    assert len(reported) == 1 and b"ValueError: (0.8444218515250481, 0.5488135039273248)" in reported.pop()


def test_what_is_no_interpreter(tmp_path):
    for path in (tmp_path / "none", Path("/bin/false")):
        with pytest.raises(UserError, match="not a Python that runs"):
            Runner.open(path)


def test_a_program_is_main_with_its_arguments_in_its_own_directory(sandbox):
    text = """
import dataclasses, os, pickle, sys
@dataclasses.dataclass
class Point:
    x: int
assert __name__ == "__main__" and sys.argv == ["program.py", "--case", "3"] and os.listdir() == ["program.py"]
assert pickle.loads(pickle.dumps(Point(2))) == Point(2) and sys.path[0] == os.getcwd() and "/judge" not in sys.path
"""
    report = run(Runner.open(), sandbox, text, "--case", "3")
    assert report.finished, report.execution.stderr


@pytest.mark.parametrize(
    ("stdout", "ended"),
    [
        (b'{"ended": null, "printed": null}\nsecret\n', None),
        (b'noise\n{"ended": "time", "printed": {}}\nsecret\n', "time"),
        (b'{"ended": null, "printed": null}\nsecre', "gone"),
        (b'{"ended": null, "printed": null}\n', "gone"),
        (b"secret\n", "gone"),
        (b"", "gone"),
        (b"[1]\nsecret\n", "gone"),
        (b'{"ended": [], "printed": null}\nsecret\n', "gone"),
        (b'{"ended": null, "printed": 3}\nsecret\n', "gone"),
        (b'{"ended": null, "printed": null}\nsecret\nmore', "gone"),
    ],
)
def test_reports(stdout, ended):
    assert read_report(Execution(End.EXITED, 0, 0.1, stdout, b""), "secret").ended == ended


@pytest.mark.parametrize(
    ("end", "code", "stdout", "verdict"),
    [
        (End.EXITED, 0, b"", Verdict.ERROR),
        (End.EXITED, 3, b'{"ended": null, "printed": null}\nsecret', Verdict.ERROR),
        (End.TIMEOUT, -9, b'{"ended": null, "printed": null}\nsecret', Verdict.TIMEOUT),
        (End.MEMORY, -9, b"", Verdict.MEMORY),
        (End.OUTPUT, -9, b"", Verdict.KILLED),
        (End.EXITED, 0, b'{"ended": null, "printed": null}\nsecret', Verdict.WRONG),
        (End.EXITED, 0, b'{"ended": "memory", "printed": null}\nsecret', Verdict.MEMORY),
        (End.EXITED, 0, b'{"ended": "assertion", "printed": null}\nsecret', Verdict.WRONG),
        (End.EXITED, 0, b'{"ended": "assertion", "printed": {}}\nsecret', Verdict.ERROR),
        (End.EXITED, 0, b'{"ended": "of the world", "printed": null}\nsecret', Verdict.ERROR),
    ],
)
def test_verdicts_of_ends(end, code, stdout, verdict):
    assert read_report(Execution(end, code, 0.1, stdout, b""), "secret").verdict is verdict


# --- what is installed ---


FINDER = """
import importlib.util, sys
class Finder:
    def find_spec(name, path=None, target=None):
        places = [{place!r} + "/numpy"]
        return None if name != "numpy" else importlib.util.spec_from_file_location(
            name, places[0] + "/__init__.py", submodule_search_locations=places)
sys.meta_path.append(Finder)
"""


def write_numpy(place):
    files = {"numpy/__init__.py": "", "numpy-9.8.7.dist-info/METADATA": "Name: numpy\nVersion: 9.8.7\n"}
    files["numpy-9.8.7.dist-info/RECORD"] = "".join(f"{name},,\n" for name in files)
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)


@pytest.fixture(params=[".pth", "PYTHONPATH", "in the environment", "links", "finder", "installed"])
def interpreter(request, tmp_path, monkeypatch):
    """A virtual environment that finds a NumPy in one of several ways, and the way."""
    venv.create(tmp_path / "venv", symlinks=True)
    (site,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    way, elsewhere = request.param, tmp_path / "elsewhere"
    place = {"installed": site, "in the environment": tmp_path / "venv/src"}.get(way, elsewhere)
    write_numpy(place)
    if way == "PYTHONPATH":
        monkeypatch.setenv("PYTHONPATH", str(place))
    elif way == "links":
        for name in elsewhere.iterdir():
            (site / name.name).symlink_to(name)
    elif way == "finder":
        (site / "finder.py").write_text(FINDER.format(place=str(place)))
        (site / "finder.pth").write_text("import finder\n")
    elif way != "installed":
        (site / "more.pth").write_text(f"{place}\n")
    return tmp_path / "venv/bin/python", way


def test_only_what_the_sandbox_shows_is_announced(interpreter, sandbox, monkeypatch):
    """Otherwise problems that import NumPy fail although the machine is said to have it."""
    path, way = interpreter
    finds = subprocess.run([path, "-c", "import numpy"], capture_output=True)
    assert finds.returncode == 0, finds.stderr  # outside of the sandbox
    report = run(Runner.open(path), sandbox, "import numpy")
    assert (report.ended is None) == (way == "installed")
    found = PythonInterpreter(path)
    assert found.lacks(["json", "sys", "numpy"]) == ([] if way == "installed" else ["numpy"])
    announced = {"numpy": "9.8.7"} if way == "installed" else {}
    assert found.versions(["numpy", "scipy"]) == {"Python": platform.python_version(), **announced}
    monkeypatch.setattr(sys, "executable", str(path))
    shown = f"Python {platform.python_version()}, NumPy 9.8.7" if announced else None
    assert Python().version() == shown and bool(Python().lacking()) == (not announced)
