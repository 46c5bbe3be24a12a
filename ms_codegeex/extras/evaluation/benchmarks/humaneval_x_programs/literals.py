"""The literals in the tests of six languages, read as Python's values.

A text in another language becomes a Python expression, token by token, and of this, or of a test's own, only what
stands for a value is computed; anything else is `NotALiteral`. The tests are the benchmark's, not a model's.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*.*?\*/)
    |(?P<string>"(?:\\.|[^"\\])*"|`[^`$]*`)
    |(?P<char>'(?:\\u\{?[0-9a-fA-F]+\}?|\\.|[^'\\\n])*')
    |(?P<number>(?:0[xX][0-9a-fA-F]+|\d[\d_]*(?:\.(?!\.)\d*)?(?:[eE][-+]?\d+)?)(?:_?[fui](?:8|16|32|64|size)|[fFdDlL])?)
    |(?P<key>[A-Za-z_]\w*(?=\s*:(?!:)))
    |(?P<name>[A-Za-z_]\w*(?:\s*(?:::|\.)\s*[A-Za-z_]\w*)*(?!=))
    |(?P<sign>[-+*/%&)\]},:.])""",
    re.DOTALL | re.VERBOSE,
)
OPENINGS = tuple(  # languages, a bracket with the type before it, and what opens and closes the value in Python
    (languages.split(), re.compile(pattern), *brackets)
    for languages, pattern, *brackets in (
        ("go", r"map\s*\[[^\]]*\]\s*\w+\s*\{", "{", "}"),
        ("go", r"(?:\[\d*\]\s*)+float64\s*\{", "floats([", "])"),
        ("go", r"(?:\[\d*\]\s*)+(?:interface\s*\{\s*\}|[a-z]\w*)\s*\{", "[", "]"),
        ("cpp", r"map\s*<[\w<>, ]*>\s*\{", "pairs([", "])"),
        ("cpp", r"(?:std::)?(?:vector|map)\s*<[\w<>, ]*>\s*\{", "[", "]"),
        ("java", r"new\s+\w*Map\w*\s*(?:<[\w<>, ]*>)?\s*\(", "new_map(", ")"),
        ("java", r"new\s+\w+\s*(?:<[\w<>, ]*>)?\s*\(", "new_list(", ")"),
        ("rust", r"vec!\s*\[", "[", "]"),
        ("js rust", r"\[", "[", "]"),
        ("js", r"\{", "{", "}"),
        ("cpp java go rust", r"\{", "[", "]"),
        ("cpp java js go rust", r"\(", "(", ")"),
    )
)
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "f": "\f", "\n": ""}
ESCAPE = re.compile(r"\\(u\{?([0-9a-fA-F]+)\}?|x([0-9a-fA-F]{2})|.)", re.DOTALL)
CONSTANTS = {"true": "True", "false": "False", "null": "None", "nil": "None"}
COPIES = ("clone", "into", "to_owned", "to_string", "to_vec")  # methods that return the value
OPERATIONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Mod: math.fmod,
}  # fmt: skip
SIGNS: dict[type, Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}


class NotALiteral(ValueError):
    """The text is not a literal."""


def one(found: list[Any]) -> Any:
    """The only item."""
    if len(found) != 1:
        raise NotALiteral("one value expected")
    return found[0]


# language -> function, with `_` for its dots and colons -> its value, from its arguments
FUNCTIONS: dict[str, dict[str, Callable[[list[Any]], Any]]] = {
    "python": {"tuple": lambda found: tuple(one(found))},
    "cpp": {"string": one, "std_string": one, "int": one, "pairs": lambda found: dict(one(found))},
    "java": {"Arrays_asList": list, "List_of": list, "Optional_of": tuple, "Optional_empty": tuple}
    | {"new_list": lambda found: one(found) if found else [], "new_map": lambda found: {}},
    "js": {},
    "go": {"string": one, "int": one, "floats": lambda found: [float(each) for each in one(found)]},
    "rust": {"String_from": one, "Some": one, "HashMap_from": lambda found: dict(one(found)), "HashMap_new": dict},
}


def value_of(text: str, language: str, names: Mapping[str, Any] | None = None) -> Any:
    """The value of an expression of literals. `names`: values of variables."""
    try:
        return value_in(ast.parse(in_python(text, language, names or {}), mode="eval").body, language, names or {})
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise NotALiteral(f"{text[:60]!r}: {error}") from None


