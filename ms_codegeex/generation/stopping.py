"""Stop rules decide when a growing text has ended, reading each character once. Also gives the text up to there, as it
comes.

Calling a rule with a complete text says whether it has ended. `scan` returns a function for one growing text: given the
next piece, it returns the number of characters of that piece after which the text has first ended, or None if the text
continues. Both agree on every prefix of a text, which a test checks.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.languages import find_language
from ms_codegeex.generation.blocks import Code, quotes

Stop = Callable[[str], bool]  # text so far -> whether it has ended
Scanner = Callable[[str], int | None]
BRACE, UNINDENTED = re.compile("[{}]"), re.compile(r"^(?![ \t])[^\n]*?\S", re.MULTILINE)


@dataclass(frozen=True)
class Rule:
    """A `Stop` that can also scan. Of the characters after which a text has ended, the last `dropped` do not belong to
    it. `of_block` are words with which `block` makes the rule again, in another process."""

    whole: Callable[[str], bool]
    scan: Callable[[], Scanner]
    dropped: int = 0
    of_block: tuple[str, str] | None = None

    def __call__(self, text: str) -> bool:
        return self.whole(text)


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


class PartialWord:
    """Follows which beginning of `word` a growing text ends with. `length`: of the longest one. `shorter[n]`: of the
    next shorter beginning that also ends the first n characters of the word; known for every n reached so far.

    By Knuth, Morris and Pratt, so that a character takes two comparisons on average, whatever text and word are.
    """

    def __init__(self, word: str):
        self.word, self.length = word, 0
        self.shorter = array("i", (0, 0))

    def feed(self, piece: str) -> int | None:
        """Take the next piece. The number of its characters after which the text first ends with the word, or None."""
        word, length, shorter, found = self.word, self.length, self.shorter, None
        if not word:
            return 0
        if not length and word[0] not in piece:
            return None
        for end, character in enumerate(piece, 1):
            if length == len(word):
                length = shorter[length]
            while length and word[length] != character:
                length = shorter[length]
            if word[length] != character:
                continue
            length += 1
            if length == len(shorter):
                before = shorter[length - 1]
                while before and word[before] != character:
                    before = shorter[before]
                shorter.append(before + (word[before] == character))
            if found is None and length == len(word):
                found = end
        self.length = length
        return found


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


def block(language: str, prompt: str) -> Rule:
    """The block that a prompt of this language began has ended. In Python a line starts in the first column; elsewhere
    a brace closes the innermost open one, or the first that the text opens. Strings and comments do not count."""
    name = find_language(language).name
    if name not in quotes():
        raise UserError(f"--stop-at: blocks of {name} are not known; give one of {', '.join(sorted(quotes()))}")
    begun = Code(name, prompt).begun
    rule = scanned(lambda: Code(name, begun).scan, dropped=int(name == "Python"))
    return replace(rule, of_block=(name, begun))


def scanned(scan: Callable[[], Scanner], dropped: int = 0) -> Rule:
    """The rule of a scanner."""
    return Rule(lambda text: scan()(text) is not None, scan, dropped)


class Ending:
    """Text in pieces up to the first of some words, or to where a rule ends it. No part of such a word is returned;
    `word` is the one that ended it."""

    def __init__(self, known: Sequence[str] = (), rule: Rule | None = None):
        self.ended, self.word, self._rule, self._held = False, "", rule, ""
        self._words = [PartialWord(word) for word in known]
        self._scan = rule.scan() if rule else None

    def feed(self, piece: str) -> str:
        """The text that can be returned after the next piece; a possible beginning of a word is held back."""
        if self.ended:
            return ""
        ruled = self._scan(piece) if self._scan is not None else None
        places = (ruled, *(one.feed(piece) for one in self._words))
        end = min((place for place in places if place is not None), default=None)
        text = self._held + piece[:end]
        if end is None:
            sent = len(text) - max((one.length for one in self._words), default=0)
            self._held = text[sent:]
            return text[:sent]
        self.ended, self._held = True, ""
        self.word = max((one.word for one in self._words if text.endswith(one.word)), key=len, default="")
        dropped = [len(self.word)]
        if self._rule is not None and ruled == end:
            dropped.append(self._rule.dropped)
        return text[: len(text) - max(dropped)]

    def rest(self) -> str:
        """The text that is still held back when nothing follows."""
        held, self._held = self._held, ""
        return held


def until(pieces: Iterable[str], ending: Ending) -> Iterator[str]:
    """The pieces up to the ending; later ones are not requested."""
    for piece in pieces:
        if said := ending.feed(piece):
            yield said
        if ending.ended:
            return
    if rest := ending.rest():
        yield rest
