"""Print everything that commands print. Most of it may be untrusted: names of tensors and files, values of
configurations, a server's messages, a model's text. They may contain control sequences that make a terminal hide or
forge lines or change its title or clipboard, and characters that reverse the reading order. Such characters are
escaped, on terminals and in pipes (`\\x1b`, `\\u202e`); line breaks and tabs stay. Only requested content (an answer, a
document; `print_content`) goes into files and pipes unchanged."""

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
    _print(visible(text) + end, sys.stderr)


@lru_cache(maxsize=64)
def print_once(text: str) -> None:
    """Print a note on standard error, but only once in this process."""
    print_error(text)


def print_progress(text: str) -> None:
    """Replace the current line of standard error by `text`, which may be empty, if it is a terminal."""
    if sys.stderr.isatty():
        _print(f"\r\x1b[K{visible(text)}", sys.stderr)


def print_lines(lines: Iterable[str]) -> None:
    _print("".join(f"{escaped(line)}\n" for line in lines), sys.stdout)


def print_json(value: Any) -> None:
    """Print a value as one line of JSON on standard output. Characters that `visible` would spell out become JSON
    escapes; numbers that JSON lacks, such as NaN, become null."""
    ascii_only = _encoding(sys.stdout).lower().replace("-", "") != "utf8"
    text = json.dumps(finite(value), ensure_ascii=ascii_only, allow_nan=False)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else _json_escape(c) for c in text)
    _print(f"{text}\n", sys.stdout)


def print_result(result: Any, text: str, as_json: bool) -> None:
    """Print a command's result on standard output: `result` as JSON, or `text` for people."""
    if as_json:
        print_json(result)
    else:
        print_out(text)


def print_content(text: str | bytes) -> None:
    """Write requested content, such as a model's answer, to standard output: escaped on a terminal, unchanged
    elsewhere. Bytes are taken as UTF-8 and written unchanged. No line break is added."""
    said = text if isinstance(text, str) else text.decode("utf-8", "surrogateescape")
    if sys.stdout.isatty():
        _print(visible(said), sys.stdout)
    else:
        _print(said, sys.stdout, None if isinstance(text, str) else text)


def print_coloured(text: str) -> None:
    """Print text with colour codes on standard output. Untrusted parts must already have gone through `visible`."""
    _print(f"{text}\n", sys.stdout)


def _print(text: str, stream: TextIO, data: bytes | None = None) -> None:
    """Write `text` to `stream`, or instead the bytes `data` if the stream accepts bytes."""
    encoding, binary = _encoding(stream), getattr(stream, "buffer", None)
    try:
        if data is not None and binary is not None:
            binary.write(data)
        else:  # not every locale can encode all characters
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except OSError as error:
        discard(stream)
        if stream is not sys.stderr:  # stderr could not show its own failure
            raise OSError(error.errno, error.strerror, "standard output") from None


def discard(stream: TextIO) -> None:
    """Discard what a failed stream still buffers, so that it does not fail again when Python exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _encoding(stream: TextIO) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


def _json_escape(character: str) -> str:
    return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]


def size_text(size: int) -> str:
    """Return a number of bytes for people: exact below 10 kB, otherwise in MB."""
    return f"{size:,} bytes" if size < 10_000 else f"{size / 1e6:.2f} MB"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a text table whose columns are as wide as their widest cell. The first `left` ones are left-aligned."""
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
