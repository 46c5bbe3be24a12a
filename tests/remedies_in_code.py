"""What the errors of the package say to do, read from its source: the texts with `{}` for what is filled in.

The remedy of a message follows its last semicolon; without one it is what the message expects or asks."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import ms_codegeex
from ms_codegeex.base.shipped import shipped_table

PACKAGE = Path(ms_codegeex.__file__).parent
SETTING = re.compile(r"(?<![\w.=])([a-z_]+(?:\.\w+)*)=([^\s,;]*[^\s,;.])")
PLACES = {"N", "DIR", "RUN", "FILE", "value"}
MOST = 64  # texts of one message
DEEPEST = 6  # names that are replaced by what is assigned to them, one within the other
ASKED = re.compile(r"(?:expected|did you mean|known are|take) .*", re.DOTALL)


def _errors() -> set[str]:
    """The classes of what a user is told."""
    texts = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    bases = [pair for text in texts for pair in re.findall(r"^class (\w+)\((\w+)\)", text, re.MULTILINE)]
    found = {"UserError", "RunFailure"}
    while more := {name for name, base in bases if base in found} - found:
        found |= more
    return found


ERRORS = _errors()


def remedy(message: str) -> str:
    """What a message, or its text with places, says to do."""
    _, semicolon, said = message.rpartition("; ")
    if semicolon:
        return said
    asked = ASKED.search(message)
    return asked[0] if asked else message.rpartition(": ")[2]


def pattern(said: str) -> re.Pattern[str]:
    """What matches the end of a message with this remedy."""
    said = re.sub(r"^{}( {})* of \w+$", "{}", said)
    return re.compile(".*".join(re.escape(part) for part in said.split("{}")) + r"\Z", re.DOTALL)


def remedies(folder: str) -> dict[str, set[str]]:
    """The remedies of the errors below a folder of the package, or in a table of it, each with where it is given."""
    found: dict[str, set[str]] = {}
    if folder.endswith(".yaml"):
        texts = [row[key] for row in shipped_table(PACKAGE / folder) for key in ("helps", "refused") if key in row]
        return {remedy(re.sub(r"\{\w+\}", "{}", text)): {folder} for text in texts if text != "{found}"}
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if getattr(call.func, "id", "") in ERRORS and call.args:
                around = [each for each in functions if each.lineno <= call.lineno <= (each.end_lineno or 0)]
                scopes = [*sorted(around, key=lambda each: -each.lineno), tree]
                for message in _texts(call.args[0], scopes):
                    said = re.sub(r"({})+", "{}", remedy(message))
                    said = f"{said} of {path.stem}" if said.strip("{} ") == "" else said
                    found.setdefault(said, set()).add(f"{path.relative_to(PACKAGE)}:{call.lineno}")
    return found


def _texts(node: ast.expr, scopes: list[ast.AST], depth: int = 0) -> list[str]:
    """The texts that an expression can have."""
    match node:
        case ast.Constant(value=str()):
            return [node.value]
        case ast.JoinedStr():
            parts = [_texts(part, scopes, depth) for part in node.values]
            return ["".join(chosen) for chosen in itertools.islice(itertools.product(*parts), MOST)]
        case ast.FormattedValue():
            return _texts(node.value, scopes, depth)
        case ast.BinOp(op=ast.Add()) if {str} & {type(getattr(each, "value", "")) for each in (node.left, node.right)}:
            both = itertools.product(_texts(node.left, scopes, depth), _texts(node.right, scopes, depth))
            return [before + after for before, after in itertools.islice(both, MOST)]
        case ast.IfExp():
            return [*_texts(node.body, scopes, depth), *_texts(node.orelse, scopes, depth)]
        case ast.Name() if depth < DEEPEST:
            for scope in scopes:
                if values := [*_assigned(node.id, scope)]:
                    return list(dict.fromkeys(text for value in values for text in _texts(value, scopes, depth + 1)))
            for imported in (each for each in ast.walk(scopes[-1]) if isinstance(each, ast.ImportFrom)):
                file = PACKAGE.parent / f"{(imported.module or '').replace('.', '/')}.py"
                if node.id.isupper() and node.id in [each.name for each in imported.names] and file.is_file():
                    return _texts(node, [ast.parse(file.read_text(encoding="utf-8"))], depth + 1)
        case ast.Call(func=ast.Name(id="suggestion")):
            return ["did you mean '{}'?", "known here: {}"]
    return ["{}"]


def _assigned(name: str, scope: ast.AST) -> Iterator[ast.expr]:
    """What a function, or a module outside of its functions, assigns to a name."""
    nodes = ast.walk(scope) if not isinstance(scope, ast.Module) else iter(scope.body)
    for node in nodes:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                pairs = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = list(zip(target.elts, node.value.elts, strict=True))
                elif isinstance(target, ast.Tuple):
                    pairs = [(each, ast.Constant("{}")) for each in target.elts]
                yield from (value for each, value in pairs if isinstance(each, ast.Name) and each.id == name)


def settings_in(message: str) -> list[list[str]]:
    """The settings `key=value` in each alternative of a remedy; without places such as N, which a user fills."""
    ways = (re.findall(SETTING, said) for said in re.split(r",? or (?!more|less)", message.rpartition("; ")[2]))
    return [[f"{key}={value}" for key, value in way] for way in ways if way and not PLACES & {each[1] for each in way}]
