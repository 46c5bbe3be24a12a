"""The folders and files of `ms_codegeex.evaluation` import in one direction: the order in the package's docstring."""

import ast
import re
from pathlib import Path

from ms_codegeex import evaluation

PACKAGE = Path(evaluation.__file__).parent
LINES = re.findall(r"^    (\w+(?:, \w+)*)(?:  |$)", evaluation.__doc__, re.MULTILINE)
LEVELS = {name: level for level, line in enumerate(LINES) for name in line.split(", ")}


def imported(path):
    """The parts of the package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(evaluation.__name__):
            inner = node.module.removeprefix(evaluation.__name__).strip(".")
            yield from [inner.split(".")[0]] if inner else [alias.name for alias in node.names]


def test_every_part_has_a_level():
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert set(LEVELS) == parts - {"__init__"}


def test_imports_go_down():
    pairs = {(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path) for path in PACKAGE.rglob("*.py")}
    upward = [
        f"{path.relative_to(PACKAGE)} imports {other}"
        for part, path in pairs
        for other in imported(path)
        if part != other and part != "__init__" and LEVELS[other] <= LEVELS[part]
    ]
    assert not upward
