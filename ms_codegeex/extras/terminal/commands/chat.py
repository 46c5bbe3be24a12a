"""`ms-codegeex chat`: a conversation with a model in the terminal."""

from __future__ import annotations

import argparse
import io
import sys
from dataclasses import dataclass

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import OptionGroup, option
from ms_codegeex.extras.terminal.opening import MODEL, open_model
from ms_codegeex.generation import text_options

EXTRA = "terminal"
SUMMARY = "talk with a server's model, or one in this process, in the terminal"
EXAMPLES = """  ms-codegeex chat --language Python
  ms-codegeex chat --url http://10.0.0.7:8000 --api-key-file key.txt --temperature 0.2
  ms-codegeex chat --model runs/codegeex_tiny --no-history"""


@dataclass(frozen=True)
class HistoryOption:
    """The option that only `chat` has."""

    no_history: bool = option("neither read nor save the history of entries", default=False)


OPTIONS = (
    OptionGroup(text_options.PromptOptions, ("language",)),
    *MODEL,
    *text_options.options(),
    HistoryOption,
)


def run(arguments: argparse.Namespace) -> None:
    """Talk until /quit or the end of the input."""
    from ms_codegeex.extras.terminal.chat import Chat, edit_lines

    if sys.stdin is None:
        raise UserError("there is no standard input to read entries from; open it, or use `ms-codegeex complete`")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # otherwise one bad byte loses all lines of its block
    chat = Chat(open_model(arguments), text_options.settings(arguments), arguments.language)
    if sys.stdin.isatty():
        edit_lines(keep=not arguments.no_history)
        chat.run()
    else:
        chat.run(lambda _: input())
