"""Options that choose the model: a server's, or one in this process."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ms_codegeex.base.errors import UserError
from ms_codegeex.commands import decoding
from ms_codegeex.generation.levels import AUTO, cpu_level

if TYPE_CHECKING:
    from ms_codegeex.terminal.asking import Model

URL = "http://127.0.0.1:8000"  # of `serve` by default


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--url", default=URL, metavar="URL", help=f"a server with OpenAI's API (default: {URL})")
    where.add_argument(
        "--model", type=Path, metavar="DIR", help="instead of a server: a model directory, run or checkpoint"
    )
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="file that holds the server's key")
    parser.add_argument("--name", metavar="NAME", help="the server's model, or an adapter (default: the model)")
    parser.add_argument("--threads", type=int, metavar="N", help="with --model: threads (default: one per core)")
    decoding.configure_cpu_level(parser)


def opened(arguments: argparse.Namespace, slots: int = 1) -> Model:
    """The requested model; `slots` answers are computed at once in this process."""
    _check_unused(arguments)
    if arguments.model is None:
        from ms_codegeex.terminal.server import RemoteModel

        return RemoteModel(arguments.url, read_key(arguments.api_key_file), arguments.name)
    if arguments.threads is not None and arguments.threads < 0:
        raise UserError(f"--threads: {arguments.threads} is out of range; give 0 (MindSpore's operators) or more")
    from ms_codegeex.terminal.local import TerminalModel

    return TerminalModel(arguments.model, slots, arguments.threads, cpu_level(arguments.cpu_level))


def _check_unused(arguments: argparse.Namespace) -> None:
    """`UserError` for an option that the chosen kind of model does not have."""
    if arguments.model is None:
        unused, reason = ("threads", "cpu_level"), "is for a model in this process; give --model DIR, or leave it out"
    else:
        unused, reason = ("api_key_file", "name"), "is for a server; leave it out with --model"
    for name in unused:
        if getattr(arguments, name) not in (None, AUTO):
            raise UserError(f"--{name.replace('_', '-')}: {reason}")


def read_key(path: Path | None) -> str | None:
    """The key in a file; None without one. `UserError` if the file holds none."""
    if path is None:
        return None
    try:
        key = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--api-key-file: {path} cannot be read ({error})") from None
    if not key or not key.isprintable() or " " in key:
        raise UserError(f"--api-key-file: {path} holds no key; expected one word")
    return key
