"""Stop rules decide when a growing text has ended, reading each character once. `Ending` passes the text on up to that
point as it arrives. Calling a rule with a complete text says whether it has ended. `scan` returns a function for one
growing text: given the next piece, it returns the number of characters of that piece after which the text has first
ended, or None if the text continues. A test checks that both agree on every prefix of a text."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

Scanner = Callable[[str], int | None]


@dataclass(frozen=True)
class Rule:
    """A stop rule. `whole` says whether a text has ended; `scan` makes a scanner that says where. The last `dropped`
    characters before that point do not belong to the text. `of_block` holds the arguments with which `block` rebuilds
    the rule in another process, if it can."""

    whole: Callable[[str], bool]
    scan: Callable[[], Scanner]
    dropped: int = 0
    of_block: tuple[str, str] | None = None

    def __call__(self, text: str) -> bool:
        return self.whole(text)


class PartialWord:
    """Finds `word` in a growing text by the Knuth-Morris-Pratt algorithm, which needs two comparisons per character on
    average whatever text and word are. `length` is that of the longest prefix of the word that ends the text.
    `shorter[n]` is the failure function: the length of the longest proper prefix that is a suffix of the first n
    characters. It is extended as far as matches have reached."""

    def __init__(self, word: str):
        self.word, self.length = word, 0
        self.shorter = array("i", (0, 0))

    def feed(self, piece: str) -> int | None:
        """Read the next piece. Return the number of its characters after which the word is first complete, or None."""
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
    """Cuts a text that arrives in pieces before the first of the `known` words, or where `rule` ends it. No part of
    such a word is passed on; `word` is the one that ended the text, or empty."""

    def __init__(self, known: Sequence[str] = (), rule: Rule | None = None):
        self.ended, self.word, self._rule, self._held = False, "", rule, ""
        self._words = [PartialWord(word) for word in known]
        self._scan = rule.scan() if rule else None

    def feed(self, piece: str) -> str:
        """Take the next piece and return the text to pass on. A possible beginning of a word is held back."""
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
    """Yield the text of `pieces` up to the ending. No piece after it is requested."""
    for piece in pieces:
        if said := ending.feed(piece):
            yield said
        if ending.ended:
            return
    if rest := ending.rest():
        yield rest
