"""Near duplicates among documents.

Two documents are near duplicates if the estimated Jaccard similarity of their sets of word 5-grams, or of 8-grams of
the tokens of their code (`code_tokens`), is at least the threshold. The estimate comes from MinHash signatures (Broder
1997), candidates from locality-sensitive hashing. This file has the arithmetic; `duplicates` applies it to all
documents of a corpus.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
import zlib
from collections.abc import Sequence

import numpy as np

from ms_codegeex.data.corpus.code_tokens import code_tokens

SHINGLE_WORDS = 5
SHINGLE_TOKENS = 8  # there are few different tokens
PERMUTATIONS = 128
_CHUNK = 1024  # shingles per step: 1024 x 128 x 4 bytes stay in the processor's cache
_WORD = re.compile(rb"\w+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so multiplication modulo 2^64 is invertible


def _shingle_hashes(words: Sequence[bytes], length: int) -> np.ndarray:
    """Distinct 32-bit hashes of `length` words in a row, sorted; a shorter document is one shingle."""
    known: dict[bytes, int] = {}
    words = np.array(
        [known.get(word) or known.setdefault(word, zlib.crc32(word) or 1) for word in words], dtype=np.uint64
    )
    if not words.size:
        return np.empty(0, np.uint32)
    length = min(length, words.size)
    count = words.size - length + 1
    mixed = np.zeros(count, np.uint64)
    for index in range(length):  # a polynomial in the word hashes: the order of words counts
        mixed = (mixed ^ (mixed >> np.uint64(29))) * _MULTIPLIER + words[index : index + count]
    mixed = (mixed ^ (mixed >> np.uint64(32))) * _MULTIPLIER
    return np.unique((mixed >> np.uint64(32)).astype(np.uint32))


@functools.lru_cache(maxsize=1)
def _permutations() -> tuple[np.ndarray, np.ndarray]:
    """Factors (odd) and summands, uint32 `[PERMUTATIONS, 1]`: x -> factor * x + summand permutes the 32-bit numbers."""
    numbers = np.frombuffer(hashlib.shake_128(b"MinHash").digest(8 * PERMUTATIONS), "<u4").astype(np.uint32)
    factors, summands = numbers.reshape(2, PERMUTATIONS, 1)
    return factors | np.uint32(1), summands


def signature(data: bytes, language: str = "", by: str = "words") -> np.ndarray | None:
    """MinHash values of one document, uint32 `[PERMUTATIONS]`, or None without any word. They are `by` its words, ASCII
    `\\w+`, or, if its language is known, by the `tokens` of its code."""
    tokens = code_tokens(data, language) if by == "tokens" else None
    words, length = (_WORD.findall(data), SHINGLE_WORDS) if tokens is None else (tokens, SHINGLE_TOKENS)
    hashes = _shingle_hashes(words, length)
    if not hashes.size:
        return None
    factors, summands = _permutations()
    lowest = np.full(PERMUTATIONS, np.iinfo(np.uint32).max, np.uint32)
    for start in range(0, hashes.size, _CHUNK):
        values = hashes[start : start + _CHUNK] * factors
        values += summands
        np.minimum(lowest, values.min(axis=1), out=lowest)
    return lowest


def bands_for(threshold: float) -> int:
    """The number of bands of a signature. Two signatures that agree in a share `threshold` of their places must agree
    in all of at least one band, so there is one band more than places in which they may differ."""
    differing = math.floor((1 - threshold) * PERMUTATIONS + 1e-9)
    return max(differing + 1, 2)


def band_keys(signatures: np.ndarray, bands: int) -> np.ndarray:
    """A key for each band of each signature, uint32 `[documents, PERMUTATIONS]` -> uint64 `[documents, bands]`. Equal
    values in the same band give equal keys. Places that are left over belong to no band."""
    rows = PERMUTATIONS // bands
    values = signatures[:, : bands * rows].reshape(-1, bands, rows).astype(np.uint64)
    keys = np.broadcast_to(np.arange(1, bands + 1, dtype=np.uint64), values.shape[:2]).copy()
    for row in range(rows):
        keys = (keys ^ (keys >> np.uint64(29))) * _MULTIPLIER + values[:, :, row]
    return (keys ^ (keys >> np.uint64(32))) * _MULTIPLIER


def are_similar(signatures: np.ndarray, others: np.ndarray, threshold: float) -> np.ndarray:
    """Whether the rows of two arrays of signatures agree in a share `threshold` of their places, bool `[documents]`."""
    return np.mean(signatures == others, axis=1) >= threshold
