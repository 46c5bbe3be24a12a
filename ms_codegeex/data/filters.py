"""Which texts are worth training on: size and content rules, with the published ones as presets."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass

from ms_codegeex.errors import UserError

_GENERATED = re.compile(
    rb"@generated\b|\b(?:auto-?|automatically )generated\b|"
    rb"\bgenerated\b[^\n]{0,80}\bdo not (?:edit|modify)|"
    rb"\bdo not (?:edit|modify)[^\n]{0,80}\bgenerated\b",
    re.IGNORECASE,
)
_GENERATED_HEAD = 1000  # such notices stand at the top; further down the words are about something else
_WHITE = bytes(byte for byte in range(128) if chr(byte).isspace())
_NOT_LETTERS = bytes(byte for byte in range(256) if not chr(byte).isalpha() or byte > 0x7F)
_NOT_DIGITS = bytes(byte for byte in range(256) if byte not in b"0123456789abcdefABCDEF")
_ASCII_RUN = re.compile(r"[\x00-\x7f]+")


@dataclass(frozen=True)
class Rules:
    """When a text is dropped. The default keeps a library's small modules, which the papers' limits would lose.

    Attributes:
        min_bytes: least size in bytes of UTF-8.
        max_file_bytes: largest size in bytes, of a file or of a record's text.
        max_mean_line: largest mean of characters per line, newlines not counted.
        max_line: most characters of the longest line.
        min_alphabetic: least share of letters among the characters that are not white space, so that deep indentation
            does not count against a text.
        max_digits: largest share of decimal and hexadecimal digits among these.
        generated: whether texts that say at their top that a program wrote them are kept.
    """

    min_bytes: int = 1
    max_file_bytes: int = 1_000_000
    max_mean_line: float = 100.0
    min_alphabetic: float = 0.4
    max_line: int | None = None
    max_digits: float = 1.0
    generated: bool = False


PRESETS: dict[str, Rules] = {
    "default": Rules(),
    # CodeGeeX paper, section 3.1: at most 100 characters per line, 40 % letters, 1 KB to 100 KB, nothing generated.
    "codegeex": Rules(min_bytes=1024, max_file_bytes=102_400),
    # CodeGen paper, appendix A: mean line below 100 characters, no line above 1000, at most 90 % digits.
    "codegen": Rules(
        max_file_bytes=1 << 40,
        max_mean_line=math.nextafter(100.0, 0.0),
        min_alphabetic=0.0,
        max_line=1000,
        max_digits=0.9,
        generated=True,
    ),
    "none": Rules(max_file_bytes=1 << 40, max_mean_line=math.inf, min_alphabetic=0.0, generated=True),
}


def preset(name: str) -> Rules:
    """The rules called `name`; an unknown name is a `UserError`."""
    if name not in PRESETS:
        raise UserError(f"filter preset {name!r}: expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


def size_rejection(size: int, rules: Rules) -> str | None:
    """Why a text of `size` bytes is dropped unread, or None."""
    if size == 0:
        return "empty"
    if size < rules.min_bytes:
        return "too small"
    return "too large" if size > rules.max_file_bytes else None


def rejection(data: bytes, rules: Rules) -> str | None:
    """Why a text with these bytes is dropped, or None when it is kept. Its size is not judged here.

    Returns:
        `binary`, `not UTF-8`, `empty`, `long lines`, `few letters`, `many digits` or `generated`.
    """
    if b"\0" in data:
        return "binary"
    if data.isascii():
        text, length, visible, others = None, len(data), len(data.translate(None, _WHITE)), 0
    else:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            return "not UTF-8"
        length, visible = len(text), len("".join(text.split()))
        # Most texts repeat few characters outside ASCII, so these are counted before they are looked at one by one.
        others = sum(n for char, n in Counter(_ASCII_RUN.sub("", text)).items() if char.isalpha())
    if not visible:
        return "empty"
    breaks = data.count(b"\n")
    if length - breaks > rules.max_mean_line * (breaks + (not data.endswith(b"\n"))):
        return "long lines"
    if rules.max_line is not None and _longest_line(data if text is None else text) > rules.max_line:
        return "long lines"
    if rules.min_alphabetic > 0 and len(data.translate(None, _NOT_LETTERS)) + others < rules.min_alphabetic * visible:
        return "few letters"
    if rules.max_digits < 1 and len(data.translate(None, _NOT_DIGITS)) > rules.max_digits * visible:
        return "many digits"
    return "generated" if not rules.generated and _GENERATED.search(data[:_GENERATED_HEAD]) else None


def _longest_line(text: bytes | str) -> int:
    return max(map(len, text.split(b"\n" if isinstance(text, bytes) else "\n")))
