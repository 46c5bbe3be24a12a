"""A dataset directory from documents that arrive one by one and are split by a hash of their text."""

from __future__ import annotations

import array
import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.data import tokenizer as tokenizers
from ms_codegeex.data.corpus.merge import length_histogram
from ms_codegeex.data.corpus.report import render
from ms_codegeex.data.corpus.shards import token_dtype
from ms_codegeex.data.datasets.documents import write_documents
from ms_codegeex.data.datasets.indexed import IndexedWriter
from ms_codegeex.data.datasets.layout import (
    DATA_FILES,
    DATASET_JSON,
    REPORT_FORMAT,
    REPORT_HTML,
    REPORT_JSON,
    REPORT_VERSION,
    REPORTS,
    SPLITS,
    TABLES,
)
from ms_codegeex.data.tokenizer.recorded import DIRECTORY as TOKENIZER
from ms_codegeex.errors import UserError
from ms_codegeex.files import sha256, write_json

MASKS = tuple(f"{split}.mask" for split in SPLITS)
TOTALS = ("documents", "tokens", "bytes")
_HASHES = 2**64


def mask_path(prefix: Path) -> Path:
    """The file that says which tokens of the split `prefix` the loss counts: uint8, a byte per token."""
    return prefix.with_name(prefix.name + ".mask")


def _is_ours(entry: Path) -> bool:
    if entry.name == TOKENIZER and entry.is_dir():
        return all(file.name in tokenizers.FILES for file in entry.iterdir())
    return entry.name in (DATASET_JSON, *REPORTS, *DATA_FILES, *MASKS, *TABLES)


def text_decoder(tokenizer: tokenizers.Tokenizer) -> Callable[[list[int]], bytes]:
    """From ids to the bytes of their text, for many documents; half a character at an edge stays half a character."""
    from ms_codegeex.data.tokenizer.gpt2 import ByteLevelTokenizer

    if not isinstance(tokenizer, ByteLevelTokenizer):
        return lambda ids: tokenizer.decode(ids).encode()
    pieces = [tokenizer.token_bytes(number) for number in range(tokenizer.vocab_size)]  # several times as fast
    return lambda ids: b"".join(map(pieces.__getitem__, ids))


def free_output(output: Path, replace: bool) -> None:
    """`UserError` unless a dataset may be written to `output`: nothing is there, or a dataset that may be replaced."""
    if not output.exists():
        return
    if not output.is_dir():
        raise UserError(f"{output}: is a file; give --output a directory")
    entries = sorted(output.iterdir())
    foreign = [entry.name for entry in entries if not _is_ours(entry)]
    if entries and not foreign and not (output / DATASET_JSON).is_file():
        foreign = [entries[0].name]
    if foreign:  # replacing a directory deletes it
        raise UserError(f"{output}: holds {foreign[0]}, which is no part of a dataset; give --output another directory")
    if entries and not replace:
        raise UserError(f"{output}: holds a dataset; add --replace, or give --output another directory")


