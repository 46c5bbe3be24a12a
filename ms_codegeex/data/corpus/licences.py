"""Licence headers: the comments at the top of a source file that state its owner and terms of use.

A header is a comment above the first line of code that holds a copyright notice or the words of a licence. It is
removed completely, with the blank lines after it. Everything else stays, byte for byte: the `#!` line, an XML
declaration, a doctype, PHP's opening tag, lines that are directives for an editor, a compiler or a checker,
documentation comments such as Rust's `//!`, docstrings, and all other comments.

Nothing is removed unless it is certain to be only a comment. Comments are not found by pygments, since its version
would decide the bytes of every corpus. The styles of comments and the words of licences are in `rules/licences.yaml`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ms_codegeex.base.shipped import shipped_table

RULES = Path(__file__).parent / "rules" / "licences.yaml"
_OPENING = re.compile(
    rb"\A(?:\xef\xbb\xbf)?(?:#!(?!\[)[^\n]*\n)?(?:<\?xml\b[^>]*\?>\s*)?(?:<!DOCTYPE\b[^>\[]*>\s*)?"
    rb"(?:<\?php\b\s*)?(?:@charset\b[^\n;]*;\s*)?",
    re.IGNORECASE,
)
# Line ends that only some languages recognise, continued lines, and unusual ends of a comment: keep the comment.
_DOUBTFUL = re.compile(rb"\r(?!\n)|\\[ \t]*\r?\n|[\x0b\x0c]|\xe2\x80[\xa8\xa9]|\xc2\x85|--!>|\?>")
_BLANK = re.compile(rb"(?:[ \t]*\r?\n)*")
_INDENTATION = re.compile(rb"[ \t]*")
_REST_OF_LINE = re.compile(rb"[ \t]*(?:\r?\n|\Z)")
# Bytes with which most files without a header begin. An opening is a few symbols, of which the first one decides.
_CODE = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_\"'"
_AFTER = (b"", b" ", b"\n", b"a", b"1", b'"', b"''", b'""', b"*", b"-", b"/")


@dataclass(frozen=True)
class _Patterns:
    """The patterns of a language's style: `run` matches consecutive one-line comments, `directive` a line with a
    directive, `header` a part of a licence header. `code` holds bytes with which no comment begins."""

    run: re.Pattern[bytes]
    directive: re.Pattern[bytes]
    header: re.Pattern[bytes]
    blocks: tuple[tuple[re.Pattern[bytes], bytes], ...]
    nested: bool
    code: frozenset[int]


@functools.cache
def _patterns(language: str) -> _Patterns | None:
    rules = shipped_table(RULES)
    style = next((style for style in rules["styles"] if language in style["languages"]), None)
    if style is None:
        return None
    pairs = [(opening.encode(), closing.encode()) for opening, closing in style.get("blocks", ())]
    starts = [rb"(?:%s)" % opening for opening, _ in pairs]
    one_line = [
        rb"%s(%%s)(?:(?!%s|%s)[^\n])*%s[ \t]*" % (start, re.escape(closing), start, re.escape(closing))
        for start, (_, closing) in zip(starts, pairs, strict=True)
        if not closing.startswith(b"\n")
    ]
    lines = [style["line"].encode()] if "line" in style else []
    one_line += [rb"(?!%s)(?:%s)(%%s)[^\n]*" % (b"|".join(starts) or rb"(?!)", line) for line in lines]
    # `(%s)` is a placeholder for the lookahead that accepts or rejects directives.
    comment = rb"[ \t]*(?:%s)(?:\r?\n|\Z)" % b"|".join(one_line)
    directives = "|".join(rules["directives"]).encode()
    run = rb"(?:%s)+" % comment.replace(b"(%s)", rb"(?!%s)" % directives)
    directive = comment.replace(b"(%s)", rb"(?=%s)" % directives)
    openings = re.compile(b"|".join([*starts, *lines]))
    code = frozenset(byte for byte in _CODE if not any(openings.match(bytes([byte]) + more) for more in _AFTER))
    header = "|".join(rules["headers"]).encode()
    run, directive, header = (re.compile(pattern, re.IGNORECASE) for pattern in (run, directive, header))
    blocks = tuple((re.compile(opening), closing) for opening, closing in pairs)
    return _Patterns(run, directive, header, blocks, style.get("nested", False), code)


def strip_licence(data: bytes, language: str) -> bytes:
    """A source file in UTF-8 without its licence headers, or `data` itself if it has none or the language, a canonical
    name, has no comment style."""
    patterns = _patterns(language)
    if patterns is None or (data[:1] and data[0] in patterns.code):
        return data
    # without a header, an XML declaration may begin the file, and more headers follow it
    while headers := list(_headers(data, patterns)):
        starts, ends = [0, *(stop for _, stop in headers)], [*(start for start, _ in headers), len(data)]
        data = b"".join(data[start:end] for start, end in zip(starts, ends, strict=True))
    return data


def _headers(data: bytes, patterns: _Patterns) -> Iterator[tuple[int, int]]:
    """Yield the bounds of each licence header, including the blank lines after it."""
    offset = _OPENING.match(data).end()
    while offset < len(data):
        offset = _BLANK.match(data, offset).end()
        directive = patterns.directive.match(data, offset)
        end = directive.end() if directive else _comment_end(data, offset, patterns)
        if end is None or end == offset:
            return
        comment = data[offset:end]
        if not directive and patterns.header.search(comment) and not _DOUBTFUL.search(comment):
            yield offset, _BLANK.match(data, end).end()
        offset = end


def _comment_end(data: bytes, offset: int, patterns: _Patterns) -> int | None:
    """End of the last line of the comment at `offset`; None if there is no comment or that line also holds code."""
    run = patterns.run.match(data, offset)
    if run:
        return run.end()
    offset = _INDENTATION.match(data, offset).end()
    for opening, closing in patterns.blocks:
        start = opening.match(data, offset)
        if start:
            end = _closed(data, start.end(), opening, closing, patterns.nested)
            rest = None if end is None else _REST_OF_LINE.match(data, end)
            return rest.end() if rest else None
    return None


def _closed(data: bytes, offset: int, opening: re.Pattern[bytes], closing: bytes, nested: bool) -> int | None:
    """End of the comment whose text begins at `offset`; None if it is not closed."""
    depth, end = 1, -1
    while depth:
        end = data.find(closing, offset) if end < offset else end  # an inner opening leaves it as it is
        if end < 0:
            return None
        inner = opening.search(data, offset, end) if nested else None
        depth, offset = (depth + 1, inner.end()) if inner else (depth - 1, end + len(closing))
    return offset
