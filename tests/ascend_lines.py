"""Which lines of the package run on Ascend only.

A condition decides it that names "ascend" or a chip's saturation: what stands below it, or after a block that leaves
elsewhere. So do functions and classes that only such code refers to. Methods of cells are left out, but for `__init__`:
Python does not run them, the engine compiles them.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

SATURATION = "saturates"
Definition = ast.FunctionDef | ast.ClassDef


def is_ascend(test: ast.expr) -> bool | None:
    """Whether a condition holds on Ascend only (True), elsewhere only (False), or says nothing of it (None)."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inside = is_ascend(test.operand)
        return None if inside is None else not inside
    if isinstance(test, ast.BoolOp):
        decisive = isinstance(test.op, ast.And)  # one side that holds on Ascend only is enough for all to
        return decisive if decisive in map(is_ascend, test.values) else None
    if isinstance(test, ast.Compare) and "ascend" in [getattr(x, "value", None) for x in test.comparators]:
        return {ast.Eq: True, ast.NotEq: False}.get(type(test.ops[0]))
    return True if SATURATION in (getattr(test, "attr", None), getattr(test, "id", None)) else None


def leaves(body: list[ast.stmt]) -> bool:
    """Whether what follows a block does not run after it."""
    return isinstance(body[-1], ast.Return | ast.Raise | ast.Continue | ast.Break)


def branches(tree: ast.AST) -> Iterator[ast.AST]:
    """The statements and expressions below a node that run on Ascend only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If | ast.IfExp) and (verdict := is_ascend(node.test)) is not None:
            chosen = node.body if verdict else node.orelse
            yield from chosen if isinstance(chosen, list) else [chosen]
        for block in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
            if not isinstance(block, list):
                continue
            for number, statement in enumerate(block):
                if isinstance(statement, ast.If) and is_ascend(statement.test) is False and leaves(statement.body):
                    yield from block[number + 1 :]


def _is_cell(definition: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Attribute) and base.attr == "Cell" for base in definition.bases)


def references(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Names that are used below a node, where they are."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            yield node.id if isinstance(node, ast.Name) else node.attr, node


def ascend_lines(package: Path) -> dict[str, set[int]]:
    """The first lines of such statements by file, relative to the package."""
    files = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(package.rglob("*.py"))}
    known, used = defaultdict(list), defaultdict(list)
    for tree in files.values():
        for node in ast.walk(tree):
            if isinstance(node, Definition):
                known[node.name].append(node)
        for name, node in references(tree):
            used[name].append(node)
    found = {id(inner) for tree in files.values() for node in branches(tree) for inner in ast.walk(node)}
    new = True
    while new:
        new = [
            definition
            for name, (definition, *namesakes) in known.items()
            if not namesakes and id(definition) not in found and not name.startswith("__") and used[name]
            if (others := {id(node) for node in used[name]} - {id(x) for x in ast.walk(definition)}) and others <= found
        ]
        found |= {id(inner) for definition in new for inner in ast.walk(definition)}
    cells = [x for tree in files.values() for x in ast.walk(tree) if isinstance(x, ast.ClassDef) and _is_cell(x)]
    compiled = [x for cell in cells for x in cell.body if isinstance(x, ast.FunctionDef) and x.name != "__init__"]
    found -= {id(inner) for method in compiled for inner in ast.walk(method)}
    result = {
        str(path.relative_to(package)): {
            node.lineno
            for node in ast.walk(tree)
            if isinstance(node, ast.stmt) and id(node) in found
            if not isinstance(node, Definition | ast.Import | ast.ImportFrom)
            if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))  # a docstring
        }
        for path, tree in files.items()
    }
    return {name: lines for name, lines in result.items() if lines}
