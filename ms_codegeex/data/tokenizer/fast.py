"""Fast encoding and decoding of corpora: `gigatoken`, of the extra `corpus`, gives the tokenizers' ids at tens of times
their speed."""

from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
from binascii import b2a_base64
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ms_codegeex.data.tokenizer.base import Tokenizer
from ms_codegeex.data.tokenizer.gpt2 import ByteLevelTokenizer
from ms_codegeex.data.tokenizer.tables import token_bytes

if TYPE_CHECKING:
    import gigatoken

# How the names of special tokens begin; with this pattern twice as fast as with `in`. They are plain text here, but not
# to the library, so each is divided, where a word of letters begins and a token ends.
_SPECIAL = re.compile(rb"<\|e")
_DIVIDED = re.compile(rb"(?<=<\|)(?=e)")
_SAMPLE = (
    "def f(x):\n        return x + 10_000  # it's\t\tok\r\n",
    " " * 1 + "a" + " " * 9 + "b" + " " * 10 + "c" + " " * 11 + "d" + "\t" * 10 + "e" + " " * 150 + "\n\n \n",
    "caf\u00e9 \u00df\ufb01 \u4f60\u597d \U0001f600\u200d\U00010400 \u0120\u0109 \u3000\u2028\x85\xa0x'S 'll\x7f\x01",
)
# `sample_digest` of the named tokenizers, by fingerprint: without it, each would have to be built for the comparison.
_SAMPLE_DIGESTS = {
    "e9b296d2dc69f605566692426006ef31ef92742ba74975551697bc91d72bc5a8": "d8eddc30bac30a57",  # codegeex
    "c4c752c404ee1d808759aa11809b29d4acc5da6ea9c164dfaa50d814a0cedd78": "e6ac1727aadaaecf",  # codegen-nl
    "8e8b160805808e004f38572917ad9666f707e2d92c5d720fba8e42e3baa8095c": "1ba967d85206ccb1",  # codegen-multi, -mono
}


class CorpusEncoder:
    """Encodes corpus texts given as UTF-8, to the same ids as `tokenizer.encode`. If `gigatoken` is not installed,
    cannot load the tokenizer or would encode differently, or if a token is more than white space that a model's owner
    has added, the tokenizer does the work itself; else it `is_fast`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        known = isinstance(tokenizer, ByteLevelTokenizer) and tokenizer.by_merges and tokenizer.divides
        self._fast = _gigatoken(tokenizer) if known and all(map(str.isspace, tokenizer.runs)) else None
        self.is_fast = self._fast is not None and sample_digest(self._fast.encode) == (
            _SAMPLE_DIGESTS.get(tokenizer.fingerprint) or sample_digest(tokenizer.encode)
        )

    def encode(self, data: bytes) -> np.ndarray:
        """Ids `[size]` (unsigned, 32 bits or more) of valid UTF-8 without prefix and end token. Starts no thread."""
        if not self.is_fast:
            return np.array(self._tokenizer.encode(data.decode("utf-8")), np.uint32)
        bar = data.find(b"|")
        if bar < 0 or _SPECIAL.search(data, bar - 1) is None:
            return self._fast.encode(data)
        return np.concatenate([self._fast.encode(part) for part in _DIVIDED.split(data)])

    def encode_inside(self, data: bytes) -> np.ndarray:
        """The same for a text that continues another; see `Tokenizer.encode_inside`."""
        if isinstance(self._tokenizer, ByteLevelTokenizer):
            return self.encode(data)
        return np.array(self._tokenizer.encode_inside(data.decode("utf-8")), np.uint32)

    def last_break(self, data: bytes, start: int, end: int) -> int:
        """The last place before `end` where `data` may be divided, `start` if there is none after it: the ids of the
        part before and, encoded inside, of the part after are those of both together, whatever follows."""
        if not self._tokenizer.divides:
            return start
        line = data.rfind(b"\n", start, end)
        divided = re.compile(rb"(?<=[%b])\n" % self._tokenizer.divides.encode())
        while line > start and not divided.match(data, line):
            line = data.rfind(b"\n", start, line)
        return max(line, start)


def sample_digest(encode: Callable[[str], Iterable[int]]) -> str:
    ids = [[int(number) for number in encode(text)] for text in _SAMPLE]
    return hashlib.sha256(repr(ids).encode()).hexdigest()[:16]


@lru_cache(maxsize=3)  # takes up to 0.2 s of CPU time, and a tokenizer does not change
def _gigatoken(tokenizer: ByteLevelTokenizer) -> gigatoken.Tokenizer | None:
    try:
        import gigatoken

        with contextlib.suppress(OSError):  # no room for a temporary file
            if not tokenizer.tables.are_own:
                return _by_ranks(tokenizer)
        return gigatoken.Tokenizer.from_json(tokenizer._model.to_str())
    except (ValueError, RuntimeError, ModuleNotFoundError):
        return None


def _by_ranks(tokenizer: ByteLevelTokenizer) -> gigatoken.Tokenizer:
    import gigatoken

    with tempfile.NamedTemporaryFile(suffix=".tiktoken") as stream:
        tokens = b"".join(map(b2a_base64, token_bytes(tokenizer.tables)[: tokenizer.tables.eos_id])).splitlines()
        stream.write(b"".join(map(b"%s %d\n".__mod__, zip(tokens, range(len(tokens)), strict=True))))
        stream.flush()
        return gigatoken.Tokenizer.from_tiktoken(stream.name, "gpt2", tokenizer.runs)


def text_decoder(tokenizer: Tokenizer) -> Callable[[list[int]], bytes]:
    """From ids to the bytes of their text, for many documents; half a character at an edge stays half a character."""
    if not isinstance(tokenizer, ByteLevelTokenizer):
        return lambda ids: tokenizer.decode(ids).encode()
    return lambda ids: b"".join(map(tokenizer.pieces.__getitem__, ids))  # several times as fast
