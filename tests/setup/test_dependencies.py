"""What the package declares that it depends on: everything that it imports, room by room, with bounds."""

import ast
import functools
import importlib
import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from conftest import ROOT
from declared import OURS, extras, listed, normalised, oldest, parts_of_all, requirements
from own_environment import PYTEST, VARIABLES, own_environment
from test_architecture import imports_of, reached

from ms_codegeex.cli import VERBS

DATED = {"fsspec", "packaging", "publicsuffixlist"}  # their versions are dates, which promise nothing
# Modules whose package has another name, or which come with a declared package in an exact version.
PACKAGES = {"elftools": "pyelftools", "pydantic_core": "pydantic", "re2": "google-re2", "yaml": "pyyaml"}
WITHOUT_A_LIST = {"jobs"}
MORE = {"evaluation": ("summaries",), "exchange": ("mindformers",), "ray_engines": ("ray",)}
MORE["shared"] = ("corpus", "terminal")
OPTIONAL = {  # what the core uses where an extra is installed, and what it does without
    "base/json_reading.py": "jiter",  # parses JSON of records with Python's parser
    "data/tokenizer/fast.py": "gigatoken",  # encodes with `tokenizers`
    "generation/grammars.py": "llguidance",  # refuses a request for an answer in this form
    "commands/monitor.py": "rich",  # says how to install it; `--json` and `--report` need none
}
# Python files that other programs run: a judge of generated programs, transformers
ELSEWHERE = ("inside", "exported")


@functools.cache
def imported():
    """For each file of the package: the top-level modules that it imports, also inside functions."""
    files = {}
    for path in (ROOT / "ms_codegeex").rglob("*.py"):
        if set(path.parts) & set(ELSEWHERE):
            continue
        found = files[path.relative_to(ROOT / "ms_codegeex").as_posix()] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.partition(".")[0])
        found -= {*sys.stdlib_module_names, "ms_codegeex"}
    return files


@pytest.fixture(scope="module")
def imports():
    return imports_of(ROOT / "ms_codegeex")


def available(file):
    """The packages that a file may import: the core's, and those of the extra that it belongs to."""
    room = file.split("/")[1] if file.startswith("extras/") and file.count("/") > 1 else ""
    lists = {"", *MORE.get(room, ()), *({room} & {*extras()})}
    assert not room or len(lists) > 1 or room in WITHOUT_A_LIST, f"{room}: has no list in pyproject.toml"
    return {name for each in lists for name in requirements(each)} | {OPTIONAL.get(file)}


def test_every_room_imports_only_what_its_list_has():
    undeclared = {
        (file, module)
        for file, modules in imported().items()
        for module in modules
        if normalised(PACKAGES.get(module, module)) not in available(file)
    }
    assert undeclared == set()


def test_what_the_core_can_do_without_is_imported_by_it():
    found = imported()
    assert [file for file, package in OPTIONAL.items() if package not in found[file]] == []


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_names_the_extra_whose_packages_it_reaches(verb, imports):
    """Imports inside functions count; what a verb reaches without one works in the core alone."""
    name = f"{VERBS[verb]}.{verb.replace('-', '_')}"
    extra = getattr(importlib.import_module(f"ms_codegeex.{name}"), "EXTRA", "")
    assert not extra or VERBS[verb].split(".")[1] == extra
    known, modules = {*requirements(), *(requirements(extra) if extra else ())}, imported()
    files = {f"{each.replace('.', '/')}.py" for each in reached(name, imports)} & modules.keys()
    needed = {normalised(PACKAGES.get(module, module)) for file in files for module in modules[file]}
    assert needed - known <= {*OPTIONAL.values()}
    assert not extra or needed - {*requirements()} - {*OPTIONAL.values()}, f"{verb} needs no extra"


def test_all_is_every_extra_of_the_package():
    """Each folder of the wing that has a list, and what the core can do without."""
    folders = {path.name for path in (ROOT / "ms_codegeex" / "extras").iterdir() if path.is_dir()}
    assert {*parts_of_all()} == folders & {*extras()} | {"monitor"}
    assert {*OPTIONAL.values()} <= {*requirements("all")}


def test_each_package_is_listed_once():
    names = [normalised(one.name) for extra in ("", *parts_of_all()) for one in listed(extra) if one.name != OURS]
    assert len(names) == len({*names})


def test_every_dependency_has_bounds():
    """pip leaves an old version that is there as it is; `openai` 0.28 has no client that we could call."""
    every = requirements() | requirements("all")
    upper = {"<", "<=", "==", "~="}
    assert {name for name, one in every.items() if not upper & {bound.operator for bound in one.specifier}} == DATED
    assert [name for name, one in every.items() if oldest(one) is None] == []


def test_doctor_can_use_them():
    """In a process of their own, as in doctor; that a broken one is found is tested there. MindSpore's protocol buffers
    cannot be imported after others."""
    names = sorted({*requirements(), *requirements("all")} - {"mindspore"})
    words = [sys.executable, "-m", "ms_codegeex.commands.package_uses", *names]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[name, ""] for name in names]


@pytest.mark.newest
def test_the_extras_allow_the_newest_versions():
    """On the day. A bound may be meant: who reads this decides, so CI prints it and goes on."""
    left_out = {}
    for extra in {*extras()} - {"all", *parts_of_all()}:
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
    words = [python, *PYTEST, *(f"tests/{name}" for name in OF_TRANSFORMERS)]
    done = subprocess.run(words, cwd=ROOT, env=VARIABLES, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
