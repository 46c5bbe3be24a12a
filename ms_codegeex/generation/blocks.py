"""Finds where blocks of code end, while the text grows: at braces or lines outside strings and comments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.yaml_reading import read_yaml_file
from ms_codegeex.data.languages import find_language
from ms_codegeex.generation.stopping import Rule, scanned

FILE = Path(__file__).with_name("quotes.yaml")
ESCAPE = r"\\[\s\S]"
MIRRORED = str.maketrans("([{", ")]}")
MAX_READ = 1 << 16  # characters of a prompt that are read; takes a tenth of a second
OPERATORS = (  # after these words, a slash begins a pattern, not a division
    *("return", "typeof", "case", "in", "of", "and", "or", "not", "if", "unless", "while", "split", "grep"),
    *("m", "s", "y", "tr", "qr"),
)


@dataclass(frozen=True)
class Quote:
    """A kind of string, comment or pattern, in which braces do not count. The fields are explained in `quotes.yaml`."""

    begin: str
    end: str = ""
    escape: str = ""
    line: bool = False
    inside: str = ""
    part: str = ""


@cache
def quotes() -> dict[str, tuple[Quote, ...]]:
    """Return the kinds of strings and comments of each supported language."""
    content = read_yaml_file(FILE)
    known = {name: Quote(**values) for name, values in content["quotes"].items()}
    return {language: tuple(known[name] for name in names) for language, names in content["languages"].items()}


CLASS = Quote(r"\[", "]", ESCAPE, True)  # a character class in a regular expression


class Frame(NamedTuple):
    """An open bracket, string or comment: its `opening` text, regular expressions for complete `tokens` inside it, and
    `parts` for tokens that are still incomplete at the end of the text."""

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
    known, python = quotes()[language], language == "Python"
    tokens = {f"quote{number}": quote.begin for number, quote in enumerate(known)}
    fixed = [re.sub(r"^\(\?<!.*?\)|\\", "", quote.begin) for quote in known if not quote.part]
    parts = [quote.part for quote in known] + [part for text in fixed for part in _beginnings(text)]
    opening, closing = (r"[(\[{]", r"[)\]}]") if python else ("{", "}")
    tokens |= {"open": opening, "close": closing, "word": r"\w+", "skip": r"[ \t]+" + rf"|{ESCAPE}" * python}
    return _compiled(tokens, [*parts, r"\\" * python])


@lru_cache(256)
def _in_quote(quote: Quote, end: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    closing, parts = re.escape(end), [*_beginnings(end), *_beginnings(quote.inside), quote.escape[:2]]
    if end.startswith("\n"):  # the end is a line of its own, which may be indented
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
    """Tracks the open brackets, strings and comments at the end of a growing text in a language of `quotes`. `text` is
    its beginning, of which only the last `MAX_READ` characters are read; blocks that end in it are not reported."""

    def __init__(self, language: str, text: str = ""):
        self._language, self._python, self._quotes = language, language == "Python", quotes()[language]
        self._stack, self._floor = [Frame("", None, *_in_code(language))], 1
        self._text, self._place = "", 0  # the retained end of the text, and how much of it has been read
        self._fresh, self._last = True, ""  # whether a line starts here; the last word or sign
        for _ in self._ends(text[-MAX_READ:]):
            pass
        opened = [place for place, frame in enumerate(self._stack) if frame.opening == "{"]
        self._floor = opened[-1] if opened and not self._python else 1

    @property
    def begun(self) -> str:
        """A short text that leaves the same brackets, strings and comments of the block open."""
        opened = "".join(f"{frame.opening} " for frame in self._stack[self._floor :])
        context = ""
        if self._stack[-1].quote is None and not self._python:
            context = self._last if re.match(r"\w", self._text[: self._place][-1:]) else ") " * self._operand()
        line = " " if self._python and not opened and not self._fresh else ""
        return opened + context + line + self._text[self._place :]

    def scan(self, piece: str) -> int | None:
        """Return the number of characters of the next piece after which a block ends, or None if none ends in it."""
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
                if quote.begin == "/" and self._operand():
                    match, kind = None, ""
            if match is None:
                self._fresh = character == "\n" and len(self._stack) == 1
                self._last = self._last if character.isspace() else character
                place += 1
                continue
            before, place = place, match.end()
            if kind == "line":
                place = before  # the line break belongs to the surrounding code
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
            if not quote.end and not quote.line:  # complete already
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


def block(language: str, prompt: str) -> Rule:
    """Return a stop rule for the block that `prompt` began. In Python it ends before a line that starts in the first
    column; elsewhere with the brace that closes the innermost open one, or the first that the text opens. Strings and
    comments do not count. Raises `UserError` for an unsupported language."""
    name = find_language(language).name
    if name not in quotes():
        raise UserError(f"--stop-at: blocks of {name} are not known; give one of {', '.join(sorted(quotes()))}")
    begun = Code(name, prompt).begun
    rule = scanned(lambda: Code(name, begun).scan, dropped=int(name == "Python"))
    return replace(rule, of_block=(name, begun))
