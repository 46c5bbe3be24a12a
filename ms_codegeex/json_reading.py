"""JSON within limits: the only place that parses JSON which this program did not just write itself.

`json` alone lets through what breaks its readers later: numbers of thousands of digits, nesting deeper than Python's
stack, half characters that no file can hold, and keys that occur twice, of which two programs take different ones.
"""

from __future__ import annotations

import json
import re
from typing import Any

DEEPEST = 100  # levels of lists and objects
MOST_DIGITS = 100  # of a whole number: every shorter one fits a float
_LARGEST = 10**MOST_DIGITS
# without any of these, and with few brackets, a text needs no second look
_SUSPECT = re.compile(rf"[0-9]{{{MOST_DIGITS + 1}}}|\\u[dD][89a-fA-F]|[\ud800-\udfff]")


class Malformed(ValueError):
    """A text that is not JSON or not YAML, or exceeds a limit; the message says why, without the file's name."""


def parse_json(text: str | bytes, *, twice: bool = False) -> Any:
    """The value of a JSON text (bytes: UTF-8).

    Args:
        text: the whole text.
        twice: accept an object in which a key occurs twice; the last one counts.

    Raises:
        Malformed: not JSON, nested too deep, or with a number, character or key as in this module's description.
    """
    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
        value = json.loads(text, object_pairs_hook=None if twice else _unique)
    except UnicodeDecodeError as error:
        raise Malformed(f"not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise Malformed(f"nested deeper than {DEEPEST} levels") from None
    except Malformed:
        raise
    except json.JSONDecodeError as error:
        raise Malformed(str(error)) from None
    except ValueError:  # Python's own limit
        raise Malformed(f"a number of more than {MOST_DIGITS} digits") from None
    if text.count("[") + text.count("{") > DEEPEST or _SUSPECT.search(text):
        _check(value)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise Malformed(f"key {next(name for name in names if names.count(name) > 1)!r} occurs twice in an object")
    return found


def _check(value: Any) -> None:
    """Check depth, numbers and characters, one level after the other."""
    level = [value]
    for _ in range(DEEPEST + 1):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item)
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
            elif isinstance(item, str):
                _check_characters(item)
            elif type(item) is int and abs(item) >= _LARGEST:
                raise Malformed(f"a number of more than {MOST_DIGITS} digits")
        if not inner:
            return
        level = inner
    raise Malformed(f"nested deeper than {DEEPEST} levels")


def _check_characters(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Malformed(f"half a character, \\u{ord(text[error.start]):04x}, which no text can hold") from None
