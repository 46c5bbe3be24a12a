"""Finds documents that repeat others, in stages whose memory does not grow with the number of documents.

Exact duplicates are grouped by their hashes, and the first of each group is kept. Near duplicates: in the order of the
input, a document is dropped if it is similar to one that is kept. No two kept documents are similar, so no split of
them puts a repetition of the training data into validation.

Processing documents in the order of the input would need a single process. But whether a document is kept depends only
on the few documents that share a band with it. So there are rounds. In each, the first document of a group that shares
a band is compared with the others of the group. A document that is the first in all of its groups is kept, and every
document similar to it is dropped. The next round has the rest. After `ROUNDS` rounds the rest is small, and all of its
pairs are compared.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ms_codegeex.data.corpus.flags import Flags
from ms_codegeex.data.corpus.joining import Documents
from ms_codegeex.data.corpus.minhash import PERMUTATIONS, are_similar, band_keys, bands_for
from ms_codegeex.data.corpus.stages import (
    DocumentBlock,
    Mapper,
    Stages,
    blocks_of,
    by_remainder,
    parts_for,
    read_part,
    result_path,
    save_array,
    write_parted,
)
from ms_codegeex.data.corpus.tally import EXAMPLES

VERSION = 2
EXACT_DUPLICATE, NEAR_DUPLICATE = "exact duplicate", "near duplicate"
ROUNDS = 3
EXACT = np.dtype([("key", "<u8", 4), ("number", "<i8")])
BAND = np.dtype([("key", "<u8"), ("number", "<i8")])
_PAIRS = 1 << 16  # whose signatures are in memory at once: 64 MiB


@dataclass
class Duplicates:
    """Documents that repeat others.

    Attributes:
        dropped: which.
        examples: the first dropped documents, each with its representative: the document that is kept instead.
    """

    dropped: Flags
    examples: dict[int, int] = field(default_factory=dict)

    def add(self, numbers: np.ndarray, representatives: np.ndarray) -> None:
        """Drop `numbers`; `representatives` are the documents that are kept instead."""
        self.dropped.set(numbers)
        smallest = np.unique(numbers)[:EXAMPLES].tolist()
        for number in smallest:
            found = int(representatives[numbers == number].min())
            self.examples[number] = min(found, self.examples.get(number, found))
        self.examples = dict(sorted(self.examples.items())[:EXAMPLES])


def directory_name(shards: Sequence[Path], threshold: float) -> str:
    """The name of the directory for the stages' files, which depend only on the shards and the threshold."""
    decisive = {"version": VERSION, "shards": [path.name for path in shards], "threshold": threshold}
    return f"duplicates-{hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:40]}"


def find_duplicates(documents: Documents, threshold: float, directory: Path, mapper: Mapper) -> dict[str, Duplicates]:
    """Documents to drop, by reason: `exact duplicate`, and with a threshold above 0 `near duplicate`.

    Args:
        documents: of finished shards.
        threshold: Jaccard similarity in (0, 1] from which two documents are near duplicates; 0: none are.
        directory: for the stages' files, `directory_name` in the work directory.
        mapper: as in `Stages`.
    """
    stages = Stages(directory, mapper, blocks_of(documents))
    found = {EXACT_DUPLICATE: find_exact(documents, stages)}
    if threshold:
        found[NEAR_DUPLICATE] = find_near(documents, found[EXACT_DUPLICATE].dropped, threshold, stages)
    return found


def find_exact(documents: Documents, stages: Stages) -> Duplicates:
    """Documents with the same hash as an earlier one."""
    parts, found = parts_for(len(documents)), Duplicates(Flags(len(documents)))
    reduce = functools.partial(_reduce_exact, stages.directory, len(stages.blocks), parts)

    def read_hashes() -> None:
        stages.by_block("hashes", _write_hashes, lambda block: parts)

    for pairs in stages.by_part("exact", parts, reduce, read_hashes):
        found.add(pairs[:, 0], pairs[:, 1])
    stages.remove("hashes")
    return found


