"""Environments that have the core's packages alone, or those and an extra's: the core trains, converts and generates, a
verb that lacks its packages says how to install them, and each extra's tests pass with its own list."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import ROOT
from declared import parts_of_all
from own_environment import PYTEST, VARIABLES, pip_of_index
from test_wheel import program_in

from ms_codegeex.base.extras import install_line
from ms_codegeex.cli import VERBS

pytestmark = pytest.mark.slow
ONLY_OF_EXTRAS = ("fastapi", "tree_sitter", "openai", "pygments", "llguidance", "prometheus_client")
TOOLS = ("pytest", "pytest-xdist", "hypothesis", "jsonschema")
# The server with clients and they with the server; the modules are imported without.
TESTED_WITH = {"serving": "terminal", "terminal": "serving", "evaluation": "serving"}
# Others: the folder of the extra's name. What judges programs needs none of the list, and its tests limit time.
TESTS = {
    "monitor": ("tests/commands/test_command_monitor.py",),
    "evaluation": [f"tests/extras/evaluation/{each}" for each in ("commands", "perplexity", "replies", "sampling")],
}
IMPORT_ALL = """
import importlib, pkgutil, sys
room = importlib.import_module("ms_codegeex.extras." + sys.argv[1])
for each in pkgutil.walk_packages(room.__path__, room.__name__ + "."):
    # programs, files that run without the package, and what needs mindformers
    if not {"__main__", "inside", "mindformers_bridge"} & {*each.name.split(".")}:
        importlib.import_module(each.name)
"""


@pytest.fixture(scope="module")
def find_links(wheel):
    """Variables with which pip finds the wheel."""
    return VARIABLES | {"PIP_FIND_LINKS": f"{wheel.parent} {VARIABLES.get('PIP_FIND_LINKS', '')}".strip()}


@pytest.fixture(scope="module")
def core(wheel, tmp_path_factory):
    """An environment into which pip installs the wheel and what it requires, as a user would."""
    place = tmp_path_factory.mktemp("core") / "venv"
    subprocess.run([sys.executable, "-I", "-m", "venv", place], check=True)
    pip = pip_of_index(place / "bin" / "python", place)
    subprocess.run([*pip, "install", "-q", wheel], env=VARIABLES, check=True)
    yield place
    shutil.rmtree(place)  # 3 GB


def environment_over(core, place):
    """`bin` of a new environment that has what is in `core`, whose files it shares: pip writes new ones."""
    subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", place], check=True)
    below, site = (next(each.glob("lib/python3*/site-packages")) for each in (core, place))
    shutil.copytree(below, site, copy_function=os.link, dirs_exist_ok=True)
    for script in (core / "bin").iterdir():
        if not script.is_symlink() and script.read_bytes().startswith(f"#!{core}/bin/python".encode()):
            (place / "bin" / script.name).write_text(script.read_text().replace(str(core), str(place), 1))
            (place / "bin" / script.name).chmod(0o755)
    return place / "bin"


def test_the_core_trains_converts_and_generates(core, tmp_path):
    run = program_in(core / "bin", tmp_path)
    code = f"from importlib.util import find_spec; print([x for x in {ONLY_OF_EXTRAS} if find_spec(x)])"
    assert run("-c", code, program="python").strip() == "[]"
    assert "No broken requirements" in run("-m", "pip", "check", program="python")
    source = Path(sysconfig.get_path("stdlib"))
    words = ("training.steps=20", "output=run", "--json", "--corpus", source / "json", source / "email")
    summary = json.loads(run("train", "--config", "codegeex_tiny", *words))
    assert summary["steps"] == 20 and summary["validation_loss"] > 0 and summary["validation_bits_per_byte"] > 0
    assert (tmp_path / "run" / "loss.png").is_file()
    run("convert", "--model", "run", "--to", "hf", "--output", "model", "--verify")
    assert run("generate", "--model", "model", "--prompt", "import", "--max-new-tokens", "2").startswith("import")
    run("checkpoint", "verify", "run")
    for path, kind in (("run", "run"), ("model", "model")):
        assert json.loads(run("inspect", path, "--json"))["kind"] == kind
    assert json.loads(run("plan", "--config", "codegeex_13b", "--json"))["mesh"]["tensor"] == 8
    assert json.loads(run("monitor", "run", "--json"))["run"]["state"] == "finished"


def test_each_missing_verb_says_how_to_install_it_and_that_installs_it(core, find_links, tmp_path):
    programs = environment_over(core, tmp_path / "venv")
    verb, commands = program_in(programs, tmp_path), set()
    for name, place in VERBS.items():
        if found := re.findall(r"^not installed: (.*)$", verb(name, "--help"), re.MULTILINE):
            assert found == [install_line(place.split(".")[1])]
            assert re.fullmatch(rf"ms-codegeex: .*; run `{re.escape(found[0])}`\n", verb(name, status=2))
            commands |= {*found}
    shown = verb("--help")
    assert len(commands) == 5 and all(f"not installed: {command}\n" in shown for command in commands)
    variables = find_links | {"PATH": f"{programs}:{os.defpath}"}
    for command in commands:
        subprocess.run(["bash", "-c", command], env=variables, check=True, capture_output=True)
    assert "not installed" not in verb("--help")
    rows = {(each["area"], each["name"]): each for each in json.loads(verb("doctor", "--json", status=None))["checks"]}
    installed = [re.findall(r"\[\w+\]", command)[0] for command in commands]
    assert {rows["packages", name]["state"] for name in installed} == {"ok"}
    assert rows["packages", "[exchange]"]["found"] == "not installed"
    said = verb("convert", "--model", ROOT / "README.md", "--to", "gguf", "--output", "g", status=2)
    assert said.count("\n") == 1


@pytest.mark.parametrize("extra", parts_of_all())
def test_the_tests_of_an_extra_pass_with_its_own_list(core, find_links, tmp_path, extra):
    programs = environment_over(core, tmp_path / "venv")
    python = programs / "python"

    def install(*words):
        subprocess.run([python, "-I", "-m", "pip", "install", "-q", *words], env=find_links, check=True)

    install(f"ms-codegeex[{extra}]")
    if extra != "monitor":  # which is a verb of the core
        subprocess.run([python, "-c", IMPORT_ALL, extra], env=VARIABLES, cwd=tmp_path, check=True)
    install(*([f"ms-codegeex[{TESTED_WITH[extra]}]"] if extra in TESTED_WITH else []), *TOOLS)
    words = [python, *PYTEST, *TESTS.get(extra, (f"tests/extras/{extra}",))]
    variables = VARIABLES | {"PATH": f"{programs}:{VARIABLES['PATH']}"}
    done = subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
