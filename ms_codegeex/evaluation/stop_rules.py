"""Rules (`generation/stopping.py`) that end answers of benchmarks: words, braces and lines, whatever the language; and
CodeGen's, `truncate` in its scripts, for the answers of a model that never stops."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from ms_codegeex.generation.stopping import PartialWord, Rule, Scanner

Stop = Callable[[str], bool]  # text so far -> whether it has ended
END_OF_TEXT = "<|endoftext|>"
LINES = ("#", "'''", '"""')  # line beginnings that end a text, by CodeGen's rule
PRINTS, DEFS = re.compile("^print", re.MULTILINE), re.compile("^def", re.MULTILINE)
ENDINGS = re.compile(f"^#|{re.escape(END_OF_TEXT)}|^'''|^\"\"\"|\n\n\n", re.MULTILINE)
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


def codegen_cut(text: str, limit: int = 1) -> int | None:
    """Where CodeGen truncates newly generated text, None if nowhere; later text never changes it. The first of: the
    line that starts with `print` and exceeds `limit` such lines, the same for `def`, a line that starts with `#` or
    three quotes, the end-of-text token, three line breaks; the release does one after the other."""
    allowed = ((PRINTS, limit), (DEFS, limit), (ENDINGS, 0))
    matches = (match for pattern, count in allowed for match in islice(pattern.finditer(text), count, count + 1))
    return min((match.start() for match in matches), default=None)


def codegen_truncated(text: str, limit: int = 1) -> str:
    """The text before the cut."""
    return text[: codegen_cut(text, limit)]


def codegen_stop(limit: int = 1) -> Rule:
    """The text has a cut by CodeGen's rule."""
    special = words([END_OF_TEXT, "\n\n\n"])

    def scan() -> Scanner:
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

    return Rule(lambda text: codegen_cut(text, limit) is not None, scan)