def _write_hashes(path: Path, block: DocumentBlock, parts: int) -> None:
    rows = np.empty(block.end - block.first, EXACT)
    rows["key"] = np.ascontiguousarray(block.column("sha256")).view("<u8")
    rows["number"] = np.arange(block.first, block.end)
    write_parted(path, by_remainder(rows["key"][:, 0], parts), rows, parts)


def _reduce_exact(directory: Path, blocks: int, parts: int, path: Path, part: int) -> None:
    rows = read_part(_paths(directory, "hashes", blocks), part, parts, EXACT)
    repeated, firsts = exact_duplicates(rows["key"])
    save_array(path, np.stack([rows["number"][repeated], rows["number"][firsts]], axis=1))


def _paths(directory: Path, stage: str, blocks: int) -> list[Path]:
    return [result_path(directory, stage, number) for number in range(blocks)]


def exact_duplicates(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of uint64 `[documents, 4]` that repeat an earlier one, ascending, and the first row that each repeats."""
    order = np.lexsort(keys.T)  # stable: among equal rows the first comes first
    ordered = keys[order]
    fresh = np.ones(order.size, bool)
    fresh[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    firsts = order[np.flatnonzero(fresh)[np.cumsum(fresh) - 1]] if order.size else order
    repeated, kept = order[~fresh], firsts[~fresh]
    rising = np.argsort(repeated)
    return repeated[rising], kept[rising]


def find_near(documents: Documents, left_out: Flags, threshold: float, stages: Stages) -> Duplicates:
    """Documents that are similar to a kept one. Documents `left_out` are ignored."""
    near, undecided = Duplicates(Flags(len(documents))), ~left_out
    for number in range(ROUNDS):
        blocked = Flags(len(documents))
        for compared in _by_bands(f"{number}", undecided, threshold, stages, compare_with_first):
            blocked.set(compared[:, 1])
        kept = undecided & ~blocked
        for compared in _by_bands(f"{number}", undecided, threshold, stages, compare_with_first):  # only read again
            pairs = compared[(compared[:, 2] == 1) & kept.at(compared[:, 0])]
            near.add(pairs[:, 1], pairs[:, 0])
        undecided = undecided & blocked & ~near.dropped
        if not undecided.any():
            return near
    similar = np.concatenate(list(_by_bands("rest", undecided, threshold, stages, compare_all)))
    decided: dict[int, int] = {}
    for earlier, later in similar[np.lexsort(similar.T)].tolist():  # by the later one, then by the earlier one
        if later not in decided and earlier not in decided:
            decided[later] = earlier
    near.add(np.array(list(decided), np.int64), np.array(list(decided.values()), np.int64))
    return near


def _by_bands(
    name: str,
    undecided: Flags,
    threshold: float,
    stages: Stages,
    reducer: Callable[[_Plan, Path, int], None],
) -> Iterator[np.ndarray]:
    """The results of `reducer`, one of the two below, for documents that are `undecided`; an array for each part."""
    bands = bands_for(threshold)
    parts = parts_for(undecided.count() * bands)
    plan = _Plan(stages.directory, tuple(block.first for block in stages.blocks), name, parts, threshold)

    def write() -> None:
        stages.by_block("signatures", _write_signatures, lambda block: None)
        choose = functools.partial(_write_bands, bands, parts)
        stages.by_block(f"bands{name}", choose, lambda block: np.packbits(undecided.between(block.first, block.end)))

    yield from stages.by_part(f"pairs{name}", parts, functools.partial(reducer, plan), write)
    stages.remove(f"bands{name}")


def _write_signatures(path: Path, block: DocumentBlock, _: None) -> None:
    """Signatures of a block in a separate file, in which each can be found by its number."""
    save_array(path, block.column("signature"))


def _write_bands(bands: int, parts: int, path: Path, block: DocumentBlock, chosen: np.ndarray) -> None:
    taken = np.unpackbits(chosen, count=block.end - block.first).astype(bool) & block.column("signed")
    rows = np.flatnonzero(taken)
    signatures = np.load(result_path(path.parent, "signatures", block.number), mmap_mode="r", allow_pickle=False)
    found = np.empty((rows.size, bands), BAND)
    found["key"] = band_keys(np.asarray(signatures[rows]), bands)
    found["number"] = (rows + block.first)[:, None]
    found = found.reshape(-1)
    write_parted(path, by_remainder(found["key"], parts), found, parts)


@dataclass(frozen=True)
class _Plan:
    """The data that the parts of one round share; `firsts` are the first documents of the blocks."""

    directory: Path
    firsts: Sequence[int]
    name: str
    parts: int
    threshold: float

    def bands(self, part: int) -> tuple[np.ndarray, np.ndarray]:
        """Keys of the bands in one part and the documents that have them, sorted by both."""
        rows = read_part(_paths(self.directory, f"bands{self.name}", len(self.firsts)), part, self.parts, BAND)
        rows = rows[np.lexsort((rows["number"], rows["key"]))]
        return rows["key"], rows["number"]

    def similar(self, pairs: np.ndarray) -> np.ndarray:
        """Whether each pair of documents is similar, bool `[pairs]`."""
        found = np.zeros(len(pairs), bool)
        for start in range(0, len(pairs), _PAIRS):
            chunk = pairs[start : start + _PAIRS]
            numbers, places = np.unique(chunk, return_inverse=True)
            signatures, places = self._signatures(numbers), places.reshape(chunk.shape)
            first, second = signatures[places[:, 0]], signatures[places[:, 1]]
            found[start : start + _PAIRS] = are_similar(first, second, self.threshold)
        return found

    def _signatures(self, numbers: np.ndarray) -> np.ndarray:
        """Signatures of documents, uint32 `[documents, PERMUTATIONS]`."""
        found = np.empty((numbers.size, PERMUTATIONS), np.uint32)
        block = np.searchsorted(np.array(self.firsts), numbers, side="right") - 1
        for place in np.unique(block).tolist():
            stored = np.load(result_path(self.directory, "signatures", place), mmap_mode="r", allow_pickle=False)
            here = block == place
            found[here] = stored[numbers[here] - self.firsts[place]]
        return found


def compare_with_first(plan: _Plan, path: Path, part: int) -> None:
    """For each band of one part, compare the first document that has it with every other one.

    Writes int64 `[pairs, 3]`: the first document, the other one, and 1 if they are similar, else 0.
    """
    keys, numbers = plan.bands(part)
    fresh = np.ones(keys.size, bool)
    fresh[1:] = keys[1:] != keys[:-1]
    firsts = numbers[np.flatnonzero(fresh)[np.cumsum(fresh) - 1]] if keys.size else numbers
    pairs = _distinct(firsts[~fresh], numbers[~fresh])
    save_array(path, np.column_stack([pairs, plan.similar(pairs)]))


def compare_all(plan: _Plan, path: Path, part: int) -> None:
    """Compare all pairs of documents that share a band of one part.

    Writes int64 `[pairs, 2]`: the similar pairs, the earlier document first.
    """
    keys, numbers = plan.bands(part)
    found = [np.empty((0, 2), np.int64)]
    left, distance = np.arange(keys.size), 1
    while left.size:
        left = left[left + distance < keys.size]
        left = left[keys[left] == keys[left + distance]]
        pairs = _distinct(numbers[left], numbers[left + distance])
        found.append(pairs[plan.similar(pairs)])
        distance += 1
    save_array(path, np.unique(np.concatenate(found), axis=0))


def _distinct(earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    """Each pair once, without pairs of a document with itself (two of its bands may have equal keys)."""
    return np.unique(np.stack([earlier, later], axis=1)[earlier != later], axis=0)
