"""The values that a judged program gives, and whether they are the expected ones.

A program writes a frame for each call of the answer: the length of the value's text, `:`, the text. A text is a letter
and what it says: `n` None, `u` undefined, `t`, `f`, `i-5;`, `d0.25;`, `s3:abc`, the number of items and the items of a
list (`[2:`), a tuple (`(2:`), a set (`<2:`) or a dictionary (`{2:`, keys and values in turns), and `o` for anything
else. This is all that a program can say. The expected values exist in this process alone: programs never see them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

MAX_DEPTH, MAX_DIGITS = 40, 4000
MAX_HASHED_ITEMS = 1000  # in a set or dictionary: more could be made to take hours, with equal hashes
MAX_LENGTH_DIGITS = 20


class NoData:
    """A value that is not data, such as an object of the answer's own type: no expected value is like it."""

    def __repr__(self) -> str:
        return "no data"


class UndefinedValue(NoData):
    """JavaScript's undefined, which is not equal to any expected value either."""

    def __repr__(self) -> str:
        return "undefined"


CONSTANTS = {b"n": None, b"u": UndefinedValue(), b"t": True, b"f": False}
KINDS: dict[bytes, Callable[[list[Any]], Any]] = {b"[": list, b"(": tuple, b"<": set, b"{": list}


@dataclass(frozen=True)
class Check:
    """What one value must be. `expected` is plain data, `rule` one of these: "equal", by Python's rules; "typed", where
    1, 1.0 and true are different; "json", where the order of a dictionary's keys counts too; "loose", a number or its
    text; "close", whose numbers differ by less than `tolerance` (or by no more, if `inclusive`); "less", a number
    less than `tolerance` above it; "root", of a polynomial; "empty", a list or tuple without items; "any"."""

    expected: Any
    rule: str = "equal"
    tolerance: float = 0.0
    inclusive: bool = False

    def accepts(self, value: Any) -> bool:
        """Whether the value is right."""
        try:
            return bool(RULES[self.rule](self, value))
        except (TypeError, ValueError, OverflowError, RecursionError):  # such as a list's difference to a number
            return False


def close(check: Check, value: Any) -> bool:
    """Numbers, or lists of equally many numbers, within the tolerance."""
    if isinstance(check.expected, list):
        pairs = zip(check.expected, value, strict=True)
        return isinstance(value, list) and all(close(replace(check, expected=each), got) for each, got in pairs)
    difference = abs(value - check.expected)
    return bool(difference <= check.tolerance if check.inclusive else difference < check.tolerance)


def is_root(check: Check, value: Any) -> bool:
    there = sum(coefficient * value**power for power, coefficient in enumerate(check.expected))
    return bool(abs(there) < check.tolerance)


def same(expected: Any, value: Any) -> bool:
    """Equal, and of equal types at every depth."""
    if type(expected) is not type(value):
        return False
    if isinstance(expected, list | tuple):
        return len(expected) == len(value) and all(map(same, expected, value))
    if isinstance(expected, dict):
        return expected.keys() == value.keys() and all(same(each, value[key]) for key, each in expected.items())
    return bool(expected == value)


def same_json(expected: Any, value: Any) -> bool:
    """Whether the JSON would be the same text."""
    if isinstance(expected, dict) and isinstance(value, dict):
        expected, value = [[*expected.items()], [*value.items()]]
    if isinstance(expected, list | tuple) and isinstance(value, list | tuple):
        return len(expected) == len(value) and all(map(same_json, expected, value))
    return isinstance(expected, bool) == isinstance(value, bool) and bool(expected == value)


RULES: dict[str, Callable[[Check, Any], bool]] = {
    "equal": lambda check, value: check.expected == value,
    "typed": lambda check, value: same(check.expected, value),
    "json": lambda check, value: same_json(check.expected, value),
    "loose": lambda check, value: check.expected == (float(value) if isinstance(value, str) else value),
    "close": close,
    "less": lambda check, value: value - check.expected < check.tolerance,
    "root": is_root,
    "empty": lambda check, value: isinstance(value, list | tuple) and not value,
    "any": lambda check, value: True,
}


def read_frames(data: bytes) -> tuple[list[Any], bytes]:
    """The values at the beginning of a program's output, and the rest of it. A frame with anything else is not data."""
    values, at = list[Any](), 0
    while (colon := data.find(b":", at, at + MAX_LENGTH_DIGITS)) > 0 and data[at:colon].isdigit():
        end = colon + 1 + int(data[at:colon])
        if end > len(data):
            break
        frame = data[colon + 1 : end]
        try:
            value, stop = read_value(frame, 0, MAX_DEPTH)
        except (ValueError, RecursionError, TypeError):
            value, stop = NoData(), len(frame)
        values.append(value if stop == len(frame) else NoData())
        at = end
    return values, data[at:]


def read_value(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    """The value that begins there, and where it ends."""
    kind, at = data[at : at + 1], at + 1
    if kind in CONSTANTS:
        return CONSTANTS[kind], at
    if kind in (b"i", b"d"):
        end = data.index(b";", at, at + MAX_DIGITS)
        text = data[at:end].decode("ascii")
        if "_" in text:
            raise ValueError("not a value")
        return int(text) if kind == b"i" else float(text), end + 1
    colon = data.index(b":", at, at + MAX_LENGTH_DIGITS)
    if not data[at:colon].isdigit() or depth == 0:
        raise ValueError("not a value")
    count, at = int(data[at:colon]), colon + 1
    if kind in (b"s", b"o"):
        if at + count > len(data):
            raise ValueError("not a value")
        text = data[at : at + count].decode("utf-8", "surrogatepass")
        return (text if kind == b"s" else NoData()), at + count
    if kind not in KINDS or count > (MAX_HASHED_ITEMS if kind in (b"<", b"{") else len(data)):
        raise ValueError("not a value")
    items = []
    for _ in range(2 * count if kind == b"{" else count):
        item, at = read_value(data, at, depth - 1)
        items.append(item)
    if kind == b"{":
        return dict(zip(items[::2], items[1::2], strict=True)), at
    return KINDS[kind](items), at


def first_wrong(checks: Sequence[Check], values: Sequence[Any]) -> int | None:
    """The first value that is not the expected one, None if all that were given are right."""
    pairs = enumerate(zip(checks, values, strict=False))
    return next((number for number, (check, value) in pairs if not check.accepts(value)), None)


def is_data(value: Any) -> bool:
    """Whether a program can say the value and all that it contains."""
    if isinstance(value, dict):
        return all(map(is_data, (*value, *value.values())))
    return all(map(is_data, value)) if isinstance(value, list | tuple | set) else type(value) is not NoData
