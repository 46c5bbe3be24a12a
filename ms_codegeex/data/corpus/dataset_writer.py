"""Writes a dataset from documents that arrive one by one as ids, and splits them by a hash of their text."""

from __future__ import annotations

import array
import contextlib
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.data.corpus.reading import Document
from ms_codegeex.data.corpus.selection import TRAIN, VALIDATION
from ms_codegeex.data.corpus.shards import DocumentRows, Shard, TokenFile
from ms_codegeex.data.corpus.summary import Summary, describe_splits, summarise
from ms_codegeex.data.corpus.writing import write_splits
from ms_codegeex.data.datasets.indexed import token_dtype
from ms_codegeex.data.datasets.layout import SPLITS, mask_path
from ms_codegeex.data.tokenizer import Tokenizer

_HASHES = 2**64


class DatasetWriter:
    """Collects documents in one shard in `directory`, which is temporary and empty, then writes the splits there. If it
    is `masked`, each document comes with a mask. `summary` has sums over all documents, set by `write`.
    """

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
        """Append a document: its ids `[size]`, of which the last is the end token, their mask `[size]` of 0 or 1 (None
        if the writer is not masked), and the decoded `text`, whose hash is recorded. Documents with the same `key`, a
        digest, go to the same split; empty: the text's SHA-256."""
        self._rows.add(Document(source, text, language, source), *self._tokens.add([ids[:-1]]))
        if mask is not None:
            self._mask.write(mask.astype(np.uint8).tobytes())
        self._hashes.append(int.from_bytes((key or hashlib.sha256(text).digest())[:8], "little"))

    def write(self, validation_share: float) -> dict[str, Any]:
        """Write both splits; return the entry of each in dataset.json."""
        self._stack.close()
        shard, stored = replace(self._shard, documents=len(self)), self.directory / ".documents.npz"
        self._rows.write(stored)
        chosen = _choose(np.array(self._hashes, np.uint64), validation_share)
        placed = [(shard, np.where(chosen, VALIDATION, TRAIN).astype(np.int8))]
        write_splits(self.directory, placed, self.dtype, shard.mask_path is not None)
        self.summary = summarise(placed)
        splits = describe_splits(self.summary)
        shard.ids_path.unlink()
        stored.unlink()
        if shard.mask_path is not None:
            shard.mask_path.unlink()
            for split in SPLITS:
                mask = np.fromfile(mask_path(self.directory / split), np.uint8)
                splits[split]["answer_tokens"] = int(np.count_nonzero(mask))
        return splits


def _choose(hashes: np.ndarray, share: float) -> np.ndarray:
    """Whether each document is for validation: those with a low hash are. No split is empty if hashes differ."""
    chosen = hashes < np.uint64(int(share * _HASHES))
    if share and chosen.all():
        return hashes < hashes.max()
    if share and not chosen.any() and (hashes != hashes[0]).any():
        return hashes == hashes.min()
    return chosen
