"""Filters: rules for the size and content of a text, with published rules as presets."""

from __future__ import annotations

import functools
import re
import string
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.shipped import shipped_table
from ms_codegeex.extras.corpus.detection import is_utf8, linear_options

_RULES = Path(__file__).with_name("rules")
GENERATORS = _RULES / "generators.yaml"
_ASCII = bytes(range(0x80))
# ASCII white space, letters and hexadecimal digits. To Python, the separators 28 to 31 are white space.
_KINDS = (string.whitespace.encode() + bytes(range(28, 32)), string.ascii_letters.encode(), string.hexdigits.encode())
_HEAD = 4096  # bytes searched for a generator's marks
_END = 200  # bytes searched for the last line
_NAME_OF_FILE = re.compile(rb"(?<![\w.\0-])\0(?![\w\0-]|\.[\w\0])")  # a zero byte stands for the file's name
_HINT = "a comment may say so"
_SMALL = 2000  # bytes: for shorter texts, calling NumPy takes longer than counting


@dataclass(frozen=True)
class Rules:
    """When a text is dropped. The defaults keep small modules, which the published limits would drop. Sizes are bytes
    of UTF-8, of a file or of a record's text. Lines are measured in characters, without newlines; None: no limit.
    `min_alphabetic` is the least share of letters, and `max_digits` the largest share of decimal and hexadecimal
    digits, among characters that are not white space, so deep indentation does not count. `generated`: keep texts whose
    first lines say that a program wrote them."""

    min_bytes: int = 1
    max_file_bytes: int = 1_000_000
    max_mean_line: float | None = 100.0
    min_alphabetic: float = 0.4
    max_line: int | None = None
    max_digits: float = 1.0
    generated: bool = False


def preset(name: str) -> Rules:
    """Return the rules called `name`. Raises `UserError` for an unknown name."""
    presets = shipped_table(_RULES / "filters.yaml")
    if name not in presets:
        raise UserError(f"filter preset {name!r}: expected one of {', '.join(presets)}")
    return Rules(**presets[name])


def size_rejection(size: int, rules: Rules) -> str | None:
    """Return why a text of `size` bytes is dropped without being read, or None."""
    if size == 0:
        return "empty"
    if size < rules.min_bytes:
        return "too small"
    return "too large" if size > rules.max_file_bytes else None


def rejection(data: bytes, rules: Rules) -> str | None:
    """Return why a text is dropped, or None if it is kept: `binary`, `not UTF-8`, `empty`, `long lines`, `few letters`
    or `many digits`. Its size and its generator are checked elsewhere (`size_rejection`, `generator_of`)."""
    if b"\0" in data:
        return "binary"
    return None if _is_ordinary(data, rules) else _exact_rejection(data, rules)


def _is_ordinary(data: bytes, rules: Rules) -> bool:
    """Return whether a quick check shows that a text passes the rules; if not, it may still pass. Nearly all source
    code passes here; counting characters instead of bytes costs several times as much."""
    if rules.max_line is not None or rules.max_digits < 1 or not is_utf8(data):
        return False
    letters, breaks = _letters_and_breaks(data)
    if not letters or letters < rules.min_alphabetic * len(data):
        return False
    lines = breaks + (not data.endswith(b"\n"))
    return rules.max_mean_line is None or len(data) - breaks <= rules.max_mean_line * lines


def _letters_and_breaks(data: bytes) -> tuple[int, int]:
    if len(data) < _SMALL:
        return len(data) - len(data.translate(None, _KINDS[1])), data.count(b"\n")
    import numpy as np

    # NumPy's scalars: Python's would take 1.5 times as long for a text of a few kilobytes.
    codes, case, first, count = np.frombuffer(data, np.uint8), np.uint8(0x20), np.uint8(0x61), np.uint8(26)
    lower = codes | case
    lower -= first  # wraps around below "a"
    return np.count_nonzero(lower < count), np.count_nonzero(codes == np.uint8(0x0A))


