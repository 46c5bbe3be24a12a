"""The history of `chat`: lines typed in earlier sessions, in a file that only its owner can read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LINES = 1000


def history_path() -> Path:
    """`ms_codegeex/chat_history` in `$XDG_STATE_HOME` or `~/.local/state`; RuntimeError without a home directory."""
    base = os.environ.get("XDG_STATE_HOME", "")
    state = Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state"
    return state / "ms_codegeex" / "chat_history"


@contextmanager
def line_history(keep: bool) -> Iterator[str]:
    """Let `input` edit lines and recall earlier ones. With `keep`, lines of earlier sessions are loaded and new ones
    are saved. Yields the reason if they cannot be saved, else an empty text."""
    try:
        import readline
    except ImportError:  # a Python without readline can still read lines
        yield "this Python has no readline, so earlier lines are not kept"
        return
    try:
        path = _made() if keep else None
        if path is not None:
            readline.read_history_file(path)
        reason = ""
    except (OSError, RuntimeError) as error:
        path, reason = None, f"earlier lines are not kept: {error}"
    readline.set_history_length(LINES)
    before = readline.get_current_history_length()
    try:
        yield reason
    finally:
        added = readline.get_current_history_length() - before
        if path is not None and added > 0:
            readline.append_history_file(added, path)


def _made() -> Path:
    path = history_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600))
    path.chmod(0o600)
    return path
