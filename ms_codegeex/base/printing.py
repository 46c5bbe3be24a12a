"""Everything that the commands print goes through here, because most of it may be untrusted. Names of tensors and
files, values of configurations, a server's messages and a model's text may contain control sequences, with which a
terminal can be made to hide or forge lines, to change its title or the clipboard, and characters that reverse the order
of what is read. They are spelled out, on terminals and in pipes: `\\x1b`, `\\u202e`. Line breaks and tabs stay. Only
what a user asks for as content (an answer, a document; `print_content`) goes into a file or a pipe as it is."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, TextIO

from ms_codegeex.base.errors import escaped
from ms_codegeex.base.nested import finite


def visible(text: str) -> str:
    return escaped(text, keep="\n\t")


def print_out(text: str = "", end: str = "\n") -> None:
    _print(visible(text) + end, sys.stdout)


def print_error(text: str, end: str = "\n") -> None:
    """Print a text on standard error."""
    _print(visible(text) + end, sys.stderr)


@lru_cache(maxsize=64)
def print_once(text: str) -> None:
    """Print a note on standard error, once in this process."""
    print_error(text)


def print_progress(text: str) -> None:
    """Show a line on standard error in place of the last one, on a terminal only; none if it is empty."""
    if sys.stderr.isatty():
        _print(f"\r\x1b[K{visible(text)}", sys.stderr)


def print_lines(lines: Iterable[str]) -> None:
    _print("".join(f"{escaped(line)}\n" for line in lines), sys.stdout)


def print_json(value: Any) -> None:
    """Print a value as JSON in one line on standard output. What `visible` spells out is an escape of JSON. A number
    that JSON does not have, such as NaN, is null."""
    ascii_only = _encoding(sys.stdout).lower().replace("-", "") != "utf8"
    text = json.dumps(finite(value), ensure_ascii=ascii_only, allow_nan=False)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else _json_escape(c) for c in text)
    _print(f"{text}\n", sys.stdout)


def print_result(result: Any, text: str, as_json: bool) -> None:
    """Print what a command found on standard output: as JSON, or as a text for people."""
    if as_json:
        print_json(result)
    else:
        print_out(text)


def print_content(text: str | bytes) -> None:
    """Write what the user requested, such as a model's answer, to standard output: on a terminal visible, elsewhere as
    it is. Bytes are UTF-8, and are written as they are. No line break is added."""
    said = text if isinstance(text, str) else text.decode("utf-8", "surrogateescape")
    if sys.stdout.isatty():
        _print(visible(said), sys.stdout)
    else:
        _print(said, sys.stdout, None if isinstance(text, str) else text)


def print_coloured(text: str) -> None:
    """Print a text with our own colours on standard output. Everything else in it must have gone through `visible`."""
    _print(f"{text}\n", sys.stdout)


def _print(text: str, stream: TextIO, data: bytes | None = None) -> None:
    """Write a text, or these bytes of it where the stream takes bytes."""
    encoding, binary = _encoding(stream), getattr(stream, "buffer", None)
    try:
        if data is not None and binary is not None:
            binary.write(data)
        else:  # not every locale has all characters
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except OSError as error:
        discard(stream)
        if stream is not sys.stderr:  # which could not show its own failure
            raise OSError(error.errno, error.strerror, "standard output") from None


def discard(stream: TextIO) -> None:
    """Discards what a failed stream still buffers, so that it does not fail again when Python exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _encoding(stream: TextIO) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


def _json_escape(character: str) -> str:
    return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]


def size_text(size: int) -> str:
    """A number of bytes for people: below 10 kB exactly."""
    return f"{size:,} bytes" if size < 10_000 else f"{size / 1e6:.2f} MB"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns as wide as their widest cell; the first `left` of them to the left, numbers to the right."""
    cells = [tuple(header), *map(tuple, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = []
    for row in cells:
        padded = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  " + "  ".join(padded).rstrip())
    return "\n".join(lines)
