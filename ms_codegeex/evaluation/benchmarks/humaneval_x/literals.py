"""The literals in the tests of C++, Java, JavaScript, Go and Rust, read as Python's values.

The tests are the benchmark's, not a model's. Only what stands for a value is read; anything else is `NotALiteral`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*.*?\*/)
    |(?P<string>"(?:\\.|[^"\\])*"|`[^`$]*`)
    |(?P<char>'(?:\\u\{?[0-9a-fA-F]+\}?|\\.|[^'\\\n])*')
    |(?P<number>(?:0[xX][0-9a-fA-F]+|\d[\d_]*(?:\.(?!\.)\d*)?(?:[eE][-+]?\d+)?)(?:_?[fui](?:8|16|32|64|size)|[fFdDlL])?)
    |(?P<name>[A-Za-z_]\w*(?:\s*(?:::|\.)\s*[A-Za-z_]\w*)*!?(?!=))
    |(?P<sign><>|[-+*/%&()\[\]{},:.;<>])""",
    re.DOTALL | re.VERBOSE,
)
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "f": "\f", "\n": ""}
ESCAPE = re.compile(r"\\(u\{?([0-9a-fA-F]+)\}?|x([0-9a-fA-F]{2})|.)", re.DOTALL)
CONSTANTS = {"true": True, "false": False, "null": None, "nil": None, "None": None}
LISTS = ("Arrays.asList", "List.of")
MAPS = ("HashMap::from", "HashMap::new")
OPTIONS = ("Optional.of", "Optional.empty")
SAME = ("String::from", "string", "std::string", "int", "(double)", "Some")  # functions that return their argument
GO_TYPE = re.compile(r"(?:(?:\[\d*\]\s*)+(?:interface\s*\{\s*\}|[a-z]\w*)|map\s*\[[^\]]*\]\s*\w+)\s*(?=\{)")
CPP_TYPE = re.compile(r"(?:std::)?(?:vector|map)\s*<[\w<>, ]*>\s*(?=\{)")
JAVA_NEW = re.compile(r"new\s+\w+\s*(?:<[\w<>, ]*>)?\s*(?=\()")


class NotALiteral(ValueError):
    """The text is no literal."""


def value_of(text: str, language: str, names: Mapping[str, Any] | None = None) -> Any:
    """The value of an expression of literals. `names`: values of variables."""
    reader = Reader(text, language, names or {})
    try:
        value = reader.sum()
    except (ValueError, TypeError, IndexError, ZeroDivisionError, OverflowError) as error:
        raise NotALiteral(f"{text[:60]!r}: {error}") from None
    if reader.peek()[1]:
        raise NotALiteral(text[:60])
    return value


