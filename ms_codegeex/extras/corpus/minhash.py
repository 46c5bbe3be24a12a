"""MinHash signatures, which find near duplicates among documents.

Two documents are near duplicates if the estimated Jaccard similarity of their sets of word 5-grams, or of 8-grams of
the tokens of their code, is at least the threshold. The estimate is computed from MinHash signatures (Broder 1997);
locality-sensitive hashing finds the candidates. `duplicates` does this for all documents of a corpus."""

from __future__ import annotations

import functools
import hashlib
import math
import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

SHINGLE_WORDS = 5
SHINGLE_TOKENS = 8  # more than for words: there are few different tokens
_BY_WORDS = ("", "CSS", "Markdown", "reStructuredText")  # in style sheets, names and numbers are the content
MIN_TOKEN_SHINGLES = 40  # a text with fewer is short or a table: its words are compared
PERMUTATIONS = 128
_CHUNK = 1024  # shingles per step: 1024 x 128 x 4 bytes stay in the processor's cache
_ASCII_WORD = re.compile(rb"\w+")
# Thai to Burmese, Khmer, Kana and Han have no spaces between words: each character counts as a word.
_UNSPACED = "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so multiplication modulo 2^64 is invertible

# Some lexers (C, C++, Java, C#, Scala, HTML, Makefile) take quadratic time or worse for long runs of the first kind, or
# of up to four symbols or spaces repeated: ten thousand blank lines take seconds. In ordinary files, even prose in HTML
# and TeX, the longest runs have a few hundred characters.
_RUN = re.compile(r"[\w\s*.\[\]<>$?]+|(\W{1,4})\1+")
_LONGEST_RUN = 1000


def _shingle_hashes(words: Sequence[bytes | str], length: int) -> np.ndarray:
    known = {word: zlib.crc32(word if isinstance(word, bytes) else word.encode()) for word in set(words)}
    words = np.array([known[word] for word in words], dtype=np.uint64)
    length = min(length, words.size)
    count = words.size - length + 1 if length else 0
    mixed = np.zeros(count, np.uint64)
    for index in range(length):  # a polynomial in the word hashes: the order of words counts
        mixed = (mixed ^ (mixed >> np.uint64(29))) * _MULTIPLIER + words[index : index + count]
    mixed = (mixed ^ (mixed >> np.uint64(32))) * _MULTIPLIER
    return np.unique((mixed >> np.uint64(32)).astype(np.uint32))


@functools.lru_cache(maxsize=1)
def _permutations() -> tuple[np.ndarray, np.ndarray]:
    """Return odd factors and summands, uint32 `[PERMUTATIONS, 1]`: factor * x + summand permutes the uint32 numbers."""
    numbers = np.frombuffer(hashlib.shake_128(b"MinHash").digest(8 * PERMUTATIONS), "<u4").astype(np.uint32)
    factors, summands = numbers.reshape(2, PERMUTATIONS, 1)
    return factors | np.uint32(1), summands


def signature(data: bytes, language: str = "", by: str = "words") -> np.ndarray | None:
    """Return the MinHash values of a document, uint32 `[PERMUTATIONS]`, or None if it has no words. They are those of
    words or, if `by` is `tokens`, of code tokens in a known language, if there are `MIN_TOKEN_SHINGLES`."""
    tokens = code_tokens(data, language) if by == "tokens" else None
    hashes = _shingle_hashes(tokens or (), SHINGLE_TOKENS)
    if hashes.size < MIN_TOKEN_SHINGLES:
        words = _ASCII_WORD.findall(data) if data.isascii() else _words(data.decode("utf-8", "replace"))
        hashes = _shingle_hashes(words, SHINGLE_WORDS)
    if not hashes.size:
        return None
    factors, summands = _permutations()
    lowest = np.full(PERMUTATIONS, np.iinfo(np.uint32).max, np.uint32)
    for start in range(0, hashes.size, _CHUNK):
        values = hashes[start : start + _CHUNK] * factors
        values += summands
        np.minimum(lowest, values.min(axis=1), out=lowest)
    return lowest


def _words(text: str) -> list[str]:
    return re.findall(rf"{_UNSPACED}|(?:(?!{_UNSPACED})\w)+" if re.search(_UNSPACED, text) else r"\w+", text)


def code_tokens(data: bytes, language: str) -> list[bytes] | None:
    """Return the tokens of a text in UTF-8: `i` for each name, `0` for each number, and `s` for each string or several
    in a row, followed by their words. Keywords, operators, built-in names and the words of text that is not code, as in
    HTML, stay; comments and white space are omitted. None if pygments does not know the language (a canonical name), if
    it is prose or CSS, or if pygments might take too long. A megabyte of Python takes about four seconds, of C or HTML
    one to two; splitting into words takes less than 0.2."""
    lexer = _lexer(language)
    if lexer is None:
        return None
    from pygments.token import Comment, Name, Number, String, Text

    text = data.decode("utf-8", "replace").replace("\r\n", "\n")
    if any(run.end() - run.start() > _LONGEST_RUN for run in _RUN.finditer(text)):
        return None
    tokens, last = [], Text
    for _, kind, value in lexer.get_tokens_unprocessed(text + "\n"):  # lexers may need a newline to end a last comment
        if kind in Comment and kind not in Comment.Preproc:
            continue
        if kind in Text or kind in String:
            words = [word.encode() for word in _words(value)]
            if kind in String and last not in String:
                tokens.append(b"s")
            elif not words:
                continue
            tokens += words
        elif kind in Number or (kind in Name and kind not in Name.Builtin):
            tokens.append(b"0" if kind in Number else b"i")
        else:
            tokens.append(value.strip().encode())
        last = kind
    return tokens


@functools.cache
def _lexer(language: str) -> Any | None:
    from pygments.lexers import find_lexer_class_by_name
    from pygments.util import ClassNotFound

    try:
        return None if language in _BY_WORDS else find_lexer_class_by_name(language)()
    except ClassNotFound:
        return None


def bands_for(threshold: float) -> int:
    """Return the number of bands of a signature. Two signatures that agree in a share `threshold` of their places must
    agree in all places of at least one band, so there is one band more than places in which they may differ."""
    differing = math.floor((1 - threshold) * PERMUTATIONS + 1e-9)
    return max(differing + 1, 2)


def band_keys(signatures: np.ndarray, bands: int) -> np.ndarray:
    """Return a key for each band of each signature: uint32 `[documents, PERMUTATIONS]` -> uint64 `[documents, bands]`.
    Equal values in the same band give equal keys. Places left over at the end belong to no band."""
    rows = PERMUTATIONS // bands
    values = signatures[:, : bands * rows].reshape(-1, bands, rows).astype(np.uint64)
    keys = np.broadcast_to(np.arange(1, bands + 1, dtype=np.uint64), values.shape[:2]).copy()
    for row in range(rows):
        keys = (keys ^ (keys >> np.uint64(29))) * _MULTIPLIER + values[:, :, row]
    return (keys ^ (keys >> np.uint64(32))) * _MULTIPLIER


def are_similar(signatures: np.ndarray, others: np.ndarray, threshold: float) -> np.ndarray:
    """Return whether rows of two arrays of signatures agree in a share `threshold` of places, bool `[documents]`."""
    return np.mean(signatures == others, axis=1) >= threshold
