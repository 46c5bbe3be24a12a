"""Code without what copies of it change: names, literals, comments and layout.

The tokens are those of pygments. It takes a second or more for a megabyte, many times as long as everything else.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

NAME, NUMBER, STRING = b"i", b"0", b"s"


def code_tokens(data: bytes, language: str) -> list[bytes] | None:
    """The tokens of a text, with each name, number and string replaced by one that stands for all of its kind.

    Keywords, operators and built-in names stay. Comments and white space are left out; parts of a string are one token.

    Args:
        data: UTF-8.
        language: canonical name.

    Returns:
        The tokens in order; None if pygments does not know the language, or if it is prose.
    """
    lexer = _lexer(language)
    return None if lexer is None else list(_tokens(lexer, data.decode("utf-8", "replace").replace("\r\n", "\n")))


def _tokens(lexer: Any, text: str) -> Iterator[bytes]:
    from pygments.token import Comment, Name, Number, String, Text

    last = None
    for _, kind, value in lexer.get_tokens_unprocessed(text):
        if kind in Text or (kind in Comment and kind not in Comment.Preproc):
            continue
        if kind in String:
            if last is not String:
                yield STRING
            last = String
            continue
        last = kind
        if kind in Number:
            yield NUMBER
        else:
            yield NAME if kind in Name and kind not in Name.Builtin else value.strip().encode()


@functools.cache
def _lexer(language: str) -> Any | None:
    from pygments.lexers import find_lexer_class_by_name
    from pygments.util import ClassNotFound

    if not language or language in ("Markdown", "reStructuredText"):
        return None
    try:
        return find_lexer_class_by_name(language)()
    except ClassNotFound:
        return None
