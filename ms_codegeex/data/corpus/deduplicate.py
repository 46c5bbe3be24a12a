"""Near duplicates among documents.

The sets of word 5-grams of two near duplicates have an estimated Jaccard similarity of at least the threshold; the
estimate comes from MinHash signatures (Broder 1997), candidates from locality-sensitive hashing.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
import zlib
from collections.abc import Iterable

import numpy as np

SHINGLE_WORDS = 5
PERMUTATIONS = 128
_CHUNK = 1024  # shingles per step: 1024 x 128 x 4 bytes stay in the processor's cache
_WORD = re.compile(rb"\w+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so multiplication modulo 2^64 is invertible


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


@functools.lru_cache(maxsize=1)
def _permutations() -> tuple[np.ndarray, np.ndarray]:
    """Factors (odd) and summands, uint32 `[PERMUTATIONS, 1]`: x -> factor * x + summand permutes the 32-bit numbers."""
    numbers = np.frombuffer(hashlib.shake_128(b"MinHash").digest(8 * PERMUTATIONS), "<u4").astype(np.uint32)
    factors, summands = numbers.reshape(2, PERMUTATIONS, 1)
    return factors | np.uint32(1), summands


def signature(data: bytes) -> np.ndarray | None:
    """MinHash values of one document, uint32 `[PERMUTATIONS]`, or None without any word; the bytes alone decide."""
    hashes = _shingle_hashes(data)
    if not hashes.size:
        return None
    factors, summands = _permutations()
    lowest = np.full(PERMUTATIONS, np.iinfo(np.uint32).max, np.uint32)
    for start in range(0, hashes.size, _CHUNK):
        values = hashes[start : start + _CHUNK] * factors
        values += summands
        np.minimum(lowest, values.min(axis=1), out=lowest)
    return lowest


def find_near_duplicates(signatures: np.ndarray, candidates: Iterable[int], threshold: float) -> dict[int, int]:
    """Which documents to drop, each with the one that is kept in its place: the first of several similar ones.

    No two documents that are kept have signatures that agree in a share `threshold` of their places, so that no split
    of them puts a repetition of the training data into validation.

    Args:
        signatures: uint32 `[documents, PERMUTATIONS]`.
        candidates: documents to compare, rows of `signatures`; their order decides which one is kept.
        threshold: Jaccard similarity in (0, 1] from which two documents are near duplicates.
    """
    from datasketch import MinHash, MinHashLSH

    # Signatures that agree in a share `threshold` of their places differ in at most `differing`. With one band more
    # than that, one band agrees whole: the index finds every such pair, and false candidates are weeded out below.
    differing = math.floor((1 - threshold) * PERMUTATIONS + 1e-9)
    bands = max(differing + 1, 2)
    index = MinHashLSH(num_perm=PERMUTATIONS, params=(bands, PERMUTATIONS // bands))
    sketch = MinHash(num_perm=PERMUTATIONS, hashfunc=int)  # carries one signature after the other
    near: dict[int, int] = {}
    for number in candidates:
        sketch.hashvalues = signatures[number]
        found = sorted(index.query(sketch))
        agreeing = np.mean(signatures[found] == signatures[number], axis=1) >= threshold if found else ()
        alike = [other for other, agrees in zip(found, agreeing, strict=True) if agrees]
        if alike:
            near[number] = alike[0]
        else:
            index.insert(number, sketch)
    return near
