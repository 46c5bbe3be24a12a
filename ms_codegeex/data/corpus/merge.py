"""Shards and decisions to the files of a dataset: ids are copied in runs, at the speed of the disk."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.data.corpus.selection import Documents
from ms_codegeex.data.datasets.documents import write_documents
from ms_codegeex.data.datasets.indexed import IndexedWriter

_ROWS = 1 << 16  # of a table, written at once


def write_splits(
    directory: Path, documents: Documents, placed: np.ndarray, splits: tuple[str, ...], dtype: np.dtype
) -> None:
    """Write `SPLIT.bin`, `SPLIT.idx` and `SPLIT.documents.parquet` of every split.

    Args:
        directory: where to.
        documents: all documents.
        placed: for each the number of its split, -1 where it is left out; int8 `[documents]`.
        splits: names.
        dtype: of ids, that of the shards.
    """
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(IndexedWriter(directory / split, dtype)) for split in splits]
        for shard, start, end in zip(documents.shards, documents.starts[:-1], documents.starts[1:], strict=True):
            if (placed[start:end] < 0).all():
                continue
            ids, sizes = np.memmap(shard.ids_path, dtype, "r"), documents.tokens[start:end]
            bounds = np.concatenate(([0], np.cumsum(sizes)))
            for first, last in _runs(placed[start:end]):
                if placed[start + first] >= 0:
                    run = ids[bounds[first] : bounds[last]]
                    writers[placed[start + first]].add_run(run, sizes[first:last])
    for number, split in enumerate(splits):
        write_documents(directory / split, _rows(documents, placed == number))


def _runs(values: np.ndarray) -> Iterator[tuple[int, int]]:
    """Bounds of the longest runs of equal values."""
    edges = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), values.size]
    return itertools.pairwise(edges)


def _rows(documents: Documents, chosen: np.ndarray) -> Iterator[dict[str, Any]]:
    """Columns of the table of the chosen documents, some rows at a time."""
    numbers = np.flatnonzero(chosen)
    sources = (name for name, taken in zip(documents.sources(), chosen.tolist(), strict=True) if taken)
    for start in range(0, numbers.size, _ROWS):
        rows = numbers[start : start + _ROWS]
        yield {
            "source": list(itertools.islice(sources, rows.size)),
            "language": [documents.languages[code] for code in documents.language[rows].tolist()],
            "sha256": documents.sha256[rows],
            "bytes": documents.bytes[rows],
            "tokens": documents.tokens[rows],
        }


def counts(documents: Documents, chosen: np.ndarray) -> dict[str, int]:
    """`documents`, `tokens` and `bytes` of the chosen ones, bool `[documents]`."""
    return {
        "documents": int(np.count_nonzero(chosen)),
        "tokens": int(documents.tokens[chosen].sum()),
        "bytes": int(documents.bytes[chosen].sum()),
    }


def language_counts(documents: Documents, chosen: np.ndarray) -> dict[str, dict[str, int]]:
    """`counts` by language, most bytes first; documents of no known language are under `unknown`."""
    found = {}
    for code in np.unique(documents.language[chosen]).tolist():
        found[documents.languages[code] or "unknown"] = counts(documents, chosen & (documents.language == code))
    return dict(sorted(found.items(), key=lambda item: (-item[1]["bytes"], item[0])))


def describe_split(documents: Documents, chosen: np.ndarray) -> dict[str, Any]:
    """What dataset.json says of a split: counts, by language too, and its packages or repositories."""
    codes = np.unique(documents.group[chosen])
    return {
        **counts(documents, chosen),
        "languages": language_counts(documents, chosen),
        "packages": sorted(documents.groups[code] for code in codes.tolist() if code >= 0),
    }


def length_histogram(tokens: np.ndarray) -> dict[str, list[int]]:
    """How many documents have how many tokens: `documents[i]` of them at least `edges[i]` and less than
    `edges[i + 1]`. `tokens` are int64 `[documents]`."""
    edges = [0, 16]
    while edges[-1] <= tokens.max(initial=0):
        edges.append(2 * edges[-1])
    return {"edges": edges, "documents": np.histogram(tokens, edges)[0].tolist()}
