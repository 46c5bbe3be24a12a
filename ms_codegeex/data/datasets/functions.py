"""Where functions and methods begin in a split's tokens, for sequences that begin there.

A sequence that begins anywhere begins in the middle of a statement, a string or a table, and its tokens do not say in
which. "Fewer Truncations Improve Language Modeling" (Ding et al., ICML 2024) found that this harms, among other things,
the synthesis of programs. The sequences that repeat themselves most are left out: from tables, a small model learns to
repeat itself. Rae et al. (2021, "Scaling Language Models", A.1.1) filter documents by repeated n-grams too."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence

import numpy as np

# A line: at most one step of indentation, decorators of one line, and a keyword that begins functions in some language.
FUNCTION = re.compile(
    rb"\n(?P<indent>(?: {4}|\t)?)(?=[@a-z])(?:@[^\n]*\n(?P=indent))*"
    rb"(?:(?:export|default|async|pub(?:\([a-z]+\))?|private|public|static) +)*"
    rb"(?:def|fn|fun|func|function)\*? +(?:[\w$.:]+ *)?[(<\[]"
)
APART = 5 / 8  # of a sequence, at least, between two beginnings: the rest of one may be in the next one too
REPETITIVE = 1 / 4  # of the sequences, the most repetitive ones, are left out
NGRAM, _ROWS = 4, 1024  # tokens of an n-gram, and sequences in which they are counted at a time
_PIECE, _AROUND = 1 << 16, 64  # tokens that are read as text at a time, and those around them that complete lines


def function_starts(tokens: np.ndarray, pieces: Sequence[bytes], eos: int, seq_length: int) -> np.ndarray:
    """The tokens at which sequences of `seq_length` + 1 begin: int64 [sequences], in order. Each begins a line with a
    function or method, or is the next one within its indentation; the most repetitive sequences are left out. `tokens`:
    ids of the split, documents ended by `eos`. `pieces`: the bytes of each id. Reads millions of tokens a second."""
    texts = np.array([*pieces, *[b""] * max(1, eos + 2 - len(pieces))], object)  # the last one of all other ids
    texts[eos] = b"\n"  # the next document begins a line
    sizes = np.array([len(text) for text in texts])
    found = array("q")
    apart, last = max(1, int(APART * seq_length)), len(tokens) - seq_length - 1
    for first in range(0, len(tokens), _PIECE):
        begin, before = max(0, first - _AROUND), b"" if first else b"\n"
        ids = np.clip(tokens[begin : first + _PIECE + _AROUND], 0, len(texts) - 1)
        offsets = len(before) + np.concatenate(([0], np.cumsum(sizes[ids])))
        for match in FUNCTION.finditer(before + b"".join(texts[ids].tolist())):
            start = begin + (here := int(np.searchsorted(offsets, match.start("indent"))))
            whole = first <= start < first + _PIECE and offsets[here] <= match.end("indent")
            if whole and start <= last and (not found or start - found[-1] >= apart):
                found.append(start)
    starts = np.array(found, np.int64)
    shares = repeated_shares(tokens, starts, seq_length + 1)
    return starts[shares <= np.quantile(shares, 1 - REPETITIVE)] if found else starts


def repeated_shares(tokens: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """For each sequence of `length` tokens, the share of its n-grams, by their hashes, that occur in it before."""
    if length < NGRAM:
        return np.zeros(len(starts))
    shares = [np.zeros(0)]
    for first in range(0, len(starts), _ROWS):
        rows = tokens[starts[first : first + _ROWS, None] + np.arange(length)].astype(np.uint64)
        ngrams = np.lib.stride_tricks.sliding_window_view(rows, NGRAM, 1)
        hashes = np.zeros(ngrams.shape[:2], np.uint64)
        for place in range(NGRAM):
            hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + ngrams[:, :, place]
        hashes.sort(1)
        shares.append((hashes[:, 1:] == hashes[:, :-1]).sum(1) / hashes.shape[1])
    return np.concatenate(shares)
