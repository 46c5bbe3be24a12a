"""Filters of an answer's text: they end, hold back or change it piece by piece. See `answering.TextFilter`."""

from __future__ import annotations

import time
from collections.abc import Callable

from ms_codegeex.serving.answering import TextFilter


class Filters(TextFilter):
    """Several filters in a row, with `opening` in front of the text and `closing` after it."""

    def __init__(self, *filters: TextFilter, opening: str = "", closing: str = ""):
        self._filters, self._opening, self._closing = filters, opening, closing

    @property
    def ended(self) -> bool:
        """Whether one of them has ended the text."""
        return any(one.ended for one in self._filters)

    def feed(self, piece: str) -> str:
        """The text that can be sent after the next piece."""
        for one in self._filters:
            piece = one.feed(piece)
        said, self._opening = self._opening + piece, ""
        return said

    def rest(self) -> str:
        """The text that still waits at the end."""
        said = ""
        for one in self._filters:
            said = one.feed(said) + one.rest()
        return self._opening + said + self._closing


class Indented(TextFilter):
    """Ends a text before the first line, after its first one, that is not blank and has less than `least` leading white
    space."""

    def __init__(self, minimum: int):
        self._minimum, self._blank = minimum, ""  # a line break and the white space of its line so far

    def feed(self, piece: str) -> str:
        """The text that can be sent after the next piece. White space in front of a line waits for the line's text."""
        said = ""
        for character in "" if self.ended else piece:
            if character == "\n":
                said, self._blank = said + self._blank, character
            elif not self._blank:
                said += character
            elif character.isspace():
                self._blank += character
            elif len(self._blank) - 1 < self._minimum:
                self.ended, self._blank = True, ""
                break
            else:
                said, self._blank = said + self._blank + character, ""
        return said

    def rest(self) -> str:
        """The white space that waits."""
        blank, self._blank = self._blank, ""
        return blank


class Lasting(TextFilter):
    """Ends a text some time after its first piece, but not before it has a line break."""

    def __init__(self, milliseconds: float, clock: Callable[[], float] = time.monotonic):
        self._seconds, self._clock = milliseconds / 1000, clock
        self._began, self._lines = -1.0, False

    def feed(self, piece: str) -> str:
        """The piece, if the time is not over."""
        if self.ended or not piece:
            return ""
        now = self._clock()
        self._began = now if self._began < 0 else self._began
        if self._lines and now - self._began > self._seconds:
            self.ended = True
            return ""
        self._lines = self._lines or "\n" in piece
        return piece
