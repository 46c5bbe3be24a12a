"""Parse JSON within limits. Only this module parses JSON that does not come from another process of this program.
Python's `json` alone accepts values that break later code: numbers with thousands of digits, nesting deeper than
Python's stack, lone surrogates that no file can hold, and duplicate keys, which programs resolve differently."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

MAX_NESTING = 100  # levels of lists and objects
MAX_DIGITS = 100  # of an integer, including its sign; anything shorter fits a float
_TOO_LONG = 10**MAX_DIGITS
_HARMLESS = frozenset((str, float, bool, type(None)))  # types of field values that need no check


class MalformedText(ValueError):
    """Text that is not JSON or YAML, or exceeds a limit. The message does not name the file."""


def _whole_number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise MalformedText(f"a number of more than {MAX_DIGITS} digits")
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen = set[str]()
        key = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise MalformedText(f"key {key!r} occurs twice in an object")
    return members


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_whole_number)
_LENIENT = json.JSONDecoder(parse_int=_whole_number)


@functools.cache
def _fast_parser() -> Callable[[bytes], Any] | None:
    """Return jiter's parser, from the extra `corpus`, or None. It is three times as fast, refuses lone surrogates, and
    gives less detailed errors."""
    try:
        from jiter import from_json
    except ModuleNotFoundError:
        return None
    return from_json


def parse_json(text: str | bytes, *, data: bool = False) -> Any:
    """Return the value of a JSON text (bytes: UTF-8). Raises `MalformedText` if it is not JSON, is nested too deeply,
    or has a number, character or key that the module's docstring excludes. With `data`, for records of user data, keys
    may occur twice (the last one counts) and texts may hold lone surrogates: the reader of the record judges them."""
    if data and isinstance(text, bytes) and (parse := _fast_parser()):
        try:
            value = parse(text)
            if type(value) is not dict or not _HARMLESS.issuperset(map(type, value.values())):
                _check(value, data)
            return value
        except ValueError:
            pass  # the strict parser below gives the reason
    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
        value = (_LENIENT if data else _STRICT).decode(text)
    except UnicodeDecodeError as error:
        raise MalformedText(f"not UTF-8, byte 0x{error.object[error.start]:02x} at {error.start}") from None
    except RecursionError:
        raise MalformedText(f"nested deeper than {MAX_NESTING} levels") from None
    except json.JSONDecodeError as error:
        position = f"line {error.lineno} column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        marked = text.startswith("\ufeff")
        raise MalformedText("begins with a byte-order mark" if marked else f"{error.msg} at {position}") from None
    if text.count("[") + text.count("{") > MAX_NESTING or not (data or _is_whole(text)):
        _check(value, data)
    return value


def _is_whole(text: str) -> bool:
    return "\\ud" not in text and "\\uD" not in text and (text.isascii() or not _has_half(text))


def _check(value: Any, data: bool) -> None:
    level, depth = [value], 0
    while level:
        inner: list[Any] = []
        texts = [item for item in level if type(item) is str]  # skipped below: a vocabulary has many thousands
        if not data and texts and _has_half("".join(texts)):
            raise MalformedText("half a character (a lone surrogate), which no text can hold")
        level = [item for item in level if type(item) is not str] if texts else level
        small = {*map(type, level)} == {int} and max(map(abs, level)) < 2**63  # a vocabulary has many integers too
        for item in () if small else level:
            if isinstance(item, dict):
                inner += item.values() if data else (*item, *item.values())
            elif isinstance(item, list):
                inner += item
            elif type(item) is int and not -_TOO_LONG < 10 * item < 10 * _TOO_LONG:
                raise MalformedText(f"a number of more than {MAX_DIGITS} digits")
            if depth == MAX_NESTING and isinstance(item, dict | list):
                raise MalformedText(f"nested deeper than {MAX_NESTING} levels")
        level, depth = inner, depth + 1


def _has_half(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
