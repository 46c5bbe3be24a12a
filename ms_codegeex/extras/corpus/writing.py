"""Write the files of a dataset, from shards and each document's split, at disk speed."""

from __future__ import annotations

import array
import contextlib
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.base.files import write_json
from ms_codegeex.data.datasets import layout
from ms_codegeex.data.datasets.indexed import IndexedWriter, token_dtype
from ms_codegeex.data.tokenizer import TOKENIZER_NAMES, Tokenizer
from ms_codegeex.data.tokenizer.recorded import TOKENIZER_DIRECTORY
from ms_codegeex.extras.corpus.reading import Document
from ms_codegeex.extras.corpus.report import render
from ms_codegeex.extras.corpus.selection import TRAIN, VALIDATION
from ms_codegeex.extras.corpus.shards import DocumentRows, Shard, TokenFile
from ms_codegeex.extras.corpus.summary import Summary, describe_splits, summarise
from ms_codegeex.extras.corpus.tally import Tally

Entries = Mapping[str, Any]
REPORTED = ("dropped", "problems", "unread", "changed", "noted")  # kinds of events that report.json lists


def write_splits(
    directory: Path, placed: Iterable[tuple[Shard, np.ndarray]], dtype: np.dtype, masked: bool = False
) -> None:
    """Write `SPLIT.bin`, `SPLIT.idx` and `SPLIT.documents.parquet` for every split, and `SPLIT.mask` if `masked`.
    `placed` yields each shard, whose ids are of type `dtype`, with the splits of its documents, int8 `[documents]`."""
    with contextlib.ExitStack() as stack:
        prefixes = [directory / split for split in layout.SPLITS]
        writers = [stack.enter_context(IndexedWriter(prefix, dtype)) for prefix in prefixes]
        masks = [stack.enter_context(open(layout.mask_path(prefix), "wb")) for prefix in prefixes if masked]
        tables = [stack.enter_context(layout.DocumentsWriter(prefix)) for prefix in prefixes]
        for shard, sides in placed:
            if (sides < 0).all():
                continue
            columns = shard.read("source", "source_end", "language", "sha256", "bytes", "tokens")
            ids, sizes = np.memmap(shard.ids_path, dtype, "r"), columns["tokens"]
            mask = np.memmap(shard.mask_path, np.uint8, "r") if shard.mask_path is not None else None
            bounds = np.concatenate(([0], np.cumsum(sizes)))
            for first, last in _runs(sides):
                number, tokens = sides[first], slice(bounds[first], bounds[last])
                if number >= 0:
                    writers[number].add_run(ids[tokens], sizes[first:last])
                if number >= 0 and mask is not None:
                    masks[number].write(mask[tokens])
            sources, languages = shard.sources(columns), shard.names()["languages"]
            for number, table in enumerate(tables):
                rows = np.flatnonzero(sides == number)
                if rows.size:
                    added = {name: columns[name][rows] for name in ("sha256", "bytes", "tokens")}
                    added["source"] = [sources[row] for row in rows.tolist()]
                    added["language"] = [languages[code] for code in columns["language"][rows].tolist()]
                    table.add(added)


def _runs(values: np.ndarray) -> Iterator[tuple[int, int]]:
    edges = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), values.size]
    return itertools.pairwise(edges)