class DatasetWriter:
    """Collects documents, ids in a file and the rest in memory (some hundred bytes each), then writes the splits.

    Args:
        directory: where the dataset is made, temporary and empty.
        vocab_size: decides the type of ids on disk.
        masked: whether each document comes with a mask.
    """

    def __init__(self, directory: Path, vocab_size: int, masked: bool) -> None:
        self.directory, self.masked = directory, masked
        self.dtype = token_dtype(vocab_size)
        self.sizes, self._hashes = array.array("q"), array.array("Q")
        self._columns: dict[str, list] = {name: [] for name in ("source", "language", "sha256", "bytes")}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> DatasetWriter:
        names = ("ids", "mask") if self.masked else ("ids",)
        self._paths = {name: self.directory / f".{name}" for name in names}
        self._streams = {name: self._stack.enter_context(path.open("wb")) for name, path in self._paths.items()}
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def add(
        self, ids: np.ndarray, mask: np.ndarray | None, text: bytes, source: str, language: str = "", key: bytes = b""
    ) -> None:
        """Append a document.

        Args:
            ids: `[size]`, the end token included.
            mask: `[size]`, 0 or 1; None if the writer is not masked.
            text: what the ids decode to; its hash is recorded.
            source, language: for the table of documents.
            key: documents with the same key go to the same split; empty: the text.
        """
        self._streams["ids"].write(np.asarray(ids).astype(self.dtype).tobytes())
        if mask is not None:
            self._streams["mask"].write(np.asarray(mask).astype(np.uint8).tobytes())
        self.sizes.append(len(ids))
        self._hashes.append(int.from_bytes(hashlib.sha256(key or text).digest()[:8], "little"))
        values = (source, language, hashlib.sha256(text).digest(), len(text))
        for column, value in zip(self._columns.values(), values, strict=True):
            column.append(value)

    def write(self, validation_share: float) -> dict[str, Any]:
        """Write both splits; for each its counts, by language too."""
        for stream in self._streams.values():
            stream.flush()
        chosen = _choose(np.array(self._hashes, np.uint64), validation_share)
        splits = {
            split: self._write_split(self.directory / split, np.flatnonzero(chosen == (split == "validation")))
            for split in SPLITS
        }
        self._stack.close()
        for path in self._paths.values():
            path.unlink()
        return splits

    def _write_split(self, prefix: Path, numbers: np.ndarray) -> dict[str, Any]:
        sizes = np.array(self.sizes, np.int64)
        starts, counted = np.cumsum(sizes) - sizes, 0
        ids = np.memmap(self._paths["ids"], self.dtype, "r")
        with IndexedWriter(prefix, self.dtype) as writer:
            for number in numbers:
                writer.add(ids[starts[number] : starts[number] + sizes[number]])
        if self.masked:
            mask = np.memmap(self._paths["mask"], np.uint8, "r")
            with open(mask_path(prefix), "wb") as stream:
                for number in numbers:
                    part = mask[starts[number] : starts[number] + sizes[number]]
                    counted += np.count_nonzero(part)
                    stream.write(part.tobytes())
        columns = {name: [column[number] for number in numbers] for name, column in self._columns.items()}
        columns["tokens"] = sizes[numbers].tolist()
        write_documents(prefix, [columns])
        return {**_count(columns), **({"answer_tokens": counted} if self.masked else {})}


def _choose(hashes: np.ndarray, share: float) -> np.ndarray:
    """Which documents are for validation, bool: those with a low hash. No split is empty if hashes differ."""
    chosen = hashes < np.uint64(int(share * _HASHES))
    if share and chosen.all():
        return hashes < hashes.max()
    if share and not chosen.any() and (hashes != hashes[0]).any():
        return hashes == hashes.min()
    return chosen


def _count(columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    counts: dict[str, dict[str, int]] = {}
    for language, size, tokens in zip(columns["language"], columns["bytes"], columns["tokens"], strict=True):
        entry = counts.setdefault(language or "unknown", dict.fromkeys(TOTALS, 0))
        for name, amount in zip(TOTALS, (1, tokens, size), strict=True):
            entry[name] += amount
    total = {name: sum(entry[name] for entry in counts.values()) for name in TOTALS}
    return {**total, "languages": dict(sorted(counts.items(), key=lambda item: (-item[1]["bytes"], item[0])))}


def write_report(directory: Path, splits: Mapping[str, Any], sizes: Sequence[int], rest: Mapping[str, Any]) -> None:
    """report.json and report.html.

    Args:
        splits: what `DatasetWriter.write` returned.
        sizes: tokens of each document.
        rest: what the splits do not tell: `input`, `dropped`, `problems`, `settings` and so on.
    """
    languages: dict[str, dict[str, int]] = {}
    for split in splits.values():
        for language, counts in split["languages"].items():
            entry = languages.setdefault(language, dict.fromkeys(TOTALS, 0))
            for name in TOTALS:
                entry[name] += counts[name]
    report = {
        "format": REPORT_FORMAT,
        "version": REPORT_VERSION,
        "kept": {name: sum(split[name] for split in splits.values()) for name in TOTALS},
        "splits": {title: {name: split[name] for name in TOTALS} for title, split in splits.items()},
        "languages": languages,
        "lengths": length_histogram(np.array(sizes, np.int64)),
        "redacted": {},
        **rest,
    }
    write_json(directory / REPORT_JSON, report)
    (directory / REPORT_HTML).write_text(render(report), encoding="utf-8")


def file_records(directory: Path, masked: bool) -> dict[str, dict[str, Any]]:
    """Size and hash of each file of both splits, for dataset.json."""
    names = (*DATA_FILES, *(MASKS if masked else ()), *TABLES)
    return {name: {"bytes": (directory / name).stat().st_size, "sha256": sha256(directory / name)} for name in names}
