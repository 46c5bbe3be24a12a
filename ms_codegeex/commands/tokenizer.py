"""`ms-codegeex tokenizer train`: train your own tokenizer."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from ms_codegeex.base.host import available_cores
from ms_codegeex.base.options import REQUIRED, add_options, given, option
from ms_codegeex.base.printing import print_result

SUMMARY = "train a tokenizer for CodeGeeX2's architecture, because the released one may not be redistributed"
EXAMPLES = """\
  ms-codegeex tokenizer train --output tokenizer                        # on the installed Python libraries
  ms-codegeex tokenizer train --input ~/src corpus.jsonl.gz --vocab-size 64000 --output tokenizer
  ms-codegeex tokenizer train --input ~/src --whitespace-run 1 --language-tags --output tokenizer --json"""


@dataclass(frozen=True)
class TrainingTextOptions:
    """What a tokenizer is trained on, and its size."""

    output: Path = option("directory to write", "DIR", REQUIRED)
    input: tuple[Path, ...] = option(
        "source trees, .jsonl[.gz|.zst] and .parquet files (default: the running interpreter's libraries)", "PATH", ()
    )
    vocab_size: int = option("pieces", "N", 32_000)
    whitespace_run: int = option("runs of 2 to N spaces are one token each; 1: none", "N", 16)
    language_tags: bool = option("make each language's tag line one token", default=False)
    max_bytes: int = option("text to read (default: 64 million bytes)", "N", 64_000_000)
    json: bool = option("print one JSON object on standard output", default=False)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions of this verb."""
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    summary = "train on text as `prepare` reads it; `prepare --tokenizer DIR` and every model of CodeGeeX2's take it"
    action = actions.add_parser("train", help=summary)
    add_options(action, TrainingTextOptions)


def run(arguments: argparse.Namespace) -> None:
    """Train and print the result."""
    from ms_codegeex.data.tokenizer_training import TokenizerSettings, train_tokenizer

    chosen = given(TrainingTextOptions, arguments)
    settings = TokenizerSettings(chosen.vocab_size, chosen.whitespace_run, chosen.language_tags, chosen.max_bytes)
    tokenizer = train_tokenizer(chosen.input, chosen.output, settings, threads=available_cores())
    described = {"output": str(chosen.output), **tokenizer.description(), "vocab_size": tokenizer.vocab_size}
    text = f"{chosen.output}: {tokenizer.vocab_size} tokens; use it with `ms-codegeex prepare --tokenizer DIR`"
    print_result(described, text, chosen.json)
