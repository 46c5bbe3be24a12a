"""Dataset directories of real code, small enough for tests."""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path

import numpy as np

from ms_codegeex.base.files import write_json
from ms_codegeex.data.datasets.indexed import IndexedWriter
from ms_codegeex.data.tokenizer import Tokenizer


def functions(*modules: object) -> list[str]:
    """The source of every function of these modules, in the order of their names."""
    found = [each for module in modules for _, each in inspect.getmembers(module, inspect.isfunction)]
    return [inspect.cleandoc(textwrap.dedent(inspect.getsource(each))) + "\n" for each in found]


def write_code(directory: Path, tokenizer: Tokenizer, texts: list[str], **description: object) -> Path:
    """A dataset directory of these documents, in both splits."""
    directory.mkdir(parents=True, exist_ok=True)
    if "tokenizer.model" in str(tokenizer.description()) or tokenizer.name == "codegeex2":
        tokenizer.save(directory / "tokenizer")
    for split in ("train", "validation"):
        with IndexedWriter(directory / split, np.uint16) as writer:
            for text in texts:
                writer.add([*tokenizer.encode(text), tokenizer.eos_id])
    found = {"vocab_size": tokenizer.vocab_size, "eos_id": tokenizer.eos_id, "tokenizer": tokenizer.description()}
    write_json(directory / "dataset.json", {**found, **description})
    return directory


def write_pairs(directory: Path, tokenizer: Tokenizer, pairs: list[tuple[str, str]], seq_length: int) -> Path:
    """A fine-tuning dataset of completions in both splits, as `prepare --task completion` writes it."""
    rows = [
        ([*tokenizer.prefix, *tokenizer.encode(a)], [*tokenizer.encode_inside(b), tokenizer.eos_id]) for a, b in pairs
    ]
    write_code(directory, tokenizer, [], kind="finetune", task="completion", seq_length=seq_length)
    for split in ("train", "validation"):
        with IndexedWriter(directory / split, np.uint16) as writer:
            for prompt, answer in rows:
                writer.add([*prompt, *answer])
        flags = [flag for prompt, answer in rows for flag in [0] * len(prompt) + [1] * len(answer)]
        (directory / f"{split}.mask").write_bytes(bytes(flags))
    return directory
