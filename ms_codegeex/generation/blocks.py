"""Where blocks of code end: at braces or lines outside of strings and comments, found while the text grows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

ESCAPE = r"\\[\s\S]"
MAX_READ = 1 << 16  # characters, in a tenth of a second
MIRRORED = str.maketrans("([{", ")]}")
OPERATORS = (  # words before a pattern, not a division
    *("return", "typeof", "case", "in", "of", "and", "or", "not", "if", "unless", "while", "split", "grep"),
    *("m", "s", "y", "tr", "qr"),
)


@dataclass(frozen=True)
class Quote:
    """A part of code in which braces do not count: a string, a comment, a pattern.

    `begin` is the regular expression of its opening, `part` that of an incomplete one, if it is not just the beginning
    of a fixed text. `end` closes it: a text with the groups of `begin`, brackets mirrored; `escape` matches what does
    not close it; with `line`, the end of the line closes it too; without either it is complete. `inside` begins code in
    it, a character class, or the same again.
    """

    begin: str
    end: str = ""
    escape: str = ""
    line: bool = False
    inside: str = ""
    part: str = ""


def _strings(
    marks: str, *, before: str = "", lines: bool = False, escape: str = ESCAPE, inside: str = ""
) -> list[Quote]:
    return [Quote(before + mark, mark, escape, not lines and len(mark) == 1, inside) for mark in marks.split()]


COMMENT, HASH = Quote("//", line=True), Quote("#", line=True)
ENCLOSED, NESTED = Quote(r"/\*", "*/"), Quote(r"/\*", "*/", inside="/*")
PATTERN, CLASS = Quote("/", "/", ESCAPE, True, "["), Quote(r"\[", "]", ESCAPE, True)
# neither a lifetime nor a symbol, which have no second quote
CHARACTERS = (Quote(r"'(?:\\.|[^\w\\\s])", "'", ESCAPE, True, part=r"'\\?"), Quote(r"'\w'", part=r"'\w?"))
C = (COMMENT, ENCLOSED, *_strings('"'), *_strings("'", before=r"(?<!\d)"))  # 1'000 in C++
RAW_CPP = Quote(
    r'(?<!\w)(?:u8|[uUL])?R"([^\s()\\"{}]{0,16})\(', '){0}"', part=r'(?:u8?|[UL])?R?(?:(?<=R)"[^\s()\\"{}]{0,16})?'
)
SCRIPT = (
    *(COMMENT, ENCLOSED, PATTERN, *_strings('"'), *_strings("'", before=r"(?<!\w)")),  # `don't` in JSX
    *_strings("`", lines=True, inside="${"),
)
LINES = _strings("\" '", lines=True)
HEREDOC = Quote(
    r"""<<<[ \t]{0,9}(?P<quoted>["']?)(\w{1,64})(?P=quoted)\r?\n""",
    *("\n{1}", "", False, "", r"""<<?|<<<[ \t]{0,9}["']?\w{0,64}["']?\r?"""),
)
QUOTES: dict[str, tuple[Quote, ...]] = {
    **dict.fromkeys(("C", "Objective-C", "Solidity"), C),
    **dict.fromkeys(("C++", "Cuda", "Objective-C++"), (RAW_CPP, *C)),
    **dict.fromkeys(("JavaScript", "TypeScript"), SCRIPT),
    "C#": (
        *(COMMENT, ENCLOSED, Quote(r'(?:@\$?|\$@)"', '"', '""', part=r"@\$?|\$@?")),
        *(*_strings('"""', escape=""), *_strings("\" '")),
    ),
    "CSS": (ENCLOSED, *_strings("\" '")),
    "Dart": (COMMENT, NESTED, *_strings("\"\"\" ''' \" '", inside="${")),
    "Go": (COMMENT, ENCLOSED, *_strings("\" '"), *_strings("`", lines=True, escape="")),
    "Groovy": (COMMENT, ENCLOSED, PATTERN, *_strings("''' '"), *_strings('""" "', inside="${")),
    "Java": (COMMENT, ENCLOSED, *_strings('""" " \'')),
    "Kotlin": (COMMENT, NESTED, *_strings('"""', escape="", inside="${"), *_strings('"', inside="${"), *_strings("'")),
    "PHP": (COMMENT, ENCLOSED, HASH, HEREDOC, *LINES, Quote(r"\?>", "<?")),
    "Perl": (
        *(Quote(r"(?<![$&\w])#", line=True), Quote(r"\n=[a-z]", "\n=cut", part=r"\n=?"), PATTERN),
        *_strings("\" '", lines=True, before=r"(?<!\w)"),
    ),
    "R": (
        Quote(r"""(?<!\w)[rR](["'])(-{0,8})([(\[{])""", "{2}{1}{0}", part=r"""[rR](?:["']-{0,8})?"""),
        *(HASH, *LINES, *_strings("`", escape="")),
    ),
    "Rust": (
        *(COMMENT, NESTED, Quote(r'(?<!\w)[bc]?r(#{0,9})"', '"{0}', part="[bc]?r?#{0,9}")),
        *(*_strings('"', lines=True), *CHARACTERS),
    ),
    "Scala": (COMMENT, NESTED, *_strings('"""', escape="", inside="${"), *_strings('"', inside="${"), *CHARACTERS),
    "Swift": (
        *(COMMENT, NESTED, Quote(r'(#{1,9})("""|")', "{1}{0}", part=r'#{1,9}(?:"{1,2})?')),
        *_strings('""" "'),
    ),
    "Python": (HASH, *_strings("\"\"\" ''' \" '")),
}
BRACED = tuple(sorted(QUOTES.keys() - {"Python"}))


class Frame(NamedTuple):
    """A bracket, string or comment that is open: `opening`, and patterns of what it may hold, complete and not."""

    opening: str
    quote: Quote | None
    tokens: re.Pattern[str]
    parts: re.Pattern[str]


def _compiled(tokens: dict[str, str], parts: list[str]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    known = "|".join(f"(?P<{name}>{pattern})" for name, pattern in tokens.items() if pattern)
    return re.compile(known), re.compile(rf"(?:{'|'.join(part for part in parts if part)})\Z")


def _beginnings(text: str) -> list[str]:
    return [re.escape(text[:length]) for length in range(1, len(text))]


@cache
def _in_code(language: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    quotes, python = QUOTES[language], language == "Python"
    tokens = {f"quote{number}": quote.begin for number, quote in enumerate(quotes)}
    fixed = [re.sub(r"^\(\?<!.*?\)|\\", "", quote.begin) for quote in quotes if not quote.part]
    parts = [quote.part for quote in quotes] + [part for text in fixed for part in _beginnings(text)]
    opening, closing = (r"[(\[{]", r"[)\]}]") if python else ("{", "}")
    tokens |= {"open": opening, "close": closing, "word": r"\w+", "skip": r"[ \t]+" + rf"|{ESCAPE}" * python}
    return _compiled(tokens, [*parts, r"\\" * python])


@lru_cache(256)
def _in_quote(quote: Quote, end: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    closing, parts = re.escape(end), [*_beginnings(end), *_beginnings(quote.inside), quote.escape[:2]]
    if end.startswith("\n"):  # a line, perhaps indented
        closing = rf"\n[ \t]{{0,99}}{re.escape(end[1:])}\b"
        parts = [
            r"\n[ \t]{0,99}",
            *(rf"\n[ \t]{{0,99}}{part}" for part in _beginnings(end[1:])),
            rf"\n[ \t]{{0,99}}{re.escape(end[1:])}",
        ]
    others = "".join(re.escape(text[0]) for text in (end, quote.inside, "\\", "\n", quote.escape) if text)
    tokens = {"escape": quote.escape, "end": closing, "inside": re.escape(quote.inside)}
    return _compiled(tokens | {"line": r"\n" * quote.line, "skip": f"[^{others}]+"}, parts)


class Code:
    """A growing text in a language of `QUOTES`: which brackets, strings and comments are open at its end. `text` is how
    it begins; blocks that end in it are not reported. Of a long one only the end is read."""

    def __init__(self, language: str, text: str = ""):
        self._language, self._python, self._quotes = language, language == "Python", QUOTES[language]
        self._stack, self._floor = [Frame("", None, *_in_code(language))], 1
        self._text, self._place = "", 0  # what is kept of the text, and how much of that has been read
        self._fresh, self._last = True, ""  # at the start of a line; the last word or sign
        for _ in self._ends(text[-MAX_READ:]):
            pass
        opened = [place for place, frame in enumerate(self._stack) if frame.opening == "{"]
        self._floor = opened[-1] if opened and not self._python else 1

    @property
    def begun(self) -> str:
        """A short text that begins the same block."""
        opened = "".join(f"{frame.opening} " for frame in self._stack[self._floor :])
        context = ""
        if self._stack[-1].quote is None and not self._python:
            context = self._last if re.match(r"\w", self._text[: self._place][-1:]) else ") " * self._operand()
        line = " " if self._python and not opened and not self._fresh else ""
        return opened + context + line + self._text[self._place :]

    def scan(self, piece: str) -> int | None:
        """The number of characters of the next piece with which a block ends; None: with none of them."""
        return next(self._ends(piece), None)

    def _operand(self) -> bool:
        return (
            bool(self._last) and self._last not in OPERATORS and (self._last[-1].isalnum() or self._last[-1] in "_)]}")
        )

    def _ends(self, piece: str) -> Iterator[int]:
        known, text, place = len(self._text), self._text + piece, self._place
        while place < len(text):
            frame, character = self._stack[-1], text[place]
            if self._python and self._fresh and len(self._stack) == 1:
                self._fresh = character.isspace() and character not in " \t"
                if not character.isspace():
                    yield place + 1 - known
            if frame.parts.match(text, place):
                break
            match = frame.tokens.match(text, place)
            kind = match.lastgroup or "" if match else ""
            if match and kind.startswith("quote"):
                quote = self._quotes[int(kind[5:])]
                if quote is PATTERN and self._operand():
                    match, kind = None, ""
            if match is None:
                self._fresh = character == "\n" and len(self._stack) == 1
                self._last = self._last if character.isspace() else character
                place += 1
                continue
            before, place = place, match.end()
            if kind == "line":
                place = before  # the line's end is the code's
                self._stack.pop()
            elif kind == "word":
                joined = self._last if before and re.match(r"\w", text[before - 1]) else ""
                self._last = (joined + match.group())[-16:]
            elif kind == "close":
                self._last = ")"
                if len(self._stack) > 1:
                    self._stack.pop()
                if not self._python and (frame.opening in ("", "{")) and len(self._stack) <= self._floor:
                    yield place - known
            elif kind == "end":
                self._stack.pop()
                self._last = ")"
            elif kind not in ("skip", "escape"):
                self._open(frame, kind, match.group())
        keep = max(place - 1, 0)
        self._text, self._place = text[keep:], place - keep

    def _open(self, frame: Frame, kind: str, opening: str) -> None:
        quote = None
        if kind.startswith("quote"):
            quote = self._quotes[int(kind[5:])]
            if not quote.end and not quote.line:  # it is complete
                self._last = ")"
                return
        elif kind == "inside" and not opening.endswith("{"):
            quote = CLASS if opening == "[" else frame.quote
        self._last = ""
        if quote is None:
            self._stack.append(Frame(opening, None, *_in_code(self._language)))
            return
        found = re.match(quote.begin, opening)
        groups = [group.translate(MIRRORED) for group in found.groups()] if found else []
        self._stack.append(Frame(opening, quote, *_in_quote(quote, quote.end.format(*groups))))
