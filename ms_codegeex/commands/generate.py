"""`ms-codegeex generate`: text on standard output."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from ms_codegeex.errors import UserError

SUMMARY = "continue a prompt with a trained model"
EXAMPLES = """  ms-codegeex generate --model runs/codegeex_tiny --language Python --prompt "import os"
  ms-codegeex generate --model runs/codegeex_tiny/huggingface --prompt-file start.py --temperature 0.2
  ms-codegeex generate --model runs/codegeex_tiny --prompt "# language: Python" --greedy --json"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--model", required=True, metavar="DIR", help="model directory, run directory or checkpoint")
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument(
        "--prompt", metavar="TEXT", help="text to continue; a bare language tag gets the newline that the model expects"
    )
    prompt.add_argument("--prompt-file", metavar="FILE", help="read the prompt from a file (- is standard input)")
    parser.add_argument("--language", metavar="NAME", help="put this language's tag in front of the prompt")
    parser.add_argument(
        "--cut-prompt", action="store_true", help="drop the start of a prompt that is too long instead of refusing it"
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=128, metavar="N", help="maximum number of tokens (default 128)"
    )
    parser.add_argument("--temperature", type=float, default=0.8, metavar="T", help="0 is greedy (default 0.8)")
    parser.add_argument("--greedy", action="store_true", help="always the likeliest token; the same as --temperature 0")
    parser.add_argument(
        "--top-k", type=int, default=0, metavar="K", help="only the K likeliest tokens (default 0: off)"
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=0.95,
        metavar="P",
        help="only the likeliest tokens that make up probability P (default 0.95; 1: off)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="the same seed gives the same text (default 0)"
    )
    parser.add_argument(
        "--speculate",
        metavar="ngram|DIR",
        help="guess tokens from the text so far, or by a smaller model of the same tokenizer; the text stays the same",
    )
    parser.add_argument(
        "--fast", action="store_true", help="round activations too (quantised models on a CPU): faster, less exact"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of streamed text")


def _prompt(arguments: argparse.Namespace) -> str:
    from ms_codegeex.data.languages import LANGUAGES, find_language

    text = arguments.prompt or ""
    if arguments.prompt_file:
        try:
            text = sys.stdin.read() if arguments.prompt_file == "-" else Path(arguments.prompt_file).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--prompt-file: {arguments.prompt_file} cannot be read as text ({error})") from None
    if arguments.language:
        return f"{find_language(arguments.language).tag}\n{text}"
    # training documents start with a tag line, which ends with a newline
    return f"{text}\n" if any(text == known.tag for known in LANGUAGES) else text


def run(arguments: argparse.Namespace) -> int:
    """Generate text and print it as it comes, or all of it as JSON."""
    from ms_codegeex.generation.sampling import SamplingSettings

    settings = SamplingSettings(
        arguments.max_new_tokens,
        0.0 if arguments.greedy else arguments.temperature,
        arguments.top_k,
        arguments.top_p,
        arguments.seed,
    )
    prompt = _prompt(arguments)
    from ms_codegeex.generation.engine import Generator  # the engine, which takes seconds to import

    generator = Generator(Path(arguments.model), speculate=arguments.speculate, fast=arguments.fast)
    ids = generator.encode(prompt, settings.max_new_tokens if arguments.cut_prompt else None)
    began = time.perf_counter()
    if arguments.json:
        new = list(generator.tokens(ids, settings))
        print(
            json.dumps(
                {
                    "model": str(generator.path),
                    "prompt": prompt,
                    "text": "".join(generator.tokenizer.continuation(ids, new)),
                    "prompt_tokens": len(ids),
                    "new_tokens": len(new),
                    "seconds": time.perf_counter() - began,
                }
                | generator.speculated()
            )
        )
        return 0
    sys.stdout.write(prompt)
    for piece in generator.stream(ids, settings):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    if arguments.speculate:
        print("guessed {guessed} tokens, accepted {accepted}".format(**generator.speculated()), file=sys.stderr)
    return 0
