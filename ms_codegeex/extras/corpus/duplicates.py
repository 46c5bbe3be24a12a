"""Find documents that repeat others, in phases whose tasks use bounded memory, however many documents there are.

Exact duplicates are grouped by their hashes, and the first of each group is kept. For near duplicates, documents are
taken from the largest to the smallest, held-out documents first and equal sizes in the order of the input, and a
document is dropped if it is similar to one that is kept. No two kept documents are similar, so no split of them puts a
copy of training data into validation.

Taking the documents strictly in this order would need a single process. But whether a document is kept depends only on
the few documents that share a band with it, so they are decided in rounds. Each round compares the first document of
every group that shares a band with the rest of the group. A document that is the first in all of its groups is kept,
and every document similar to it is dropped. The next round takes the rest. After `ROUNDS` rounds few documents are
left, and all of their pairs are compared."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ms_codegeex.extras.corpus.minhash import PERMUTATIONS, are_similar, band_keys, bands_for
from ms_codegeex.extras.corpus.phases import (
    DocumentBlock,
    Documents,
    Flags,
    Mapper,
    Phases,
    directory_name,
    result_path,
)
from ms_codegeex.extras.corpus.tally import EXAMPLES

VERSION = 4
EXACT_DUPLICATE, NEAR_DUPLICATE = "exact duplicate", "near duplicate"
ROUNDS = 3
EXACT = np.dtype([("key", "<u8", 4), ("number", "<i8")])
BAND = np.dtype([("key", "<u8"), ("smaller", "<i8"), ("number", "<i8")])  # `smaller`: the document's bytes, negated
HELD_OUT = 1 << 50  # bytes added to held-out documents, to make them larger than all others
_PAIRS = 1 << 16  # pairs compared at once: their signatures take 64 MiB


@dataclass
class Duplicates:
    """Documents that repeat others. `dropped` flags them, and `examples` maps the first of them to the documents that
    are kept instead, their representatives. `instead` is None unless it is requested: int64 `[documents]`, the number
    of all documents minus the representative's number, or 0 for a document that is not dropped."""

    dropped: Flags
    examples: dict[int, int] = field(default_factory=dict)
    instead: np.ndarray | None = None

    def add(self, numbers: np.ndarray, representatives: np.ndarray) -> None:
        """Drop `numbers` and record `representatives`, the documents that are kept instead."""
        self.dropped.set(numbers)
        if self.instead is not None:
            np.maximum.at(self.instead, numbers, self.instead.size - representatives)
        for number in np.unique(numbers)[:EXAMPLES].tolist():
            kept = int(representatives[numbers == number].min())
            self.examples[number] = min(kept, self.examples.get(number, kept))
        self.examples = dict(sorted(self.examples.items())[:EXAMPLES])


def duplicates_name(shards: Sequence[Path], threshold: float) -> str:
    names = [path.name for path in shards]
    return directory_name("duplicates", version=VERSION, shards=names, threshold=threshold)


def find_duplicates(
    documents: Documents, threshold: float, directory: Path, mapper: Mapper, instead: np.ndarray | None = None
) -> dict[str, Duplicates]:
    """Return the documents to drop, by reason. Exact duplicates have the text of an earlier document, apart from line
    endings and trailing blank lines. Near duplicates have a Jaccard similarity of at least `threshold`; 0 turns them
    off. The phases write to `directory`, which lies in the work directory and is named by `duplicates_name`. `mapper`
    is as in `Phases`; `instead` is as in `Duplicates`, and is filled for both reasons."""
    phases = Phases(directory, mapper, documents.blocks())
    exact = Duplicates(Flags(len(documents)), instead=instead)
    keyed = phases.keyed("hashes", EXACT, len(documents))
    for pairs in phases.by_key("exact", keyed, _hashes, _exact_pairs):
        exact.add(pairs[:, 0], pairs[:, 1])
    if not threshold:
        return {EXACT_DUPLICATE: exact}
    return {EXACT_DUPLICATE: exact, NEAR_DUPLICATE: find_near(documents, exact.dropped, threshold, phases, instead)}


def _hashes(directory: Path, block: DocumentBlock, rows: np.ndarray) -> np.ndarray:
    hashes = np.empty(rows.size, EXACT)
    hashes["key"] = np.ascontiguousarray(block.column("text_sha256")).view("<u8")
    hashes["number"] = rows + block.first
    return hashes


def _exact_pairs(rows: np.ndarray) -> np.ndarray:
    repeated, firsts = exact_duplicates(rows["key"])
    return np.stack([rows["number"][repeated], rows["number"][firsts]], axis=1)


