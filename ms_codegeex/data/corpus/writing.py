"""Writes the files of a dataset, from shards and each document's split.

Ids are copied in runs, at the speed of the disk.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.data.corpus.joining import Documents
from ms_codegeex.data.corpus.summary import Placed, Summary
from ms_codegeex.data.corpus.tally import Tally
from ms_codegeex.data.datasets.documents import write_documents
from ms_codegeex.data.datasets.indexed import IndexedWriter
from ms_codegeex.data.datasets.layout import (
    REPORT_FORMAT,
    REPORT_HTML,
    REPORT_JSON,
    REPORT_VERSION,
    SPLITS,
    mask_path,
)
from ms_codegeex.data.datasets.report import render
from ms_codegeex.files import write_json

_ROWS = 1 << 16  # of a table written at once


def write_splits(directory: Path, documents: Documents, placed: Placed, dtype: np.dtype) -> None:
    """Write `SPLIT.bin`, `SPLIT.idx` and `SPLIT.documents.parquet` of every split, and `SPLIT.mask` of masked shards.

    Args:
        directory: the directory to write.
        documents: all documents.
        placed: the split of each.
        dtype: of ids, that of the shards.
    """
    masked = any(shard.mask_path is not None for shard in documents.shards)
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(IndexedWriter(directory / split, dtype)) for split in SPLITS]
        masks = [stack.enter_context(open(mask_path(directory / split), "wb")) for split in SPLITS if masked]
        for shard, start, end in documents.parts():
            sides = placed[start:end]
            if (sides < 0).all():
                continue
            ids, sizes = np.memmap(shard.ids_path, dtype, "r"), shard.columns["tokens"]
            mask = np.memmap(shard.mask_path, np.uint8, "r") if shard.mask_path is not None else None
            bounds = np.concatenate(([0], np.cumsum(sizes)))
            for first, last in _runs(sides):
                number, tokens = sides[first], slice(bounds[first], bounds[last])
                if number >= 0:
                    writers[number].add_run(ids[tokens], sizes[first:last])
                if number >= 0 and mask is not None:
                    masks[number].write(mask[tokens])
    for number, split in enumerate(SPLITS):
        write_documents(directory / split, _rows(documents, placed, number))


def _runs(values: np.ndarray) -> Iterator[tuple[int, int]]:
    """Bounds of the maximal runs of equal values."""
    edges = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), values.size]
    return itertools.pairwise(edges)


def _rows(documents: Documents, placed: Placed, number: int) -> Iterator[dict[str, Any]]:
    """Columns of the table of the documents of one split, a batch of rows at a time."""
    waiting: list[dict[str, Any]] = []
    count = 0
    for shard, start, end in documents.parts():
        rows = np.flatnonzero(placed[start:end] == number)
        if not rows.size:
            continue
        sources, languages = shard.sources(), shard.names["languages"]
        found: dict[str, Any] = {name: shard.columns[name][rows] for name in ("sha256", "bytes", "tokens")}
        found["source"] = [sources[row] for row in rows.tolist()]
        found["language"] = [languages[code] for code in shard.columns["language"][rows].tolist()]
        waiting.append(found)
        count += rows.size
        if count >= _ROWS:
            yield _batch(waiting)
            waiting, count = [], 0
    if waiting:
        yield _batch(waiting)


def _batch(pieces: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    texts = {
        name: list(itertools.chain.from_iterable(piece[name] for piece in pieces)) for name in ("source", "language")
    }
    return {
        **texts,
        **{name: np.concatenate([piece[name] for piece in pieces]) for name in ("sha256", "bytes", "tokens")},
    }


def write_report(
    directory: Path,
    summary: Summary,
    found: Mapping[str, Any],
    tally: Tally,
    settings: Mapping[str, Any],
    extra: Mapping[str, Any],
) -> None:
    """Write report.json and report.html. They hold no times or host names, so equal requests give equal bytes.

    Args:
        directory: the directory of the dataset.
        summary: of all documents.
        found: the amount of input: `files`, `documents`, `bytes`.
        tally: counts of what was left out.
        settings: all of them.
        extra: entries that only some datasets have.
    """
    kept = range(len(SPLITS))
    report = {
        "format": REPORT_FORMAT,
        "version": REPORT_VERSION,
        "input": found,
        "kept": summary.counts(*kept),
        "splits": {split: summary.counts(number) for number, split in enumerate(SPLITS)},
        "languages": summary.language_counts(*kept),
        "lengths": summary.length_histogram(),
        "dropped": dict(sorted(tally.dropped.items())),
        "problems": dict(sorted(tally.problems.items())),
        **extra,
        "settings": settings,
    }
    write_json(directory / REPORT_JSON, report)
    (directory / REPORT_HTML).write_text(render(report), encoding="utf-8")
