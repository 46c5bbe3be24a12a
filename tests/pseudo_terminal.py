"""A command in a pseudo-terminal, as a user runs it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

from conftest import ROOT

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]")
SECONDS = 120.0  # for an expected text, on a machine that does other things


class Terminal:
    """`ms-codegeex ARGUMENTS…` in a terminal of so many columns and 24 lines. `shown` is all that it wrote."""

    def __init__(self, *arguments: object, home: Path, columns: int = 100):
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(home), "TERM": "xterm-256color"}
        for name in ("XDG_STATE_HOME", "NO_COLOR", "COLUMNS", "LINES", "INPUTRC"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ms_codegeex.cli", *map(str, arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.shown, self._read = "", 0  # `_read`: how much of it has been expected

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self._master, text.encode())

    def expect(self, words: str) -> str:
        """Wait for words that come after those that were expected before; what came up to them, without colours.

        A line of code comes twice, the second time in colour.
        """
        until = time.monotonic() + SECONDS
        while (came := self._found(words)) is None:
            unread = self._plain()[self._read :]
            assert time.monotonic() < until and self._more(until), f"{words!r} is not in {unread!r}"
        return came

    def end(self) -> int:
        """Wait for the end of the command; its exit status."""
        while self._more(time.monotonic() + SECONDS):
            pass
        return self.process.wait(SECONDS)

    def close(self) -> None:
        """Hang up."""
        os.close(self._master)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def _plain(self) -> str:
        return ESCAPES.sub("", self.shown).replace("\r\n", "\n")

    def _found(self, words: str) -> str | None:
        plain = self._plain()
        place = plain.find(words, self._read)
        if place < 0:
            return None
        came, self._read = plain[self._read : place + len(words)], place + len(words)
        return came

    def _more(self, until: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(until - time.monotonic(), 0))
        if not ready:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the command has ended
            return False
        self.shown += data.decode("utf-8", "replace")
        return bool(data)
