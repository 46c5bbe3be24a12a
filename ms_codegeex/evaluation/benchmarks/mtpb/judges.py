"""Compare what a program printed with the expected value: by the release's rule, and by our strict one. Both compare
outside the sandbox: values arrive as JSON that includes their types (`inside/program.py`), and expected values never
enter it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

ABSOLUTE, RELATIVE = 1e-6, 1e-9
CLASS = re.compile(r"<class '(?:\w+\.)*(\w+)'>")


class Incomparable:
    """A value that JSON cannot express: equal to nothing."""


def decode(encoded: Any, strict: bool) -> Any:
    """The Python value. For the strict judge, arrays become lists, classes their names, sets incomparable, and
    dictionary keys what JSON makes of them; for the published judge, arrays and classes are incomparable, as under its
    `==`."""
    kind, content = encoded
    if kind in ("list", "tuple", "set", "array"):
        items = [decode(item, strict) for item in content]
        if kind == "list" or (kind == "array" and strict):
            return items
        if kind == "tuple":
            return tuple(items)
        return _made(set, items) if kind == "set" and not strict else Incomparable()
    if kind == "dict":
        pairs = [(decode(key, strict), decode(value, strict)) for key, value in content]
        return {_key(key): value for key, value in pairs} if strict else _made(dict, pairs)
    if kind == "int":
        return int(content, 16)
    if kind == "float":
        return float.fromhex(content)
    known = ("none", "bool", "str", "type") if strict else ("none", "bool", "str")
    return content if kind in known else Incomparable()


def _made(kind: type, items: list[Any]) -> Any:
    try:
        return kind(items)
    except TypeError:  # an unhashable item: the program's set cannot have had it
        return Incomparable()


def _key(key: Any) -> str | None:
    """A dictionary key as JSON writes it; a class by its name, as in the one problem that needs it (id 89)."""
    if isinstance(key, str):
        return CLASS.sub(r"\1", key)
    return json.dumps(key) if isinstance(key, (int, float, bool, type(None))) else None


def right(judge: Callable[..., bool], printed: Mapping[str, Any] | None, gold: Any) -> bool:
    """The judge's result; False for an invalid report, which a program may have tampered with."""
    try:
        return judge(printed, gold)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return False


def published(printed: Mapping[str, Any] | None, gold: Any) -> bool:
    """The release's rule, including what it never accepts: an expected dictionary or null."""
    if not printed or "value" not in printed or isinstance(gold, dict) or gold is None:
        return False
    kind = type(gold).__name__
    same = printed["type"] == kind
    if not same and "cast" not in printed:
        return False
    value = decode(printed["value" if same else "cast"], strict=False)
    gold = str(gold) if not same and isinstance(gold, bool) else gold
    if isinstance(gold, float):
        return isinstance(value, float) and abs(value - gold) < ABSOLUTE
    return type(value) is type(gold) and value == gold


def strict(printed: Mapping[str, Any] | None, gold: Any) -> bool:
    """The value that the program printed last equals the expected one, or looks the same. Numbers may differ by 1e-6
    (or 1e-9 of their size) at any depth. Tuples and arrays count as lists, sets do not; dictionary keys are compared as
    JSON writes them; a bool equals only a bool. Text is also right if it is exactly the printed form of the expected
    value. Nothing is cast."""
    shown = (printed or {}).get("strict")
    return bool(shown) and (equal(decode(shown["value"], strict=True), gold) or shown["text"] == str(gold))


def equal(value: Any, gold: Any) -> bool:
    """Structural equality of a decoded value and one from JSON."""
    if isinstance(gold, bool) or isinstance(value, bool) or gold is None:
        return type(value) is type(gold) and value == gold
    if isinstance(gold, (int, float)):
        return isinstance(value, (int, float)) and _close(value, gold)
    if isinstance(gold, list):
        same = isinstance(value, (list, tuple)) and len(value) == len(gold)
        return same and all(map(equal, value, gold))
    if isinstance(gold, dict):
        same = isinstance(value, dict) and value.keys() == gold.keys()
        return same and all(equal(value[key], gold[key]) for key in gold)
    return isinstance(value, str) and value == gold


def _close(value: int | float, gold: int | float) -> bool:
    if isinstance(value, int) and isinstance(gold, int):
        return value == gold
    try:
        return math.isclose(value, gold, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    except OverflowError:  # an integer beyond any float
        return False
