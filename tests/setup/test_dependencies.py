"""What the package declares that it depends on: everything that it imports, with bounds."""

import ast
import importlib.metadata
import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from conftest import ROOT
from declared import extras, normalised, oldest, requirements
from own_environment import VARIABLES, own_environment

DATED = {"fsspec", "packaging", "publicsuffixlist"}  # their versions are dates, which promise nothing
PARTS = {"pydantic_core": "pydantic"}  # modules that come with a declared package in an exact version
# Python files that other programs run: a judge of generated programs, transformers
ELSEWHERE = ("inside", "exported")


def imported():
    """Top-level modules that files of the package import, and one such file for each."""
    found = {}
    for path in (ROOT / "ms_codegeex").rglob("*.py"):
        if set(path.parts) & set(ELSEWHERE):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                names = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            found |= {name.partition(".")[0]: path.relative_to(ROOT) for name in names}
    return {name: path for name, path in found.items() if name not in {*sys.stdlib_module_names, "ms_codegeex"}}


def test_every_package_that_is_imported_is_declared():
    packages = importlib.metadata.packages_distributions()
    declared = {each for extra in ("", "mindformers", "ray", "evaluation") for each in requirements(extra)}
    undeclared = {
        name: str(path)
        for name, path in imported().items()
        if not {normalised(one) for one in packages.get(PARTS.get(name, name), [name])} & declared
    }
    assert undeclared == {}


def test_every_dependency_has_an_upper_bound():
    unbounded = {
        name
        for name, one in requirements().items()
        if not any(bound.operator in ("<", "<=", "==", "~=") for bound in one.specifier)
    }
    assert unbounded == DATED


def test_every_dependency_has_a_lower_bound():
    """pip leaves an old version that is there as it is; `openai` 0.28 has no client that we could call."""
    assert [name for name, one in requirements().items() if oldest(one) is None] == []


def test_doctor_can_use_them():
    """In a process of their own, as in doctor; that a broken one is found is tested there. MindSpore's protocol buffers
    cannot be imported after others."""
    names = sorted({*requirements()} - {"mindspore"})
    words = [sys.executable, "-m", "ms_codegeex.commands.package_uses", *names]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[name, ""] for name in names]


@pytest.mark.newest
def test_the_extras_allow_the_newest_versions():
    """On the day. A bound may be meant: who reads this decides, so CI prints it and goes on."""
    left_out = {}
    for extra in extras():
        for name, one in requirements(extra).items():
            try:
                with urllib.request.urlopen(f"https://pypi.org/pypi/{name}/json", timeout=30) as answer:
                    newest = json.load(answer)["info"]["version"]
            except urllib.error.URLError as error:
                pytest.skip(f"needs the package index ({error})")
            print(f"{extra}: {one}: the newest is {newest}")
            if not one.specifier.contains(newest):
                left_out[f"{one}"] = newest
    assert left_out == {}


@pytest.mark.newest
def test_every_pin_has_a_wheel_for_ascend_servers(tmp_path):
    """On aarch64 with glibc 2.28, which set-up on EulerOS, Kylin and openEuler meets; it builds nothing."""
    if not (uv := shutil.which("uv")):
        pytest.skip("needs uv, which resolves for another machine")
    command = [uv, "pip", "compile", "--quiet", "--python-version", "3.11", "--only-binary", ":all:", "--no-deps"]
    command += ["--python-platform", "aarch64-manylinux_2_28", "--output-file", str(tmp_path / "found.txt")]
    for lock in sorted(ROOT.glob("requirements*.txt")):
        if lock.stem == "requirements" or lock.stem.startswith("requirements-mindspore-"):
            done = subprocess.run([*command, str(lock)], capture_output=True, text=True)
            assert done.returncode == 0, f"{lock.name}: {done.stderr}"
    assert "llguidance" not in (tmp_path / "found.txt").read_text()


# What reads and writes files of transformers, or compares with its models.
OF_TRANSFORMERS = (
    *("data/tokenizer", "extras/corpus/test_own_byte_pairs.py", "formats/test_engines.py", "formats/test_sizes.py"),
    *("formats/test_sources_codegeex2.py", "commands/test_command_convert_families.py", "models/test_codegen_model.py"),
    *("commands/test_command_convert_outputs.py", "test_tokenizer_of_a_run.py"),
    "extras/exchange/gguf_files/test_gguf_writing.py",
)


@pytest.mark.slow
def test_with_the_newest_transformers(tmp_path):
    """The default tests; those of exported classes are in formats/test_exported_classes.py."""
    python = own_environment(tmp_path / "venv", "transformers>=5,<6")
    words = [
        python,
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        *(f"tests/{x}" for x in OF_TRANSFORMERS),
    ]
    done = subprocess.run(words, cwd=ROOT, env=VARIABLES, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
