"""Code without what copies of it change: names, literals, comments and layout.

The tokens are those of pygments. It takes a second or more for a megabyte, many times as long as everything else.
"""

from __future__ import annotations

import functools
from typing import Any


def code_tokens(data: bytes, language: str) -> list[bytes] | None:
    """The tokens of a text in UTF-8, with `i` for each name, `0` for each number and `s` for each part of a string or
    several in a row. Keywords, operators and built-in names stay; comments and white space are left out. None if
    pygments does not know the language (a canonical name), or if it is prose."""
    lexer = _lexer(language)
    if lexer is None:
        return None
    from pygments.token import Comment, Name, Number, String, Text

    tokens, last = [], Text
    for _, kind, value in lexer.get_tokens_unprocessed(data.decode("utf-8", "replace").replace("\r\n", "\n")):
        if kind in Text or (kind in Comment and kind not in Comment.Preproc):
            continue
        if kind in String:
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
