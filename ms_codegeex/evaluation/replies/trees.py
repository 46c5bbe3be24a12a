"""Stub."""

from __future__ import annotations

from collections.abc import Sequence

from ms_codegeex.evaluation.replies.blocks import Asked, ReplyCode


def is_whole(code: str, asked: Asked) -> bool:
    """Stub."""
    return False


def program(codes: Sequence[str], asked: Asked) -> ReplyCode | None:
    """Stub."""
    return None
