"""Licence headers: the comments at the top of a source file that state its owner and terms of use.

A header is a comment above the first line of code that holds a copyright notice or the words of a licence. It is
removed completely, with the blank lines after it. Everything else stays, byte for byte: the `#!` line, an XML
declaration, a doctype, PHP's opening tag, lines that are directives for an editor, a compiler or a checker,
documentation comments such as Rust's `//!`, docstrings, and all other comments.

Nothing is removed unless it is certain to be only a comment. Comments are not found by pygments, since its version
would decide the bytes of every corpus.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class CommentStyle:
    """How a language writes comments: the pattern that opens a comment that ends with the `line` (empty: none), pairs
    of the pattern that opens a block and the text that closes it, and whether blocks nest."""

    line: bytes = b""
    blocks: tuple[tuple[bytes, bytes], ...] = ()
    nested: bool = False


_C_BLOCK = ((rb"/\*", b"*/"),)
_ML_BLOCK = ((rb"\(\*(?!\$)", b"*)"),)
_DASHES = rb"--(?![!#$%&*+./<=>?@\\^|~:])"  # a longer sequence of symbols is an operator in Haskell and its relatives
_HASKELL = CommentStyle(_DASHES, ((rb"\{-(?!#)", b"-}"),), nested=True)
_XML_BLOCK = ((rb"<!--(?!\[if|-?>)", b"-->"),)

_STYLES: tuple[tuple[CommentStyle, str], ...] = (
    (
        CommentStyle(rb"//", _C_BLOCK),
        "C++,Java,JavaScript,C,Go,TypeScript,Objective-C,Cuda,C#,Objective-C++,Groovy,ActionScript,Solidity,Stan,GLSL,"
        "ANTLR,Verilog,Protocol Buffer,Bluespec,SystemVerilog,Zig,Assembly",
    ),
    (CommentStyle(rb"//", _C_BLOCK, nested=True), "Scala,Kotlin,Dart,Swift"),
    (CommentStyle(rb"//(?![/!])", ((rb"/\*(?!!)", b"*/"),), nested=True), "Rust"),
    (CommentStyle(rb"//|#(?!\[)", _C_BLOCK), "PHP,Thrift"),
    (CommentStyle(rb"//|--", _C_BLOCK), "Alloy"),
    (CommentStyle(b"", _C_BLOCK), "CSS,SAS"),
    (CommentStyle(rb"//|\*", _C_BLOCK), "Stata"),
    (CommentStyle(rb"#(?!')"), "Python,Shell,R,Perl,GDScript,Elixir,SPARQL,Dockerfile,YAML,Makefile,TCSH,Maple,AWK"),
    (CommentStyle(rb"#", ((rb"=begin\b", b"\n=end"),)), "Ruby"),
    (CommentStyle(rb"#", ((rb"#=", b"=#"),), nested=True), "Julia"),
    (CommentStyle(rb"#", ((rb"<#", b"#>"),)), "PowerShell"),
    (CommentStyle(rb"#(?!\[=*\[)", ((rb"#\[\[", b"]]"),)), "CMake"),
    (CommentStyle(rb"#", ((rb"###(?!#)", b"###"),)), "CoffeeScript"),
    (CommentStyle(rb"--", ((rb"/\*(?![!+])", b"*/"),)), "SQL"),
    (CommentStyle(rb"--(?!\[=*\[)", ((rb"--\[\[", b"]]"),)), "Lua"),
    (CommentStyle(rb"--"), "VHDL,Ada"),
    (CommentStyle(rb"--|#", _ML_BLOCK, nested=True), "AppleScript"),
    (_HASKELL, "Haskell,Elm,Idris,Agda"),
    (CommentStyle(rb"--", ((rb"/-(?![-!])", b"-/"),), nested=True), "Lean"),
    (CommentStyle(rb";", ((rb"#\|", b"|#"),), nested=True), "Lisp,Scheme,Racket,Common Lisp"),
    (CommentStyle(rb";"), "Clojure,Emacs Lisp"),
    (CommentStyle(rb"%(?![ \t]*\\|<)"), "TeX"),
    (CommentStyle(rb"%"), "Erlang"),
    (CommentStyle(rb"%", ((rb"%\{(?=[ \t]*\r?\n)", b"\n%}"),)), "Matlab"),
    (CommentStyle(rb"%", _C_BLOCK), "Prolog"),
    (CommentStyle(rb"'"), "Visual Basic,Basic,Excel"),
    (CommentStyle(rb"[!*]"), "Fortran"),
    (CommentStyle(rb"\*"), "Abap"),
    (CommentStyle(rb"\*>"), "Cobol"),
    (CommentStyle(rb"//", ((rb"\{(?!\$)", b"}"), *_ML_BLOCK), nested=True), "Pascal,Delphi"),
    (CommentStyle(rb"//", _ML_BLOCK, nested=True), "F#"),
    (CommentStyle(b"", _ML_BLOCK, nested=True), "OCaml,Standard ML,Isabelle,Mathematica,Augeas"),
    (CommentStyle(b"", _XML_BLOCK), "HTML,Vue,Markdown,XSLT,RMarkdown"),
    (CommentStyle(b"", ((rb"<%--", b"--%>"), *_XML_BLOCK)), "Java Server Pages"),
    (CommentStyle(b"", ((rb'"', b'"'),)), "Smalltalk"),
)
STYLES: dict[str, CommentStyle] = {name: style for style, names in _STYLES for name in names.split(",")}
"""Comment styles by canonical name of the language; literate languages and reStructuredText have none."""

_OPENING = re.compile(
    rb"\A(?:\xef\xbb\xbf)?(?:#!(?!\[)[^\n]*\n)?(?:<\?xml\b[^>]*\?>\s*)?(?:<!DOCTYPE\b[^>\[]*>\s*)?"
    rb"(?:<\?php\b\s*)?(?:@charset\b[^\n;]*;\s*)?",
    re.IGNORECASE,
)
# Text after a comment's opening that makes it a directive for an editor, a compiler or a checker.
_DIRECTIVE = (
    rb"[^\n]{0,60}?(?:-\*-|\b(?:file|en)?coding[:=]|\bvim?:)|[ \t]*(?:go:\w|\+build\b|cython:|distutils:|pylint:|"
    rb"flake8:|ruff:|noqa\b|fmt:|isort:|mypy:|pyright:|type:|yapf:|shellcheck\b|frozen_string_literal:|syntax[ \t]*=|"
    rb"escape[ \t]*=|requires\b|eslint|jshint\b|jslint\b|jscs:|global[ \t]|@ts-|@flow\b|@jsx\b|standard\b|prettier|"
    rb"istanbul|rubocop:|typed:|yaml-language-server:|cloud-config\b|"
    rb"swift-tools-|clang-format|NOLINT|NOSONAR|!TEX\b)|[$&]|(?:dir|dec)\$|[ \t]*@(?:generated|noflow)\b"
)
_LICENCE = re.compile(
    rb"\bcopyright(?:s|ed)?\b[^\n]{0,80}?(?:\b(?:19|20)\d\d\b|\(c\)|\xc2\xa9|\bauthors?\b|\bcontributors?\b|"
    rb"\binc\b|\bltd\b|\breserved\b)|\bcopyright(?:ed)?[ \t]+by\b|"
    rb"(?:\(c\)|\xc2\xa9)[^\n]{0,20}?(?:\b(?:19|20)\d\d\b|\bcopyright\b)|"
    rb"\bspdx-(?:license-identifier|filecopyrighttext)\b|\ball rights reserved\b|"
    rb"\b(?:re)?licen[cs]ed[ \t]+(?:\w+[ \t]+){0,3}?(?:under|to)\b|"
    rb"\b(?:apache|mit|bsd|isc|zlib|boost software|mozilla public|eclipse public|python software foundation|psf|"
    rb"general public|creative commons)[ \t-]+(?:style[ \t]+)?licen[cs]e|"
    rb"\bpermission is hereby granted\b|\bpermission to use, copy\b|\bredistribution and use in source\b|"
    rb"\bthis (?:\w+ ){1,3}is (?:\w+ ){0,2}free software\b|\bcan be found in the licen[cs]e\b|"
    rb"\b(?:governed|covered) by (?:\w+ ){0,3}(?:\S+ )?licen[cs]e\b|"
    rb"\bsee (?:the )?(?:file )?(?:\S+/)?licen[cs]e(?:\.\w+)?(?: file)?\b(?! \w)|"
    rb"\b(?:placed in|released into|in) the public domain\b|\bwithout (?:any )?warrant(?:y|ies)\b|"
    rb"\bsubject to the (?:terms|conditions) (?:of|and)\b|\bterms and conditions of the\b",
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
    """The patterns of a style: `run` matches consecutive one-line comments, `directive` a line with a directive.
    `code` holds bytes with which no comment begins."""

    run: re.Pattern[bytes]
    directive: re.Pattern[bytes]
    blocks: tuple[tuple[re.Pattern[bytes], bytes], ...]
    nested: bool
    code: frozenset[int]


@functools.cache
def _patterns(language: str) -> _Patterns | None:
    style = STYLES.get(language)
    if style is None:
        return None
    starts = [rb"(?:%s)" % opening for opening, _ in style.blocks]
    blocks = tuple((re.compile(opening), closing) for opening, closing in style.blocks)
    one_line = [
        rb"%s(%%s)(?:(?!%s|%s)[^\n])*%s[ \t]*" % (start, re.escape(closing), start, re.escape(closing))
        for start, (_, closing) in zip(starts, style.blocks, strict=True)
        if not closing.startswith(b"\n")
    ]
    if style.line:
        one_line.append(rb"(?!%s)(?:%s)(%%s)[^\n]*" % (b"|".join(starts) or rb"(?!)", style.line))
    # `(%s)` is a placeholder for the lookahead that accepts or rejects directives.
    comment = rb"[ \t]*(?:%s)(?:\r?\n|\Z)" % b"|".join(one_line)
    run = rb"(?:%s)+" % comment.replace(b"(%s)", rb"(?!%s)" % _DIRECTIVE)
    directive = comment.replace(b"(%s)", rb"(?=%s)" % _DIRECTIVE)
    openings = re.compile(b"|".join([*starts, *([style.line] if style.line else [])]))
    code = frozenset(byte for byte in _CODE if not any(openings.match(bytes([byte]) + more) for more in _AFTER))
    return _Patterns(re.compile(run, re.IGNORECASE), re.compile(directive, re.IGNORECASE), blocks, style.nested, code)


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
        if not directive and _LICENCE.search(comment) and not _DOUBTFUL.search(comment):
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
