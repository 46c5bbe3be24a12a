"""`ms-codegeex tokenizer train`: train your own tokenizer."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ms_codegeex.base.host import available_cores
from ms_codegeex.base.options import REQUIRED, given, option
from ms_codegeex.base.printing import print_result
from ms_codegeex.base.verb_options import Actions

EXTRA = "corpus"
SUMMARY = "train a tokenizer of your own for a family: of any size, and needed for CodeGeeX2, whose own is not free"
EXAMPLES = """\
  ms-codegeex tokenizer train --family codegeex --vocab-size 2048 --output tokenizer  # on installed Python libraries
  ms-codegeex tokenizer train --family codegen --input ~/src corpus.jsonl.gz --vocab-size 16000 --output tokenizer
  ms-codegeex tokenizer train --input ~/src --whitespace-run 1 --language-tags --output tokenizer --json"""


@dataclass(frozen=True)
class TrainingTextOptions:
    """A tokenizer's training text, family and size."""

    output: Path = option("directory to write", "DIR", REQUIRED)
    input: tuple[Path, ...] = option(
        "source trees and files of records, as for `prepare` (default: the running interpreter's libraries)", "PATH", ()
    )
    family: Literal["codegeex", "codegen", "codegeex2", "qwen2"] = option(
        "whose models it is for: SentencePiece for codegeex2, byte-level BPE for the others", default="codegeex2"
    )
    vocab_size: int = option("ids; codegeex2: pieces, and five ids more", "N", 32_000)
    whitespace_run: int | None = option(
        "runs of 2 to N spaces are one token each; 1: none (default: 10 for codegeex, 16 for codegeex2)", "N"
    )
    language_tags: bool = option("codegeex2: make each language's tag line one token", default=False)
    max_bytes: int = option("text to read (default: 64 million bytes)", "N", 64_000_000)
    json: bool = option("print one JSON object on standard output", default=False)


TRAIN = "train on text as `prepare` reads it; `prepare --tokenizer DIR` and every model of the family's take it"
OPTIONS = Actions({"train": (TRAIN, [TrainingTextOptions])})


def run(arguments: argparse.Namespace) -> None:
    """Train the tokenizer and print a summary of it."""
    from ms_codegeex.data.summary_lines import print_tally
    from ms_codegeex.extras.corpus.tally import Tally
    from ms_codegeex.extras.corpus.tokenizer_training import TokenizerSettings, train_tokenizer

    chosen = given(TrainingTextOptions, arguments)
    names = ("vocab_size", "whitespace_run", "language_tags", "max_bytes", "family")
    settings = TokenizerSettings(**{name: getattr(chosen, name) for name in names})
    tally = Tally()
    tokenizer = train_tokenizer(chosen.input, chosen.output, settings, threads=available_cores(), tally=tally)
    sizes = {"vocab_size": tokenizer.vocab_size, "eos_id": tokenizer.eos_id}
    described = {"output": str(chosen.output), **tokenizer.description(), **sizes, "tally": tally.summed(tally.kept)}
    text = (
        f"{chosen.output}: {tokenizer.vocab_size} tokens; use it with `ms-codegeex prepare --tokenizer DIR`, and "
        f"model.vocab_size={tokenizer.vocab_size} or more, model.eos_token_id={tokenizer.eos_id} in the run"
    )
    print_tally(described["tally"])
    print_result(described, text, chosen.json)
