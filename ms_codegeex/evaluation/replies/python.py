"""Python programs in a chat model's reply, read by `ast`; no reply is ever executed here."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from ms_codegeex.evaluation.replies.blocks import Asked, ReplyCode


def is_whole(code: str, asked: Asked) -> bool:
    """Stub."""
    try:
        return f"def {asked.entry_point}" in code and bool(ast.parse(code))
    except SyntaxError:
        return False


def program(codes: Sequence[str], asked: Asked) -> ReplyCode | None:
    """Stub."""
    return next((ReplyCode(code, True) for code in codes if is_whole(code, asked)), None)
