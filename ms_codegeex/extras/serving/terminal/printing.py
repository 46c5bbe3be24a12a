"""Output of an answer while it comes. On a terminal each complete line is coloured; elsewhere the bare text is written.

A model can write anything, so control characters are spelled out on a terminal and have no effect.
"""

from __future__ import annotations

import io
import sys

from rich.cells import cell_len
from rich.console import Console
from rich.syntax import Syntax

from ms_codegeex.base.printing import visible

THEME = "ansi_dark"  # the terminal's own colours
TAB = 4


class _Console(Console):
    """Without rich's own answer to a reader who has gone, which is exit status 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console_here() -> Console:
    """The console on standard output. Characters that its encoding lacks are spelled out."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return _Console(highlight=False)


class Printer:
    """Writes code in `language` (empty: no colours) that continues the text `before`. On a terminal: the pieces as they
    come, and then each complete line again in colour, over them. `echoed`: `before` is on the screen already."""

    def __init__(self, console: Console, language: str = "", before: str = "", echoed: bool = False):
        self._console, self._lexer = console, _lexer(language)
        self._before = visible(before).expandtabs(TAB)  # the text before the current line
        self._echoed = self._before.rpartition("\n")[2] if echoed else ""  # what is in front of the current line
        self._line = self._shown = ""  # the current line, and the part of it on the screen

    def feed(self, piece: str) -> None:
        """Write the next piece."""
        if self._console.is_terminal:
            *lines, last = visible(piece).split("\n")
            for part in lines:
                self._add(part)
                self._colour()
                self._write("\n")
                self._before += f"{self._shown}\n"
                self._echoed = self._line = self._shown = ""
            self._add(last)
        else:
            self._write(piece)
        self._console.file.flush()

    def end(self) -> None:
        """End the text. On a terminal the last line is coloured, and the cursor moves to a new line."""
        if self._line:
            self._colour()
            self._write("\n")
        self._console.file.flush()

    def _add(self, part: str) -> None:
        self._line += part
        display = self._line.expandtabs(TAB)
        self._write(display[len(self._shown) :])
        self._shown = display

    def _colour(self) -> None:
        width, height = self._console.size
        row, column = _place(self._echoed + self._shown[:1], width)
        up = _place(self._echoed + self._shown, width)[0] - row
        if self._lexer is None or not self._shown.strip() or up >= height - 1:
            return  # the beginning has scrolled off the screen
        coloured = self._lexer.highlight(self._before + self._shown)
        line = coloured[len(self._before) : len(self._before) + len(self._shown)]
        if line.plain != self._shown:
            return  # the lexer has changed the text
        self._write((f"\x1b[{up}A" if up else "") + f"\x1b[{column}G")
        self._console.print(line, end="", soft_wrap=True, highlight=False)

    def _write(self, text: str) -> None:
        self._console.file.write(text)


def _place(text: str, width: int) -> tuple[int, int]:
    """Row from 0 and column from 1 of a text's last character. A wide one that does not fit into a row leaves its last
    cell free."""
    row, used, size = 0, 0, 0
    for size in map(cell_len, text):
        row, used = (row, used + size) if used + size <= width else (row + 1, size)
    return row, used - max(size, 1) + 1


def _lexer(language: str) -> Syntax | None:
    from pygments.lexers import find_lexer_class_by_name
    from pygments.util import ClassNotFound

    name = {"Cuda": "cuda", "Shell": "bash", "TeX": "tex"}.get(language, language.lower())
    try:
        find_lexer_class_by_name(name)
    except ClassNotFound:
        return None
    return Syntax("", name, theme=THEME, background_color="default")
