"""`ms-codegeex complete`: the continuation of a text, on standard output."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import option
from ms_codegeex.base.printing import print_json, visible
from ms_codegeex.base.reading import given_text
from ms_codegeex.extras.serving.terminal.opening import MODEL, open_model
from ms_codegeex.generation import text_options

if TYPE_CHECKING:
    from ms_codegeex.extras.serving.terminal.asking import AnswerPart, Model, Prompt
    from ms_codegeex.extras.serving.terminal.printing import Printer
    from ms_codegeex.generation.sampling import SamplingSettings

SUMMARY = "continue a text, with a server's model or one in this process"
EXAMPLES = """  ms-codegeex complete --language Python "def fibonacci(n):"
  ms-codegeex complete --file start.py --stop-at block --language Python >> start.py
  ms-codegeex complete --url http://10.0.0.7:8000 --api-key-file key.txt --n 3 < start.py
  ms-codegeex complete --model runs/codegeex_tiny --greedy "import os"
  ms-codegeex complete --file before.py --suffix-file after.py --json"""


@dataclass(frozen=True)
class CompleteOptions:
    """The text to continue."""

    prompt: str | None = option("text to continue (default: standard input)", "TEXT", positional=True)
    file: str | None = option("read the text from a file (- is standard input)", "FILE")
    suffix_file: str | None = option("text after the answer, which the answer does not repeat", "FILE")
    echo: bool = option("write the text in front of each answer", default=False)


OPTIONS = (CompleteOptions, text_options.PromptOptions, *MODEL, *text_options.options("n"))


def run(arguments: argparse.Namespace) -> None:
    """Write the answers as they come. On a terminal they are coloured; elsewhere they are the bare text."""
    from ms_codegeex.data.languages import find_language
    from ms_codegeex.extras.serving.terminal.asking import Prompt

    settings = text_options.settings(arguments)
    prompt = Prompt(
        _text(arguments),
        find_language(arguments.language).name if arguments.language else "",
        given_text(arguments.suffix_file, "--suffix-file") if arguments.suffix_file else None,
        arguments.cut_prompt,
        arguments.stop_at == "block",
    )
    model = open_model(arguments, settings.n)
    if arguments.json:
        _print_json(model, prompt, settings)
        return
    with closing(model.complete(prompt, settings)) as pieces:  # type: ignore[type-var]
        _show(pieces, prompt, settings.n, arguments.echo)


def _text(arguments: argparse.Namespace) -> str:
    if arguments.prompt is not None and arguments.file:
        raise UserError("--file: a text is given too; leave out one of them")
    if arguments.prompt is not None:
        try:
            arguments.prompt.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError("TEXT: not UTF-8; give it in this encoding") from None
        return arguments.prompt
    if arguments.file is None and (sys.stdin is None or sys.stdin.isatty()):
        raise UserError("there is no text to continue; give one, --file FILE, or pipe it in")
    return given_text(arguments.file or "-", "--file")


def _show(pieces: Iterator[AnswerPart], prompt: Prompt, count: int, echo: bool) -> None:
    """One answer as it comes, or several one after the other."""
    from rich.text import Text

    from ms_codegeex.extras.serving.terminal.printing import Printer, console_here

    console = console_here()

    def begun() -> Printer:
        if echo and console.is_terminal:
            console.print(Text(visible(prompt.text), "dim"), end="", soft_wrap=True)
        elif echo:
            console.file.write(prompt.text)
        return Printer(console, prompt.language, prompt.text, echo)

    if count == 1:
        shown = begun()
        for piece in pieces:
            shown.feed(piece.text)
        shown.end()
        return
    texts: defaultdict[int, str] = defaultdict(str)
    for piece in pieces:
        texts[piece.index] += piece.text
    for number in range(1, count + 1):
        console.print(f"--- {number} of {count} ---", style="dim")
        shown, text = begun(), texts[number - 1]
        shown.feed(text if text.endswith("\n") else f"{text}\n")
        shown.end()


def _print_json(model: Model, prompt: Prompt, settings: SamplingSettings) -> None:
    texts: defaultdict[int, str] = defaultdict(str)
    ends: dict[int, str] = {}
    for piece in model.complete(prompt, settings):
        texts[piece.index] += piece.text
        if piece.finish:
            ends[piece.index] = piece.finish
    answers = [{"text": texts[number], "finish": ends.get(number)} for number in range(settings.n)]
    print_json({"model": model.name, "prompt": prompt.text, "answers": answers})
