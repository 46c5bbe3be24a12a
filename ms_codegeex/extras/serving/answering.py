"""Turns the tokens of an answer into text as they arrive: complete characters, up to a stop text, through filters that
end, delay or change the text."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ms_codegeex.data.tokenizer.base import Continuation, Tokenizer
from ms_codegeex.generation.sampling import ChosenToken, SamplingSettings
from ms_codegeex.generation.stopping import Ending, Rule


@dataclass(frozen=True)
class Piece:
    """Text that is ready to send, with the tokens chosen since the last piece. `tokens` include those of a stop text:
    their number is the usage. `offsets` are the positions in the answer's text at which each token begins and ends,
    counting a character that it only begins. The last piece has a `finish`, "stop" or "length". Its `complete` is true
    if all decoded text was sent, false if the text was cut at a stop text or a repeated suffix. A character that the
    last tokens begin and no token completes is omitted."""

    text: str
    tokens: tuple[ChosenToken, ...] = ()
    finish: str | None = None
    offsets: tuple[tuple[int, int], ...] = ()
    complete: bool = False


class TextFilter:
    """Takes a text in pieces and returns what can be sent: in this base class, everything. Once it has `ended`, it
    returns nothing more."""

    ended = False

    def feed(self, piece: str) -> str:
        return piece

    def rest(self) -> str:
        return ""


class Filters(TextFilter):
    """Chains several filters, and puts `opening` before the text and `closing` after it."""

    def __init__(self, *filters: TextFilter, opening: str = "", closing: str = ""):
        self._filters, self._opening, self._closing = filters, opening, closing

    @property
    def ended(self) -> bool:
        return any(one.ended for one in self._filters)

    def feed(self, piece: str) -> str:
        for one in self._filters:
            piece = one.feed(piece)
        said, self._opening = self._opening + piece, ""
        return said

    def rest(self) -> str:
        said = ""
        for one in self._filters:
            said = one.feed(said) + one.rest()
        return self._opening + said + self._closing


class IndentStop(TextFilter):
    """Ends a text before the first non-blank line (not counting the text's first line) that is indented by fewer than
    `minimum` characters."""

    def __init__(self, minimum: int):
        self._minimum = minimum
        self._blank: list[str] = []  # a line break, then the new line's leading white space so far

    def feed(self, piece: str) -> str:
        """Take the next piece and return what can be sent. Leading white space is held until its line has text."""
        said: list[str] = []
        for character in "" if self.ended else piece:
            if character == "\n":
                said += self._blank
                self._blank = [character]
            elif self._blank and character.isspace():
                self._blank.append(character)
            elif 0 < len(self._blank) <= self._minimum:
                self.ended, self._blank = True, []
                break
            else:
                said += [*self._blank, character]
                self._blank = []
        return "".join(said)

    def rest(self) -> str:
        blank, self._blank = self._blank, []
        return "".join(blank)


class TimeLimit(TextFilter):
    """Ends a text once `milliseconds` have passed since its first piece, but not before it has a line break."""

    def __init__(self, milliseconds: float, clock: Callable[[], float] = time.monotonic):
        self._seconds, self._clock = milliseconds / 1000, clock
        self._began, self._lines = -1.0, False

    def feed(self, piece: str) -> str:
        if self.ended or not piece:
            return ""
        now = self._clock()
        self._began = now if self._began < 0 else self._began
        self.ended = self._lines and now - self._began > self._seconds
        self._lines = self._lines or "\n" in piece
        return "" if self.ended else piece


class AnswerText:
    """Turns an answer's tokens into pieces. `finish` is None until `settings.stop`, a rule, a filter or the engine ends
    it."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        ids: Sequence[int],
        settings: SamplingSettings,
        rule: Rule | None = None,
        through: TextFilter | None = None,
    ):
        self.finish: str | None = None
        self.count = 0  # tokens
        self._decoded, self._ending = Continuation(tokenizer, ids), Ending(settings.stop, rule)
        self._filter = through or TextFilter()
        self._length = self._sent = 0  # characters decoded, and characters returned by `take`
        self._complete = False
        self._said: list[str] = []
        self._tokens: list[ChosenToken] = []
        self._offsets: list[tuple[int, int]] = []

    def feed(self, chosen: ChosenToken) -> None:
        """Take the next token. Tokens after the end are ignored."""
        if self.finish is not None:
            return
        text = self._decoded.feed(chosen.token)
        self.count += 1
        self._tokens.append(chosen)
        begin, self._length = self._length, self._length + len(text)
        self._offsets.append((begin, self._length + self._decoded.within_character))
        if text and (said := self._filter.feed(self._ending.feed(text))):
            self._said.append(said)
        if self._ending.ended or self._filter.ended:
            self._finish("stop")

    def _finish(self, finish: str) -> None:
        self._said.append(self._filter.rest())
        self.finish = finish

    def end(self, finish: str) -> None:
        """End the answer: no token follows. Has no effect if it has ended already."""
        if self.finish is None:
            self._said.append(self._filter.feed(self._ending.rest()))
            self._finish(finish)
            self._complete = True

    @property
    def stop_text(self) -> str:
        return self._ending.word

    @property
    def waiting(self) -> bool:
        return bool(self._said) or self.finish is not None

    def take(self) -> Piece:
        """Return everything since the last call."""
        text = "".join(self._said)
        self._sent += len(text)
        complete = self._complete and self._sent == self._length
        piece = Piece(text, tuple(self._tokens), self.finish, tuple(self._offsets), complete)
        self._said, self._tokens, self._offsets = [], [], []
        return piece
