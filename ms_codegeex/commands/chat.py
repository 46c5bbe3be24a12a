"""`ms-codegeex chat`: a conversation with a model in the terminal."""

from __future__ import annotations

import argparse
import io
import sys

from ms_codegeex.base.errors import UserError
from ms_codegeex.commands import decoding

SUMMARY = "talk with a server's model, or one in this process, in the terminal"
EXAMPLES = """  ms-codegeex chat --language Python
  ms-codegeex chat --url http://10.0.0.7:8000 --api-key-file key.txt --temperature 0.2
  ms-codegeex chat --model runs/codegeex_tiny --no-history"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--language", default="", metavar="NAME", help="put this language's tag in front of the text")
    decoding.configure_model(parser)
    decoding.configure(parser)
    parser.add_argument("--no-history", action="store_true", help="neither read nor save the history of entries")


def run(arguments: argparse.Namespace) -> None:
    """Talk until /quit or the end of the input."""
    from ms_codegeex.terminal.chat import Chat, line_history
    from ms_codegeex.terminal.printing import console_here

    if sys.stdin is None:
        raise UserError("there is no standard input to read entries from; open it, or use `ms-codegeex complete`")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # otherwise one bad byte takes all lines of its block with it
    settings, console = decoding.settings(arguments), console_here()
    chat = Chat(decoding.open_model(arguments), settings, console, arguments.language)
    if not sys.stdin.isatty():
        chat.run(lambda _: input())
        return
    with line_history(not arguments.no_history) as gap:
        chat.run(notice=gap)
