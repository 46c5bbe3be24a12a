"""Stop rules: decide when a growing text has ended, reading each character once.

Calling a rule with a whole text says whether it has ended. `scan` returns a function for one growing text: given the
next piece, it returns the number of characters of that piece after which the text has first ended, None if it goes on.
Both agree on every prefix of a text, which a test checks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ms_codegeex.evaluation.task import Stop

Scanner = Callable[[str], int | None]
BRACE = re.compile("[{}]")


@dataclass(frozen=True)
class Rule:
    """A `Stop` that can also scan."""

    whole: Callable[[str], bool]
    scan: Callable[[], Scanner]

    def __call__(self, text: str) -> bool:
        return self.whole(text)


def scanner(stop: Stop) -> Scanner:
    """A scanner for one text. A stop that is not a `Rule` rereads the whole text at every character."""
    if isinstance(stop, Rule):
        return stop.scan()
    text = ""

    def scan(piece: str) -> int | None:
        nonlocal text
        for place, character in enumerate(piece, 1):
            text += character
            if stop(text):
                return place
        return None

    return scan


def first_of(*stops: Stop) -> Rule:
    """The text has ended by any of these stops."""

    def scan() -> Scanner:
        scanners = [scanner(stop) for stop in stops]

        def each(piece: str) -> int | None:
            return min((place for one in scanners if (place := one(piece)) is not None), default=None)

        return each

    return Rule(lambda text: any(stop(text) for stop in stops), scan)


def words(known: Sequence[str]) -> Rule:
    """The text contains one of these words."""
    # the most characters of a word that an earlier piece can hold
    kept = max((len(word) for word in known), default=1) - 1

    def scan() -> Scanner:
        before = ""

        def each(piece: str) -> int | None:
            nonlocal before
            text = before + piece
            ends = (place + len(word) for word in known if (place := text.find(word)) >= 0)
            end, length = min(ends, default=None), len(before)
            before = text[-kept:] if kept else ""
            return None if end is None else end - length

        return each

    return Rule(lambda text: any(word in text for word in known), scan)


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
        for place, character in enumerate(piece, 1):
            if character == "\n":
                start = ""
                continue
            start = start or character
            if start not in " \t" and not character.isspace():
                return place
        return None

    return each


def unindented(whole: Callable[[str], bool]) -> Rule:
    """A line that is not blank starts in the first column; `whole` decides that about a whole text."""
    return Rule(whole, _unindented)
