"""`ms-codegeex complete`: the continuation of a text, on standard output."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import closing
from dataclasses import dataclass

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import option, refuse
from ms_codegeex.base.printing import print_content, print_json, print_out
from ms_codegeex.base.reading import given_content, given_text
from ms_codegeex.extras.terminal.opening import MODEL, open_model
from ms_codegeex.generation import text_options

EXTRA = "terminal"
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
    """Write the answers as they come. On a terminal, control characters are made visible."""
    from ms_codegeex.data.languages import find_language

    settings = text_options.settings(arguments)
    if arguments.model is None:
        wrong = "is for a model in this process (--model DIR); a server's is an option of `serve`"
        refuse(arguments, text_options.PromptOptions, wrong, ["special_tokens"])
    given, prompt = _text(arguments)
    request = {
        "prompt": prompt,
        "language": find_language(arguments.language).name if arguments.language else None,
        "suffix": given_text(arguments.suffix_file, "--suffix-file") if arguments.suffix_file else None,
        "truncate_prompt": arguments.cut_prompt or None,
        "stop_at": arguments.stop_at,
    }
    model = open_model(arguments, settings.n, arguments.special_tokens)
    echo = given if arguments.echo else b""
    texts, ends = dict.fromkeys(range(settings.n), ""), dict[int, str | None]()
    live = settings.n == 1 and not arguments.json
    if live:
        print_content(echo)
    with closing(model.complete(settings, request)) as pieces:  # type: ignore[type-var]
        for piece in pieces:
            if live:
                print_content(piece.text)
            if piece.index in texts:
                texts[piece.index] += piece.text
                ends[piece.index] = piece.finish or ends.get(piece.index)
    if arguments.json:
        answers = [{"text": text, "finish": ends.get(number)} for number, text in texts.items()]
        print_json({"model": model.name, "prompt": prompt, "answers": answers})
    elif live and sys.stdout.isatty() and not texts[0].endswith("\n"):
        print_out()
    elif not live:
        for number, text in texts.items():
            print_out(f"--- {number + 1} of {settings.n} ---")
            print_content(echo)
            print_content(text if text.endswith("\n") else f"{text}\n")


def _text(arguments: argparse.Namespace) -> tuple[bytes, str]:
    if arguments.prompt is not None and arguments.file:
        raise UserError("--file: a text is given too; leave out one of them")
    if arguments.prompt is not None:
        try:
            arguments.prompt.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError("TEXT: not UTF-8; give it in this encoding") from None
        return os.fsencode(arguments.prompt), arguments.prompt
    if arguments.file is None and (sys.stdin is None or sys.stdin.isatty()):
        raise UserError("there is no text to continue; give one, --file FILE, or pipe it in")
    return given_content(arguments.file or "-", "--file")
