"""Names in backticks in docstrings exist: a renamed parameter leaves none behind."""

import ast
import builtins
import keyword
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ms_codegeex.cli import VERBS

PACKAGE = Path(__file__).parents[1] / "ms_codegeex"
DEFINED = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
# Kinds of events, words of examples and of files, names of other programs, attributes of other modules' classes.
FOREIGN = {
    *("archives", "dropped", "noted", "unread", "email", "password", "credential", "compute"),
    *("before", "auto", "args", "output", "sleep", "int32", "perl", "objectivec"),
    *("codegeex", "build_config", "next_try", "epoch_num", "input_columns", "parameter_layout_dict", "append_dict"),
    *("lazy_inline", "set_comm_fusion", "remove_cast_before_assign_add", "attn_implementation", "mp_rank_XX_YYY"),
    *("_input_ids", "booktabs", "bgzip", "datasets", "javac", "require", "console", "nobody"),
}


def documented(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Functions and classes, each with its docstring."""
    for node in ast.walk(tree):
        if isinstance(node, DEFINED) and (text := ast.get_docstring(node)):
            yield node.name, text


def named(tree: ast.Module) -> set[str]:
    """All that code names, and texts that are one word, such as keys."""
    found = {*dir(builtins), *keyword.kwlist}
    for node in ast.walk(tree):
        for name in ("id", "attr", "arg", "name", "asname", "module", "value"):
            if isinstance(value := getattr(node, name, None), str) and " " not in value:
                found |= {*value.split(".")}
    return found


def unknown(tree: ast.Module, known: set[str]) -> list[tuple[str, str]]:
    """Definitions whose docstring has a name in backticks that is neither in the same file nor `known`."""
    known = named(tree) | known
    return [
        (name, word)
        for name, text in documented(tree)
        for word in re.findall(r"`([a-z_]\w+)`", text)
        if word not in known
    ]


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    return {str(path.relative_to(PACKAGE)): ast.parse(path.read_bytes()) for path in PACKAGE.rglob("*.py")}


def test_names_in_backticks_exist(trees):
    everywhere = {*VERBS, *FOREIGN, *(Path(path).stem for path in trees)}
    for tree in trees.values():
        everywhere |= {node.name for node in ast.walk(tree) if isinstance(node, DEFINED)}
    assert {path: found for path, tree in trees.items() if (found := unknown(tree, everywhere))} == {}


@pytest.mark.parametrize(
    "parameter, words", [("maximum", []), ("most", [("bars", "maximum")])], ids=["there", "renamed"]
)
def test_a_renamed_parameter_is_found(parameter, words):
    source = f'def bars({parameter}):\n    """Bars of at most `maximum`."""\n    return {parameter}\n'
    assert unknown(ast.parse(source), set()) == words