class Reader:
    """Reads an expression from left to right."""

    def __init__(self, text: str, language: str, names: Mapping[str, Any]) -> None:
        self.text, self.language, self.names, self.at = text, language, names, 0

    def peek(self) -> tuple[str, str]:
        """The next token's kind and text, ("", "") at the end."""
        while found := TOKEN.match(self.text, self.at):
            if found.lastgroup != "space":
                return str(found.lastgroup), found.group()
            self.at = found.end()
        if self.at < len(self.text):
            raise NotALiteral("unknown sign")
        return "", ""

    def take(self, wanted: str = "") -> tuple[str, str]:
        """The next token, which must be `wanted` if that is given."""
        kind, text = self.peek()
        if not text or (wanted and text != wanted):
            raise NotALiteral(f"{wanted or 'more'} expected")
        self.at += len(text)
        return kind, text

    def skip(self, sign: str) -> bool:
        """Whether the next token is this one, which is then taken."""
        return self.peek()[1] == sign and bool(self.take())

    def sum(self) -> Any:
        """Terms with + and - between them."""
        value = self.product()
        while self.peek()[1] in ("+", "-"):
            sign, other = self.take()[1], self.product()
            value = value + other if sign == "+" else value - other
        return value

    def product(self) -> Any:
        """Factors with * / % between them. Integers are divided as in C, except in JavaScript."""
        value = self.factor()
        while self.peek()[1] in ("*", "/", "%"):
            sign, other = self.take()[1], self.factor()
            if sign == "*":
                value = value * other
            elif isinstance(value, int) and isinstance(other, int) and self.language != "js":
                value = math.trunc(value / other) if sign == "/" else math.fmod(value, other)
            else:
                value = value / other if sign == "/" else math.fmod(value, other)
        return value

    def factor(self) -> Any:
        """A value with its signs and methods."""
        if self.skip("-"):
            return -self.factor()
        if self.skip("+") or self.skip("&"):
            return self.factor()
        value = self.primary()
        while self.skip("."):
            method = self.take()[1]
            if method not in ("to_string", "to_owned", "into", "to_vec"):
                raise NotALiteral(method)
            self.take("(")
            self.take(")")
        return value

    def items(self, end: str, read: Callable[[], Any] | None = None) -> list[Any]:
        """Expressions, or what `read` reads, with commas between them, up to the closing sign."""
        found = []
        while not self.skip(end):
            found.append((read or self.sum)())
            if not self.skip(","):
                self.take(end)
                break
        return found

    def primary(self) -> Any:
        """A value without signs and methods."""
        for pattern, of in ((GO_TYPE, "go"), (CPP_TYPE, "cpp"), (JAVA_NEW, "java")):
            self.peek()
            if self.language == of and (found := pattern.match(self.text, self.at)):
                self.at = found.end()
                return self.composite(found.group())
        kind, text = self.take()
        if kind == "string":
            value = unescaped(text[1:-1])
            while self.language == "cpp" and self.peek()[0] == "string":
                value += unescaped(self.take()[1][1:-1])
            return value
        if kind == "char":
            value = unescaped(text[1:-1])
            return ord(value) if self.language == "go" else value
        if kind == "number":
            return number(text, self.language)
        if text == "(":
            found = self.items(")")
            if self.language == "js":
                return found[-1]
            tuple_ = self.language == "rust" and (len(found) != 1 or self.text[: self.at].rstrip(") \n")[-1:] == ",")
            return tuple(found) if tuple_ else one(found)
        if text == "[" and self.language in ("js", "rust"):
            return self.items("]")
        if text == "{":
            return dict(self.items("}", self.pair)) if self.language == "js" else self.items("}")
        if kind == "name":
            return self.named(re.sub(r"\s", "", text))
        raise NotALiteral(text)

    def composite(self, kind: str) -> Any:
        """A list or map of which the type was read."""
        if self.language == "java":
            self.take("(")
            found = self.items(")")
            return {} if "Map" in kind else one(found) if found else []
        self.take("{")
        if kind.startswith("map"):
            return dict(self.items("}", self.pair if self.language == "go" else None))
        found = self.items("}")
        return [float(each) for each in found] if kind.rstrip().endswith("float64") else found

    def pair(self) -> tuple[Any, Any]:
        """A key and its value."""
        key = self.take()[1] if self.peek()[0] == "name" else self.sum()
        self.take(":")
        return key, self.sum()

    def named(self, name: str) -> Any:
        """What a name, or a call, stands for."""
        variable, _, method = name.rpartition(".")
        if variable in self.names and method in ("clone", "to_vec"):
            self.take("(")
            self.take(")")
            return self.names[variable]
        if name in self.names:
            return self.names[name]
        if name in CONSTANTS and not (name == "None" and self.language != "rust"):
            return CONSTANTS[name]
        if name == "vec!":
            self.take("[")
            return self.items("]")
        if name not in (*LISTS, *MAPS, *OPTIONS, *SAME):
            raise NotALiteral(name)
        self.take("(")
        found = self.items(")")
        if name in MAPS:
            return dict(one(found)) if found else {}
        return found if name in LISTS else tuple(found) if name in OPTIONS else one(found)


def one(found: list[Any]) -> Any:
    """The only item."""
    if len(found) != 1:
        raise NotALiteral("one value expected")
    return found[0]


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
