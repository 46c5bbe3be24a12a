"""CodeGen's truncation rule, `truncate` in its scripts: where the answer of a model that never stops ends."""

from __future__ import annotations

import re
from itertools import islice

from ms_codegeex.evaluation import stop_rules
from ms_codegeex.generation import stopping

END_OF_TEXT = "<|endoftext|>"
LINES = ("#", "'''", '"""')  # line beginnings that end a text
PRINTS, DEFS = re.compile("^print", re.MULTILINE), re.compile("^def", re.MULTILINE)
ENDINGS = re.compile(f"^#|{re.escape(END_OF_TEXT)}|^'''|^\"\"\"|\n\n\n", re.MULTILINE)


def cut(text: str, limit: int = 1) -> int | None:
    """The position at which newly generated text is truncated, None if it is not. Later text never changes it. The
    first of: the line that starts with `print` and exceeds `limit` such lines, the same for `def`, a line that starts
    with `#` or three quotes, the end-of-text token, three line breaks; the release does one after the other."""
    allowed = ((PRINTS, limit), (DEFS, limit), (ENDINGS, 0))
    matches = (match for pattern, count in allowed for match in islice(pattern.finditer(text), count, count + 1))
    return min((match.start() for match in matches), default=None)


def truncated(text: str, limit: int = 1) -> str:
    """The text before the cut."""
    return text[: cut(text, limit)]


def stop(limit: int = 1) -> stopping.Rule:
    """A stop rule: the text has a cut."""
    special = stop_rules.words([END_OF_TEXT, "\n\n\n"])

    def scan() -> stopping.Scanner:
        line, counts, ended = "", dict.fromkeys(("print", "def"), 0), special.scan()

        def each(piece: str) -> int | None:
            nonlocal line
            end = ended(piece)
            for position, character in enumerate(piece[:end], 1):
                line = "" if character == "\n" else (line + character)[:6]
                if line in counts:
                    counts[line] += 1
                if line in LINES or any(count > limit for count in counts.values()):
                    return position
            return end

        return each

    return stopping.Rule(lambda text: cut(text, limit) is not None, scan)
