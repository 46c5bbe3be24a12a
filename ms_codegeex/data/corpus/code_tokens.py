"""Code without what copies of it change: names, literals, comments and layout.

The tokens are those of pygments. A megabyte of Python takes about four seconds, of C or HTML one to two, against less
than 0.2 by words.
"""

from __future__ import annotations

import functools
import re
from typing import Any

# Some lexers (C, C++, Java, C#, Scala, HTML, Makefile) take quadratic time or worse for long runs of the first, or for
# up to four symbols and spaces again and again: ten thousand blank lines take seconds. The longest runs of usual files,
# prose in HTML and TeX too, have a few hundred characters.
_RUN = re.compile(r"[\w\s*.\[\]<>$?]+|(\W{1,4})\1+")
_LONGEST_RUN = 1000
_WORD = re.compile(r"\w+")


def code_tokens(data: bytes, language: str) -> list[bytes] | None:
    """The tokens of a text in UTF-8, with `i` for each name, `0` for each number and `s` for each part of a string or
    several in a row. Keywords, operators, built-in names and the words of text that is not code, as in HTML, stay;
    comments and white space are left out. None if pygments does not know the language (a canonical name), if it is
    prose, or if pygments might take too long for the text."""
    lexer = _lexer(language)
    if lexer is None:
        return None
    from pygments.token import Comment, Name, Number, String, Text

    text = data.decode("utf-8", "replace").replace("\r\n", "\n")
    if any(run.end() - run.start() > _LONGEST_RUN for run in _RUN.finditer(text)):
        return None
    tokens, last = [], Text
    for _, kind, value in lexer.get_tokens_unprocessed(text + "\n"):  # a last comment without it is looked for anywhere
        if kind in Comment and kind not in Comment.Preproc:
            continue
        if kind in Text:
            words = _WORD.findall(value)
            if not words:
                continue
            tokens += [word.encode() for word in words]
        elif kind in String:
            tokens += [b"s"] if last not in String else []
        elif kind in Number or (kind in Name and kind not in Name.Builtin):
            tokens.append(b"0" if kind in Number else b"i")
        else:
            tokens.append(value.strip().encode())
        last = kind
    return tokens


@functools.cache
def _lexer(language: str) -> Any | None:
    from pygments.lexers import find_lexer_class_by_name
    from pygments.util import ClassNotFound

    try:
        return None if language in ("", "Markdown", "reStructuredText") else find_lexer_class_by_name(language)()
    except ClassNotFound:
        return None
