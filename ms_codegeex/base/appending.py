"""Append lines to a file, even when its disk is full at times."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

MAX_WAITING = 1 << 20  # bytes of lines kept in memory while the disk is full


class AppendedFile:
    """A file, or an open descriptor, to which lines are appended. Lines that do not fit on a full disk are kept, up to
    `MAX_WAITING` bytes, and written once there is room; further lines are lost. If a killed process left the last line
    incomplete, new text starts on a new line. Raises `OSError` only if the file cannot be opened."""

    def __init__(self, path: Path | int):
        self.path, self._pending = path, b""
        if not isinstance(path, int) and path.exists() and _incomplete(path):
            self._pending = b"\n"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._descriptor = os.dup(path) if isinstance(path, int) else os.open(path, flags, 0o666)

    def write(self, line: str) -> OSError | None:
        """Append `line`, given without its line break. If it has to wait or is lost, return the error."""
        data = line.encode() + b"\n"
        if len(self._pending) + len(data) <= MAX_WAITING or not self._pending:
            self._pending += data
        try:
            while self._pending:
                self._pending = self._pending[os.write(self._descriptor, self._pending) :]
        except OSError as error:
            return error
        return None

    def close(self) -> None:
        os.close(self._descriptor)


def _incomplete(path: Path) -> bool:
    with contextlib.suppress(OSError):  # an unreadable file counts as complete
        if path.is_file() and path.stat().st_size:
            with path.open("rb") as stream:
                stream.seek(-1, os.SEEK_END)
                return stream.read(1) != b"\n"
    return False
