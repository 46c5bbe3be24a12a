"""Stop rules decide when a growing text has ended, reading each character once. `Ending` gives the text up to that
point as it comes. Calling a rule with a complete text says whether it has ended. `scan` returns a function for one
growing text: given the next piece, it returns the number of characters of that piece after which the text has first
ended, or None if the text continues. Both agree on every prefix of a text, which a test checks."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

Scanner = Callable[[str], int | None]


@dataclass(frozen=True)
class Rule:
    """Whether a text has ended, and a scanner that says where. The last `dropped` characters before that point do not
    belong to it. From the words `of_block`, `block` makes the rule again in another process."""

    whole: Callable[[str], bool]
    scan: Callable[[], Scanner]
    dropped: int = 0
    of_block: tuple[str, str] | None = None

    def __call__(self, text: str) -> bool:
        return self.whole(text)


class PartialWord:
    """Follows which beginning of `word` a growing text ends with. `length` is that of the longest one. `shorter[n]`: of
    the next shorter beginning that also ends the first n characters of the word; known for every n reached so far. By
    Knuth, Morris and Pratt, so that a character takes two comparisons on average, whatever text and word are."""

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


def scanned(scan: Callable[[], Scanner], dropped: int = 0) -> Rule:
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
