"""CodeGen's truncation rule: where the answer of a model that never stops ends (`truncate` in the release's
scripts)."""

from __future__ import annotations

import re

from ms_codegeex.generation import stopping

END_OF_TEXT = "<|endoftext|>"
LINES = ("#", "'''", '"""')  # line beginnings that end a text
PRINTS, DEFS = re.compile("^print", re.MULTILINE), re.compile("^def", re.MULTILINE)
ENDINGS = re.compile(f"^#|{re.escape(END_OF_TEXT)}|^'''|^\"\"\"|\n\n\n", re.MULTILINE)


def cut(text: str, limit: int = 1) -> int | None:
    """The position at which newly generated text is truncated, None if it is not. Later text never changes it.

    The first of: the line that starts with `print` and exceeds `limit` such lines, the same for `def`, a line that
    starts with `#` or three quotes, the end-of-text token, three line breaks. The release applies these rules one
    after the other, which gives the same result.
    """
    places = []
    for pattern in (PRINTS, DEFS):
        found = [match.start() for _, match in zip(range(limit + 1), pattern.finditer(text), strict=False)]
        places += found[limit:]
    if ending := ENDINGS.search(text):
        places.append(ending.start())
    return min(places, default=None)


def truncated(text: str, limit: int = 1) -> str:
    """The text before the cut."""
    return text[: cut(text, limit)]


def stop(limit: int = 1) -> stopping.Rule:
    """A stop rule: the text has a cut."""
    special = stopping.words([END_OF_TEXT, "\n\n\n"])

    def scan() -> stopping.Scanner:
        line, counts, ended = "", dict.fromkeys(("print", "def"), 0), special.scan()

        def each(piece: str) -> int | None:
            nonlocal line
            end = ended(piece)
            for place, character in enumerate(piece[:end], 1):
                line = "" if character == "\n" else (line + character)[:6]
                if line in counts:
                    counts[line] += 1
                if line in LINES or any(count > limit for count in counts.values()):
                    return place
            return end

        return each

    return stopping.Rule(lambda text: cut(text, limit) is not None, scan)
