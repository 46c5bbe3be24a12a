"""Exact and near duplicates among documents.

Exact: equal sha256. Near: the sets of word 5-grams of two documents have an estimated Jaccard similarity of at least
the threshold; the estimate comes from MinHash signatures (Broder 1997), candidates from locality-sensitive hashing.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasketch import MinHash

SHINGLE_WORDS = 5
PERMUTATIONS = 128
_CHUNK = 4096  # shingles per step: 4096 x 128 x 4 bytes stay in the processor's cache
_WORD = re.compile(rb"\w+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so multiplication modulo 2^64 loses nothing


@dataclass(frozen=True)
class Digest:
    """What is needed to compare a document with others.

    Attributes:
        sha256: 32 bytes over the document's bytes.
        signature: MinHash values `[PERMUTATIONS]` (unsigned), or None for a document without any word.
    """

    sha256: bytes
    signature: np.ndarray | None


@dataclass(frozen=True)
class Duplicate:
    """Document `kept` stands for the dropped one; `exact` tells equal bytes from mere similarity."""

    kept: int
    exact: bool


@functools.lru_cache(maxsize=1)
def _empty_sketch() -> MinHash:
    from datasketch import MinHash

    return MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=int)  # the hashes are computed here already


def _shingle_hashes(data: bytes) -> np.ndarray:
    """Distinct 32-bit hashes of the word 5-grams, sorted; a shorter document is one shingle. Words are ASCII `\\w+`."""
    known: dict[bytes, int] = {}
    words = np.array(
        [known.get(word) or known.setdefault(word, zlib.crc32(word) or 1) for word in _WORD.findall(data)],
        dtype=np.uint64,
    )
    if not words.size:
        return np.empty(0, np.uint32)
    length = min(SHINGLE_WORDS, words.size)
    count = words.size - length + 1
    mixed = np.zeros(count, np.uint64)
    for place in range(length):  # a polynomial in the word hashes: the order of words counts
        mixed = (mixed ^ (mixed >> np.uint64(29))) * _MULTIPLIER + words[place : place + count]
    mixed = (mixed ^ (mixed >> np.uint64(32))) * _MULTIPLIER
    return np.unique((mixed >> np.uint64(32)).astype(np.uint32))


def digest(data: bytes) -> Digest:
    """Sha256 and MinHash signature of one document; depends on the bytes alone."""
    hashes = _shingle_hashes(data)
    identity = hashlib.sha256(data).digest()
    if not hashes.size:
        return Digest(identity, None)
    sketch = _empty_sketch().copy()
    for start in range(0, hashes.size, _CHUNK):
        sketch.update_batch(hashes[start : start + _CHUNK].tolist())
    return Digest(identity, sketch.hashvalues)


def find_duplicates(digests: Sequence[Digest], threshold: float) -> dict[int, Duplicate]:
    """Which documents to drop, in the order given: the first of several alike is kept.

    No two documents that are kept are equal or have signatures that agree in a share `threshold` of their places. So
    whatever split is made of the kept ones afterwards, validation repeats nothing from training.

    Args:
        digests: one per document; the order decides which one is kept.
        threshold: Jaccard similarity in (0, 1] from which two documents are near duplicates; above 1: exact ones only.
    """
    dropped: dict[int, Duplicate] = {}
    first: dict[bytes, int] = {}
    for number, item in enumerate(digests):
        if item.sha256 in first:
            dropped[number] = Duplicate(first[item.sha256], exact=True)
        first.setdefault(item.sha256, number)
    if threshold <= 1:
        dropped |= _near_duplicates(digests, threshold, dropped)
    return dropped


def _near_duplicates(digests: Sequence[Digest], threshold: float, skip: dict[int, Duplicate]) -> dict[int, Duplicate]:
    from datasketch import MinHashLSH

    # Signatures that agree in a share `threshold` of their places differ in at most `differing`. With one band more
    # than that, one band agrees whole: the index finds every such pair, and false candidates are weeded out below.
    differing = math.floor((1 - threshold) * PERMUTATIONS + 1e-9)
    bands = max(differing + 1, 2)
    index = MinHashLSH(num_perm=PERMUTATIONS, params=(bands, PERMUTATIONS // bands))
    near: dict[int, Duplicate] = {}
    for number, item in enumerate(digests):
        if item.signature is None or number in skip:
            continue
        sketch = _empty_sketch().copy()
        sketch.hashvalues = item.signature
        alike = [
            other
            for other in index.query(sketch)
            if float(np.mean(digests[other].signature == item.signature)) >= threshold
        ]
        if alike:
            near[number] = Duplicate(min(alike), exact=False)
        else:
            index.insert(number, sketch)
    return near
