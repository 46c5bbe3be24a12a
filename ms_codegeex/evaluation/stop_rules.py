"""Rules (`generation/stopping.py`) that end answers of benchmarks: words, braces and lines, whatever the language."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from ms_codegeex.generation.stopping import PartialWord, Rule, Scanner

Stop = Callable[[str], bool]  # text so far -> whether it has ended
BRACE, UNINDENTED = re.compile("[{}]"), re.compile(r"^(?![ \t])[^\n]*?\S", re.MULTILINE)


def scanner(stop: Stop) -> Scanner:
    """A scanner for one text. A stop that is not a `Rule` rereads the complete text at every character."""
    if isinstance(stop, Rule):
        return stop.scan()
    text = ""

    def scan(piece: str) -> int | None:
        nonlocal text
        for end, character in enumerate(piece, 1):
            text += character
            if stop(text):
                return end
        return None

    return scan


def first_of(*stops: Stop) -> Rule:
    """The text has ended by any of these stops."""

    def scan() -> Scanner:
        scanners = [scanner(stop) for stop in stops]

        def each(piece: str) -> int | None:
            return min((end for one in scanners if (end := one(piece)) is not None), default=None)

        return each

    return Rule(lambda text: any(stop(text) for stop in stops), scan)


def words(known: Sequence[str]) -> Rule:
    """The text contains one of these words."""

    def scan() -> Scanner:
        partial = [PartialWord(word) for word in known]

        def each(piece: str) -> int | None:
            return min((end for one in partial if (end := one.feed(piece)) is not None), default=None)

        return each

    return Rule(lambda text: any(word in text for word in known), scan)


def cut(text: str, known: Iterable[str]) -> str:
    """The text before the first of these words, all of it without one."""
    return text[: min((start for word in known if (start := text.find(word)) >= 0), default=len(text))]


def _closed() -> Scanner:
    depth = 0

    def each(piece: str) -> int | None:
        nonlocal depth
        for brace in BRACE.finditer(piece):
            depth += 1 if brace.group() == "{" else -1
            if depth < 0:
                return brace.end()
        return None

    return each


closed = Rule(lambda text: text.count("}") > text.count("{"), _closed)  # the brace that the prompt left open is closed


def _unindented() -> Scanner:
    start = ""  # of the line

    def each(piece: str) -> int | None:
        nonlocal start
        for end, character in enumerate(piece, 1):
            if character == "\n":
                start = ""
                continue
            start = start or character
            if start not in " \t" and not character.isspace():
                return end
        return None

    return each


def first_unindented(text: str) -> int | None:
    """The start of the first line that is neither blank nor indented, None if there is none."""
    match = UNINDENTED.search(text)
    return None if match is None else match.start()


# a line that is not blank starts in the first column
unindented = Rule(lambda text: first_unindented(text) is not None, _unindented, dropped=1)
