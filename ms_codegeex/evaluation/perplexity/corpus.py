"""Perplexity of a corpus: a prepared dataset's validation split, or text files, directories of them, JSONL.

Every document is scored on its own, after one end-of-document token, as in training. That token is context only, so
every byte of the text is scored and figures per byte are comparable between models with different tokenizers. Sums are
over tokens, not means of documents. Documents longer than the context are read in windows (`scoring.windowed`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.evaluation.jsonl import read_rows
from ms_codegeex.evaluation.perplexity.scoring import Score, Scorer, windowed
from ms_codegeex.evaluation.progress import progress_of

FIELDS = ("text", "content", "code")  # of a JSONL row; the first one present is used
SPLIT = "validation"


@dataclass(frozen=True)
class CorpusPerplexity:
    """The measurements. `skipped` counts the files that are not UTF-8 text."""

    score: Score
    text_bytes: int
    documents: int
    window: int
    stride: int
    skipped: int = 0
    whole: bool = True

    def row(self) -> dict[str, Any]:
        """Figures for a report."""
        return {
            "perplexity": self.score.perplexity,
            "loss (nats per token)": self.score.nats / self.score.tokens,
            "bits per byte": self.score.nats / math.log(2) / self.text_bytes,  # comparable between tokenizers
            "bytes per token": self.text_bytes / self.score.tokens,
            "tokens": self.score.tokens,
            "bytes": self.text_bytes,
            "documents": self.documents,
            "files that are no text": self.skipped,
            "whole corpus": self.whole,
            "window": self.window,
            "stride": self.stride,
        }


def measure(
    model: Scorer,
    paths: Sequence[Path],
    window: int | None = None,
    stride: int | None = None,
    max_tokens: int | None = None,
    progress: bool = False,
    cut: bool = False,
) -> CorpusPerplexity:
    """Token-weighted perplexity of the documents; with `max_tokens`, stop after the document that reaches it, or with
    `cut` at that token.

    Raises:
        UserError: there is no text, a dataset was made with another tokenizer, or window and stride do not fit.
    """
    window = model.seq_length if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    total, size, documents, whole, skipped = Score(0.0, 0), 0, 0, True, list[Path]()
    with progress_of(None, "read", unit="tokens", shown=progress) as bar:
        for ids in corpus_documents(model, paths, skipped):
            if max_tokens is not None and total.tokens >= max_tokens:
                whole = False
                break
            if cut and max_tokens is not None and len(ids) > max_tokens - total.tokens:
                ids, whole = ids[: max_tokens - total.tokens], False
            logprobs = windowed(model, [model.tokenizer.eos_id, *ids], window, stride)
            total += Score(-float(logprobs.astype(np.float64).sum()), len(logprobs))
            size += len(model.tokenizer.decode(ids).encode())
            documents += 1
            bar.update(len(logprobs))
    if not total.tokens:
        raise UserError(f"{', '.join(map(str, paths))}: no text in there; give UTF-8 files, JSONL or a dataset")
    return CorpusPerplexity(total, size, documents, window, stride, len(skipped), whole)


def corpus_documents(model: Scorer, paths: Sequence[Path], skipped: list[Path]) -> Iterator[list[int]]:
    """The ids of each non-empty document, without the end-of-document token."""
    for path in map(Path, paths):
        if (path / "dataset.json").is_file():
            yield from _dataset(model, path)
            continue
        for text in _texts(path, skipped):
            if ids := model.tokenizer.encode(text):
                yield ids


def _dataset(model: Scorer, directory: Path) -> Iterator[list[int]]:
    from ms_codegeex.data.datasets.batches import read_info
    from ms_codegeex.data.datasets.indexed import IndexedDataset

    info, tokenizer = read_info(directory), model.tokenizer
    if info.get("kind") is not None:
        raise UserError(f'{directory}: a dataset of kind "{info["kind"]}"; expected one that `prepare` makes of text')
    recorded = (info.get("tokenizer") or {}).get("fingerprint")
    if recorded not in (None, tokenizer.fingerprint) or info["eos_id"] != tokenizer.eos_id:
        raise UserError(f"{directory}: made with another tokenizer than the model's; prepare the text again with that")
    dataset = IndexedDataset(directory / SPLIT)
    dataset.check_ids(tokenizer.vocab_size)
    for number in range(len(dataset)):
        ids = dataset.document(number)
        if len(ids := ids[:-1] if ids[-1] == info["eos_id"] else ids):
            yield ids.tolist()


def _texts(path: Path, skipped: list[Path]) -> Iterator[str]:
    """The texts of a file, or of all files below a directory in the order of their names, without hidden files."""
    if not path.exists():
        raise UserError(f"{path}: no such file or directory")
    for file in _files(path) if path.is_dir() else [path]:
        if file.name.endswith((".jsonl", ".jsonl.gz")):
            for number, row in enumerate(read_rows(file), 1):
                yield _text(row, f"{file}:{number}")
            continue
        try:
            yield file.read_bytes().decode()
        except UnicodeDecodeError:
            if not path.is_dir():
                raise UserError(f"{file}: no UTF-8 text; give text, JSONL or a dataset directory") from None
            skipped.append(file)
        except OSError as error:
            raise UserError(f"{file}: not readable ({error.strerror}); check its owner and mode") from None


def _files(directory: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(directory):
        names[:] = sorted(name for name in names if not name.startswith("."))
        yield from (Path(folder) / name for name in sorted(files) if not name.startswith("."))


def _text(row: dict[str, Any], where: str) -> str:
    for name in FIELDS:
        if isinstance(row.get(name), str):
            return row[name]
    raise UserError(f"{where}: none of the fields {', '.join(FIELDS)} is a text; rename the field that is")