def exact_duplicates(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of uint64 `[documents, n]` that repeat an earlier one, ascending, and the first that each repeats."""
    order = np.lexsort(keys.T)  # stable: equal rows keep their order
    ordered = keys[order]
    fresh = np.ones(order.size, bool)
    fresh[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    firsts = order[np.flatnonzero(fresh)[np.cumsum(fresh) - 1]] if order.size else order
    repeated, kept = order[~fresh], firsts[~fresh]
    rising = np.argsort(repeated)
    return repeated[rising], kept[rising]


def find_near(
    documents: Documents, left_out: Flags, threshold: float, phases: Phases, instead: np.ndarray | None = None
) -> Duplicates:
    """Return the documents that are similar to a kept one. Documents in `left_out` are ignored."""
    near, undecided, held_out = Duplicates(Flags(len(documents)), instead=instead), ~left_out, documents.held_out
    phases.by_block("signatures", _signatures)
    for number in range(ROUNDS):
        blocked = Flags(len(documents))
        for compared in _by_bands(f"{number}", undecided, threshold, held_out, phases, compare_with_first):
            blocked.set(compared[:, 1])
        kept = undecided & ~blocked
        # This pass reads the results that the first one stored.
        for compared in _by_bands(f"{number}", undecided, threshold, held_out, phases, compare_with_first):
            pairs = compared[(compared[:, 2] == 1) & kept.at(compared[:, 0])]
            near.add(pairs[:, 1], pairs[:, 0])
        undecided = undecided & blocked & ~near.dropped
        if not undecided.any():
            return near
    similar = np.concatenate(list(_by_bands("rest", undecided, threshold, held_out, phases, compare_all)))
    by_later = np.lexsort((similar[:, 1], similar[:, 0], similar[:, 3], similar[:, 2]))
    similar = similar[by_later]
    decided: dict[int, int] = {}
    for _, earlier, _, later in similar.tolist():
        if later not in decided and earlier not in decided:
            decided[later] = earlier
    near.add(np.array(list(decided), np.int64), np.array(list(decided.values()), np.int64))
    return near


def _by_bands(
    name: str, undecided: Flags, threshold: float, held_out: int, phases: Phases, compare: Callable[..., np.ndarray]
) -> Iterator[np.ndarray]:
    bands = bands_for(threshold)
    signatures = _Signatures(phases.directory, tuple(block.first for block in phases.blocks), threshold)
    keyed = phases.keyed(f"bands{name}", BAND, undecided.count() * bands)
    make = functools.partial(_bands, bands, held_out)
    yield from phases.by_key(f"pairs{name}", keyed, make, functools.partial(compare, signatures), undecided)


def _signatures(directory: Path, block: DocumentBlock, _: np.ndarray) -> np.ndarray:
    return block.column("signature")


def _bands(bands: int, held_out: int, directory: Path, block: DocumentBlock, rows: np.ndarray) -> np.ndarray:
    rows = rows[block.column("signed")[rows]]
    signatures = np.load(result_path(directory, "signatures", block.number), mmap_mode="r", allow_pickle=False)
    table = np.empty((rows.size, bands), BAND)
    table["key"] = band_keys(np.asarray(signatures[rows]), bands)
    numbers = rows + block.first
    sizes = block.column("bytes")[rows] + HELD_OUT * (numbers < held_out)
    table["smaller"], table["number"] = -sizes[:, None], numbers[:, None]
    return table.reshape(-1)


@dataclass(frozen=True)
class _Signatures:
    """The signatures in the files of the blocks; `firsts` are the numbers of the blocks' first documents."""

    directory: Path
    firsts: Sequence[int]
    threshold: float

    def similar(self, pairs: np.ndarray) -> np.ndarray:
        """Return whether the documents of each pair, int64 `[pairs, 2]`, are similar: bool `[pairs]`."""
        similar = np.zeros(len(pairs), bool)
        for start in range(0, len(pairs), _PAIRS):
            chunk = pairs[start : start + _PAIRS]
            numbers, rows = np.unique(chunk, return_inverse=True)
            signatures, rows = self.read(numbers), rows.reshape(chunk.shape)
            first, second = signatures[rows[:, 0]], signatures[rows[:, 1]]
            similar[start : start + _PAIRS] = are_similar(first, second, self.threshold)
        return similar

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Return the signatures of documents, uint32 `[documents, PERMUTATIONS]`."""
        signatures = np.empty((numbers.size, PERMUTATIONS), np.uint32)
        blocks = np.searchsorted(np.array(self.firsts), numbers, side="right") - 1
        for block in np.unique(blocks).tolist():
            stored = np.load(result_path(self.directory, "signatures", block), mmap_mode="r", allow_pickle=False)
            here = blocks == block
            signatures[here] = stored[numbers[here] - self.firsts[block]]
        return signatures


def compare_with_first(signatures: _Signatures, rows: np.ndarray) -> np.ndarray:
    """Compare the first document of each band in `rows`, of dtype `BAND`, with the others that share the band. Return
    int64 `[pairs, 3]`: the first document, the other one, and 1 if they are similar, otherwise 0."""
    rows = _in_order(rows)
    repeated, firsts = exact_duplicates(rows["key"][:, None])
    pairs = _distinct(rows[firsts], rows[repeated])[:, 1::2]
    return np.column_stack([pairs, signatures.similar(pairs)])


def compare_all(signatures: _Signatures, rows: np.ndarray) -> np.ndarray:
    """Compare all pairs of documents that share a band in `rows`, of dtype `BAND`. Return the similar pairs, int64
    `[pairs, 4]`: `smaller` and `number` of the first document, then of the other."""
    rows = _in_order(rows)
    rows = rows[np.argsort(rows["key"], kind="stable")]  # documents with equal keys stay in their order
    keys = rows["key"]
    similar = [np.empty((0, 4), np.int64)]
    left, distance = np.arange(keys.size), 1
    while left.size:
        left = left[left + distance < keys.size]
        left = left[keys[left] == keys[left + distance]]
        pairs = _distinct(rows[left], rows[left + distance])
        similar.append(pairs[signatures.similar(pairs[:, 1::2])])
        distance += 1
    return np.unique(np.concatenate(similar), axis=0)


def _in_order(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort((rows["number"], rows["smaller"]))]


def _distinct(earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    """Return each pair of rows once, int64 `[pairs, 4]`: `smaller` and `number` of both. Pairs of a document with
    itself are omitted; they arise because two of its bands may have equal keys."""
    columns = [side[name] for side in (earlier, later) for name in ("smaller", "number")]
    return np.unique(np.stack(columns, axis=1)[earlier["number"] != later["number"]], axis=0)
