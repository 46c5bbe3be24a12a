"""Stub."""

from __future__ import annotations

from collections.abc import Sequence

from ms_codegeex.evaluation.replies.blocks import Asked, Code


def is_whole(code: str, asked: Asked) -> bool:
    """Stub."""
    return False


def program(codes: Sequence[str], asked: Asked) -> Code | None:
    """Stub."""
    return None
