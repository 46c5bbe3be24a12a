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


def write_splits(directory: Path, documents: Documents, placed: np.ndarray, dtype: np.dtype) -> None:
    """Write `SPLIT.bin`, `SPLIT.idx` and `SPLIT.documents.parquet` of every split, and `SPLIT.mask` of masked shards.

    Args:
        directory: the directory to write.
        documents: all documents.
        placed: for each, the number of its split in `SPLITS`, or -1 if it is left out; int8 `[documents]`.
        dtype: of ids, that of the shards.
    """
    masked = any(shard.mask_path is not None for shard in documents.shards)
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(IndexedWriter(directory / split, dtype)) for split in SPLITS]
        masks = [stack.enter_context(open(mask_path(directory / split), "wb")) for split in SPLITS if masked]
        for shard, start, end in documents.parts():
            if (placed[start:end] < 0).all():
                continue
            ids, sizes = np.memmap(shard.ids_path, dtype, "r"), documents.tokens[start:end]
            mask = np.memmap(shard.mask_path, np.uint8, "r") if shard.mask_path is not None else None
            bounds = np.concatenate(([0], np.cumsum(sizes)))
            for first, last in _runs(placed[start:end]):
                number, tokens = placed[start + first], slice(bounds[first], bounds[last])
                if number >= 0:
                    writers[number].add_run(ids[tokens], sizes[first:last])
                if number >= 0 and mask is not None:
                    masks[number].write(mask[tokens])
    for number, split in enumerate(SPLITS):
        write_documents(directory / split, _rows(documents, placed == number))


def _runs(values: np.ndarray) -> Iterator[tuple[int, int]]:
    """Bounds of the maximal runs of equal values."""
    edges = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), values.size]
    return itertools.pairwise(edges)


def _rows(documents: Documents, chosen: np.ndarray) -> Iterator[dict[str, Any]]:
    """Columns of the table of the chosen documents, a batch of rows at a time."""
    waiting: list[tuple[list[str], np.ndarray, np.ndarray]] = []
    count = 0
    for shard, start, end in documents.parts():
        rows = np.flatnonzero(chosen[start:end])
        if not rows.size:
            continue
        sources = shard.sources()
        waiting.append(([sources[row] for row in rows.tolist()], shard.columns["sha256"][rows], rows + start))
        count += rows.size
        if count >= _ROWS:
            yield _batch(documents, waiting)
            waiting, count = [], 0
    if waiting:
        yield _batch(documents, waiting)


def _batch(documents: Documents, pieces: Sequence[tuple[list[str], np.ndarray, np.ndarray]]) -> dict[str, Any]:
    sources, hashes, numbers = zip(*pieces, strict=True)
    rows = np.concatenate(numbers)
    return {
        "source": list(itertools.chain.from_iterable(sources)),
        "language": [documents.languages[code] for code in documents.language[rows].tolist()],
        "sha256": np.concatenate(hashes),
        "bytes": documents.bytes[rows],
        "tokens": documents.tokens[rows],
    }


def counts(documents: Documents, chosen: np.ndarray) -> dict[str, int]:
    """Numbers of `documents`, `tokens` and `bytes` of those with `chosen`, bool `[documents]`."""
    return {
        "documents": int(np.count_nonzero(chosen)),
        "tokens": int(documents.tokens[chosen].sum()),
        "bytes": int(documents.bytes[chosen].sum()),
    }


def language_counts(documents: Documents, chosen: np.ndarray) -> dict[str, dict[str, int]]:
    """`counts` by language, most bytes first; those of no known language under `unknown`."""
    found = {}
    for code in np.unique(documents.language[chosen]).tolist():
        found[documents.languages[code] or "unknown"] = counts(documents, chosen & (documents.language == code))
    return dict(sorted(found.items(), key=lambda item: (-item[1]["bytes"], item[0])))


def describe_splits(documents: Documents, placed: np.ndarray) -> dict[str, dict[str, Any]]:
    """The entry of each split in dataset.json: its counts, in total and by language."""
    return {
        split: {**counts(documents, placed == number), "languages": language_counts(documents, placed == number)}
        for number, split in enumerate(SPLITS)
    }


def groups_of(documents: Documents, chosen: np.ndarray) -> list[str]:
    """The packages or repositories of the chosen documents, by name."""
    return sorted(documents.groups[code] for code in np.unique(documents.group[chosen]).tolist() if code >= 0)


def length_histogram(tokens: np.ndarray) -> dict[str, list[int]]:
    """A histogram of lengths: `documents[i]` documents have at least `edges[i]` and less than `edges[i + 1]` tokens.
    `tokens` are int64 `[documents]`."""
    edges = [0, 16]
    while edges[-1] <= tokens.max(initial=0):
        edges.append(2 * edges[-1])
    return {"edges": edges, "documents": np.histogram(tokens, edges)[0].tolist()}


def write_report(
    directory: Path,
    documents: Documents,
    placed: np.ndarray,
    found: Mapping[str, Any],
    tally: Tally,
    settings: Mapping[str, Any],
    extra: Mapping[str, Any],
) -> None:
    """Write report.json and report.html. They hold no times or host names, so equal requests give equal bytes.

    Args:
        found: the amount of input: `files`, `documents`, `bytes`.
        tally: counts of what was left out.
        settings: all of them.
        extra: entries that only some datasets have.
    """
    kept = placed >= 0
    report = {
        "format": REPORT_FORMAT,
        "version": REPORT_VERSION,
        "input": found,
        "kept": counts(documents, kept),
        "splits": {split: counts(documents, placed == number) for number, split in enumerate(SPLITS)},
        "languages": language_counts(documents, kept),
        "lengths": length_histogram(documents.tokens[kept]),
        "dropped": dict(sorted(tally.dropped.items())),
        "problems": dict(sorted(tally.problems.items())),
        **extra,
        "settings": settings,
    }
    write_json(directory / REPORT_JSON, report)
    (directory / REPORT_HTML).write_text(render(report), encoding="utf-8")