class DatasetWriter:
    """Collects documents in one shard in `directory`, a temporary and empty directory, then writes the splits there. If
    `masked`, each document has a mask. `write` sets `summary`, the sums over all documents."""

    summary: Summary

    def __init__(self, directory: Path, tokenizer: Tokenizer, masked: bool) -> None:
        self.directory = directory
        self.dtype, self._eos_id = token_dtype(tokenizer.vocab_size), tokenizer.eos_id
        self._hashes, self._rows, self._stack = array.array("Q"), DocumentRows(), contextlib.ExitStack()
        mask = directory / ".documents.mask" if masked else None
        self._shard = Shard(directory / ".documents", 0, mask)

    def __enter__(self) -> DatasetWriter:
        stream = self._stack.enter_context(open(self._shard.ids_path, "wb"))
        self._tokens = TokenFile(stream, self.dtype, self._eos_id)
        if self._shard.mask_path is not None:
            self._mask = self._stack.enter_context(open(self._shard.mask_path, "wb"))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def __len__(self) -> int:
        return len(self._rows)

    def add(
        self, ids: np.ndarray, mask: np.ndarray | None, text: bytes, source: str, language: str = "", key: bytes = b""
    ) -> None:
        """Append a document: its ids `[size]`, the last of which is the end token; their mask `[size]` of 0 and 1, or
        None if the writer is not masked; and the decoded `text`, whose hash is recorded. Documents with the same `key`,
        a digest, go to the same split. If it is empty, the SHA-256 of the text takes its place."""
        self._rows.add(Document(source, text, language, source), *self._tokens.add([ids[:-1]]))
        if mask is not None:
            self._mask.write(mask.astype(np.uint8).tobytes())
        self._hashes.append(int.from_bytes((key or hashlib.sha256(text).digest())[:8], "little"))

    def write(self, validation_share: float, held_out: int = 0) -> dict[str, Any]:
        """Write both splits and return the entry of each in dataset.json. Validation gets the first `held_out`
        documents or, if that is 0, about `validation_share` of all."""
        self._stack.close()
        shard, stored = replace(self._shard, documents=len(self)), self.directory / ".documents.npz"
        self._rows.write(stored)
        chosen = np.arange(len(self)) < held_out
        if not held_out:
            chosen = _choose(np.array(self._hashes, np.uint64), validation_share)
        placed = [(shard, np.where(chosen, VALIDATION, TRAIN).astype(np.int8))]
        write_splits(self.directory, placed, self.dtype, shard.mask_path is not None)
        self.summary = summarise(placed)
        splits = describe_splits(self.summary)
        shard.ids_path.unlink()
        stored.unlink()
        if shard.mask_path is not None:
            shard.mask_path.unlink()
            for split in layout.SPLITS:
                mask = np.fromfile(layout.mask_path(self.directory / split), np.uint8)
                splits[split]["answer_tokens"] = int(np.count_nonzero(mask))
        return splits


def _choose(hashes: np.ndarray, share: float) -> np.ndarray:
    chosen = hashes < np.uint64(int(share * 2**64))
    if share and chosen.all():
        return hashes < hashes.max()
    if share and not chosen.any() and (hashes != hashes[0]).any():
        return hashes == hashes.min()
    return chosen


def write_report(
    directory: Path, summary: Summary, size: Entries, tally: Tally, settings: Entries, extra: Entries
) -> None:
    """Write report.json and report.html, without times or host names, so equal requests give equal bytes. `summary`
    covers all documents, `size` is the amount of input (`files`, `documents`, `bytes`), `tally` counts what was
    omitted, and `extra` has entries that only some datasets have."""
    kept = range(len(layout.SPLITS))
    report = {
        "format": layout.REPORT_FORMAT,
        "version": layout.REPORT_VERSION,
        "input": size,
        "kept": summary.counts(*kept),
        "splits": {split: summary.counts(number) for number, split in enumerate(layout.SPLITS)},
        "languages": summary.language_counts(*kept),
        "lengths": summary.length_histogram(),
        **{name: counts for name, counts in tally.summed(tally.kept).items() if name in ("files", "records")},
        **{kind: dict(sorted(getattr(tally, kind).items())) for kind in REPORTED},
        **extra,
        "settings": settings,
    }
    write_json(directory / layout.REPORT_JSON, report)
    (directory / layout.REPORT_HTML).write_text(render(report), encoding="utf-8")


def write_description(
    directory: Path, tokenizer: Tokenizer, name: str, first: Entries, further: Entries
) -> dict[str, Any]:
    """Write dataset.json, with the tokenizer between the entries `first` and `further`, and return its content. If
    `name` is the tokenizer's directory, write its files too. Times and host names are omitted."""
    if name not in TOKENIZER_NAMES:
        tokenizer.save(directory / TOKENIZER_DIRECTORY)
    made_with = {"tokenizer": tokenizer.description(), "vocab_size": tokenizer.vocab_size, "eos_id": tokenizer.eos_id}
    dtype = token_dtype(tokenizer.vocab_size).name
    description = {"format": layout.FORMAT, "version": layout.VERSION, **first, **made_with, "dtype": dtype, **further}
    write_json(directory / layout.DATASET_JSON, description)
    return description
