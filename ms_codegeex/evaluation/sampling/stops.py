"""When a text that grows is over: rules that read each character once.

A rule is asked about a whole text by calling it. `scan` gives a function for one text that grows: it is given piece
after piece and says with how many characters of the piece the text was over for the first time, None if it goes on.
Both say the same of every beginning of a text (a test looks).
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
    """A `Stop` that can scan: `whole` says whether a text is over."""

    whole: Callable[[str], bool]
    scan: Callable[[], Scanner]

    def __call__(self, text: str) -> bool:
        return self.whole(text)


def scanner(stop: Stop) -> Scanner:
    """For one text. A stop that cannot scan reads all of it with every character."""
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
    """Whichever comes first."""

    def scan() -> Scanner:
        scanners = [scanner(stop) for stop in stops]

        def each(piece: str) -> int | None:
            return min((place for one in scanners if (place := one(piece)) is not None), default=None)

        return each

    return Rule(lambda text: any(stop(text) for stop in stops), scan)


def words(known: Sequence[str]) -> Rule:
    """One of these is in the text."""
    kept = max((len(word) for word in known), default=1) - 1  # characters of a word that may have come before a piece

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


closed = Rule(lambda text: text.count("}") > text.count("{"), _closed)  # the bracket before the text is closed


def _unindented() -> Scanner:
    start = ""  # the first character of the line

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
    """A line that is not blank starts in the first column."""
    return Rule(whole, _unindented)