def _exact_rejection(data: bytes, rules: Rules) -> str | None:
    if not is_utf8(data):
        return "not UTF-8"
    white, letters, digits = (len(data) - len(data.translate(None, kind)) for kind in _KINDS)
    # Most texts repeat a few characters outside ASCII: count them first, then classify each once.
    high = data.translate(None, _ASCII)
    others = Counter(high.decode("utf-8"))
    white += sum(number for character, number in others.items() if character.isspace())
    letters += sum(number for character, number in others.items() if character.isalpha())
    characters, breaks = len(data) - len(high) + others.total(), data.count(b"\n")
    if not (visible := characters - white):
        return "empty"
    lines = breaks + (not data.endswith(b"\n"))
    if rules.max_mean_line is not None and characters - breaks > rules.max_mean_line * lines:
        return "long lines"
    if rules.max_line is not None and max(map(len, data.decode("utf-8").split("\n"))) > rules.max_line:
        return "long lines"
    if letters < rules.min_alphabetic * visible:
        return "few letters"
    return "many digits" if digits > rules.max_digits * visible else None


def generator_of(data: bytes, path: str = "") -> str | None:
    """Return the program that wrote a text, judged by its first and last bytes or its file name, with the rules in
    `rules/generators.yaml`, or None."""
    marks, endings, opening, _ = _generators()
    head, name = data[:_HEAD], path.rpartition("/")[2].encode("utf-8", "replace")
    found = None if endings.isdisjoint((name[-3:], name[-4:])) else marks["files"].first(name)
    if found is None and head.lstrip().startswith(b"<"):
        found = marks["page"].first(head)
    found = found or marks["text"].first(head)
    if found in (None, _HINT) and (last := data[-_END:].rstrip().rpartition(b"\n")[2]).startswith(b"/"):
        found = marks["end"].first(last) or found
    if found != _HINT or not marks["text"].first(text := opening.match(head)[0]):
        return None if found == _HINT else found
    if len(name) > 3 and name in text:  # saves compiling a pattern for each name
        text = _NAME_OF_FILE.sub(b"this file", text.replace(name, b"\0")).replace(b"\0", name)
    return _said_in(text)


@functools.lru_cache(1 << 8)  # files of a package share their comments
def _said_in(comments: bytes) -> str | None:
    marks, _, _, cleaning = _generators()
    for old, new, needed in cleaning:
        comments = old.sub(new, comments) if needed in comments else comments
    return marks["comment"].first(comments)


class _Marks:
    """Patterns that RE2 searches for all at once, in time linear in the text's length, and what each of them marks."""

    def __init__(self, rows: Iterable[tuple[str, str]]) -> None:
        import re2

        self._patterns, self._names = re2.Set.SearchSet(linear_options()), list[str]()
        for name, pattern in rows:
            self._names.append(name)
            self._patterns.Add(pattern.encode())
        self._patterns.Compile()

    def first(self, text: bytes) -> str | None:
        found = self._patterns.Match(text)
        return self._names[min(found)] if found else None


@functools.cache
def _generators() -> tuple[dict[str, _Marks], frozenset[bytes], re.Pattern[bytes], Sequence[tuple[Any, bytes, bytes]]]:
    declared, rows, endings = shipped_table(GENERATORS), defaultdict[str, list[tuple[str, str]]](list), set[bytes]()
    for place, form in declared["places"].items():
        for rule in (rule for rule in declared["generators"] if place in rule):
            pattern = rule[place]
            if place == "files":
                endings |= {each.rpartition("*")[2][-4:].encode() for each in pattern.split()}
                pattern = re.escape(pattern).replace(r"\*", ".+").replace(r"\ ", "|")
            for word, meaning in reversed(declared["phrases"].items()):
                pattern = pattern.replace(f"<{word}>", meaning)
            rows[place].append((rule["name"], form.replace("RULE", pattern)))
    rows["text"].append((_HINT, "|".join(declared["hint"])))
    opening = re.compile(rf"(?s)(?:{'|'.join(declared['opening'])})*".encode())
    rows_of_bytes = ([each.encode() for each in (*row, "")[:3]] for row in declared["cleaning"])
    cleaning = [(re.compile(old), new, needed) for old, new, needed in rows_of_bytes]
    return {place: _Marks(each) for place, each in rows.items()}, frozenset(endings), opening, cleaning
