"""Which part of the package may import which: `ARROWS` is the whole answer, and there is no circle anywhere.

Every import counts, also one inside a function or under TYPE_CHECKING: a reader of the file needs the other one.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import ROOT

BASE = {  # single files that every folder may import, and what they import themselves
    "errors": "",
    "host": "",
    "nested": "",
    "webpage": "nested",
    "tables": "",
    "locks": "",
    "reading": "errors",
    "json_reading": "",
    "yaml_reading": "errors reading json_reading",
    "files": "errors locks reading json_reading",
    "processes": "errors",
    "hardware": "errors",
    "mesh": "errors",
    "shipped": "errors",
    "installed": "errors",
    "ray_cluster": "errors",
}
FOLDERS = {  # what a folder may import besides BASE, lowest first
    "cuda": "",
    "models": "",
    "config": "models",
    "data": "config",
    "formats": "models config data",
    "parallel": "models config",
    "training": "models config data formats parallel",
    "planning": "models config parallel",
    "generation": "cuda models data formats",
    "runs": "cuda models config data formats parallel planning training",
    "rehearsal": "cuda models config data parallel training planning",
    "ladder": "config",
    "mindformers_bridge": "models config data training",
    "evaluation": "config data generation",
    "serving": "cuda data generation",
    "terminal": "data generation serving",
    "commands": "cuda models config data formats generation planning runs rehearsal ladder evaluation serving terminal",
    "cli": "commands",
}
ARROWS = {name: set(seen.split()) for name, seen in BASE.items()} | {
    name: {*BASE, *seen.split()} for name, seen in FOLDERS.items()
}


def imports_of(package: Path) -> set[tuple[str, str]]:
    """(importer, imported) for all files of a package, by their dotted names inside it; the package itself is ""."""
    files = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found = set()
    for importer, path in files.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path}: write the whole name of what is imported"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                if name == package.name or name.startswith(f"{package.name}."):
                    inside = name[len(package.name) + 1 :]
                    imported = inside if inside in files else inside.rpartition(".")[0]  # a name in a file
                    found.add((importer, imported))
    return {(importer, imported) for importer, imported in found if importer != imported}


def circle(imports: set[tuple[str, str]]) -> list[str] | None:
    """One circle of imports, None if there is none."""
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for importer, imported in imports:
        sorter.add(importer, imported)
    try:
        sorter.prepare()
    except CycleError as error:
        return error.args[1][::-1]
    return None


def circle_of_folders(imports: set[tuple[str, str]]) -> list[str] | None:
    """One circle between the files and folders that lie in the same folder, None if there is none."""
    names = [name.split(".") for edge in imports for name in edge]
    for folder in {".".join(parts[:depth]) for parts in names for depth in range(1, len(parts))}:
        inner = [[name[len(folder) + 1 :] for name in edge if name.startswith(f"{folder}.")] for edge in imports]
        first = {tuple(name.partition(".")[0] for name in edge) for edge in inner if len(edge) == 2}
        if found := circle({(importer, imported) for importer, imported in first if importer != imported}):
            return [f"{folder}.{name}" for name in found]
    return None


def upward(imports: set[tuple[str, str]]) -> list[str]:
    """Imports between the parts of the package that no arrow allows."""
    return sorted(
        f"{importer} imports {imported}"
        for importer, imported in imports
        if imported
        and (top := importer.partition(".")[0]) != (below := imported.partition(".")[0])
        and below not in ARROWS.get(top, ())
    )


@pytest.fixture(scope="module")
def imports() -> set[tuple[str, str]]:
    return imports_of(ROOT / "ms_codegeex")


def test_no_file_imports_in_a_circle(imports):
    assert circle(imports) is None


def test_no_folders_import_in_a_circle(imports):
    assert circle_of_folders(imports) is None


def test_parts_of_the_package_import_only_what_lies_below_them(imports):
    assert {name.partition(".")[0] for edge in imports for name in edge} - {""} <= set(ARROWS)
    assert upward(imports) == []


def test_the_arrows_themselves_go_one_way():
    assert circle({(name, below) for name, seen in ARROWS.items() for below in seen}) is None


@pytest.mark.parametrize(
    "statement",
    [
        "from pack.runs.node import Node",
        "import pack.runs.node",
        "def late():\n    from pack.runs import node",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pack.runs.node import Node",
    ],
)
def test_an_upward_import_is_found_wherever_it_stands(tmp_path, statement):
    for name, text in {
        "__init__": "",
        "errors": "",
        "config/__init__": "",
        "config/run": "from pack.errors import UserError",
        "runs/__init__": "",
        "runs/node": "from pack.config.run import RunConfig",
        "runs/inner/__init__": "",
    }.items():
        path = tmp_path / "pack" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    sound = imports_of(tmp_path / "pack")
    assert sound == {("config.run", "errors"), ("runs.node", "config.run")}
    assert circle(sound) is None and upward(sound) == []
    (tmp_path / "pack" / "config" / "run.py").write_text(statement)
    wrong = imports_of(tmp_path / "pack")
    assert upward(wrong) == ["config.run imports runs.node"]
    found = circle(wrong)
    assert found[0] == found[-1] and set(pairwise(found)) <= wrong


def test_folders_in_a_circle_are_found_though_no_files_are():
    imports = {("data.corpus.build", "data.order.shuffle"), ("data.order.table", "data.corpus.names")}
    assert circle(imports) is None
    found = circle_of_folders(imports)
    assert found[0] == found[-1] and set(found) == {"data.corpus", "data.order"}