def value_in(node: ast.AST | None, language: str, names: Mapping[str, Any]) -> Any:
    """The value of a part of a Python expression, with the rules of the language that it was written in."""

    def value(inner: ast.AST | None) -> Any:
        return value_in(inner, language, names)

    try:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name) and node.id in names:
            return names[node.id]
        if isinstance(node, ast.List):
            return list(map(value, node.elts))
        if isinstance(node, ast.Tuple) and language in ("python", "rust"):
            return tuple(map(value, node.elts))
        if isinstance(node, ast.Tuple) and language == "js":  # its comma operator
            return [*map(value, node.elts)][-1]
        if isinstance(node, ast.Dict):
            return dict(zip(map(value, node.keys), map(value, node.values), strict=True))
        if isinstance(node, ast.UnaryOp) and type(node.op) in SIGNS:
            return SIGNS[type(node.op)](value(node.operand))
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
            left, right = value(node.left), value(node.right)
            result = OPERATIONS[type(node.op)](left, right)
            in_c = isinstance(left, int) and isinstance(right, int) and language not in ("js", "python")
            return math.trunc(result) if in_c and isinstance(node.op, ast.Div) else result
        if isinstance(node, ast.Call) and not node.keywords:
            function, arguments = node.func, list(map(value, node.args))
            if isinstance(function, ast.Name) and function.id in FUNCTIONS[language]:
                return FUNCTIONS[language][function.id](arguments)
            if isinstance(function, ast.Attribute) and function.attr in COPIES and not arguments:
                return value(function.value)
    except (ValueError, TypeError, IndexError, ArithmeticError) as error:
        raise NotALiteral(str(error)) from None
    raise NotALiteral(type(node).__name__)


def in_python(text: str, language: str, names: Mapping[str, Any]) -> str:
    """The text as an expression of Python's, of the kind that `value_in` reads."""
    parts, closings, at = list[str](), list[str](), 0
    openings = [row[1:] for row in OPENINGS if language in row[0]]
    while at < len(text):
        for pattern, opening, closing in openings:
            if found := pattern.match(text, at):
                parts.append(opening)
                closings.append(closing)
                break
        else:
            found = TOKEN.match(text, at)
            if found is None:
                raise NotALiteral("unknown sign")
            kind, token = str(found.lastgroup), re.sub(r"\s", "", found.group())
            if token in (")", "]", "}"):
                parts.append(closings.pop() if closings else token)
            elif kind in ("string", "char"):
                plain = unescaped(found.group()[1:-1])
                parts.append(repr(ord(one([*plain])) if (kind, language) == ("char", "go") else plain))
            elif kind == "number":
                parts.append(repr(number(token, language)))
            elif kind == "key":
                parts.append(repr(token))
            elif kind == "name":
                parts.append(name_in_python(token, language, names, parts[-1:] == ["."]))
            elif kind == "sign" and token != "&":  # a reference
                parts.append(token)
        at = found.end()
    return " ".join(parts).strip()


def name_in_python(name: str, language: str, names: Mapping[str, Any], is_method: bool) -> str:
    """A constant, function, method or variable, with its method if it has one; others are `NotALiteral`."""
    if is_method or name.partition(".")[0] in names:
        return name
    if name in CONSTANTS or (name == "None" and language == "rust"):
        return CONSTANTS.get(name, name)
    if (function := re.sub(r"\W+", "_", name)) not in FUNCTIONS[language]:
        raise NotALiteral(name)
    return function


def number(text: str, language: str) -> int | float:
    """A number without its suffix. JavaScript's are all floats."""
    hexadecimal = text[:2] in ("0x", "0X")
    suffix = re.search(rf"_?(?:[fui](?:8|16|32|64|size)|[{'lL' if hexadecimal else 'fFdDlL'}])$", text)
    digits = (text[: suffix.start()] if suffix else text).replace("_", "")
    if hexadecimal:
        return int(digits, 16)
    real = bool(re.search(r"[.eE]", digits)) or (suffix is not None and suffix.group().strip("_")[0] in "fFdD")
    return float(digits) if real or language == "js" else int(digits)


def unescaped(text: str) -> str:
    """The text of a string's source."""

    def replaced(found: re.Match[str]) -> str:
        code = found[2] or found[3]
        return chr(int(code, 16)) if code else ESCAPES.get(found[1], found[1])

    return ESCAPE.sub(replaced, text)
