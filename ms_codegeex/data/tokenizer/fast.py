"""Fast encoding and decoding of corpora.

`gigatoken` agrees with the tokenizers here id for id at tens of times their speed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ms_codegeex.data.tokenizer.base import Tokenizer
from ms_codegeex.data.tokenizer.gpt2 import ByteLevelTokenizer
from ms_codegeex.data.tokenizer.tables import EOS

if TYPE_CHECKING:
    import gigatoken

# Our own tokenizer encodes texts with a special token's name: versions of the library may treat them differently.
_SPECIAL = re.compile(re.escape(EOS.encode()) + rb"|<\|extratoken_")
# No token crosses from a visible character to a line break after it, so a text may be divided there.
_BREAK = re.compile(rb"(?<=[!-~])\n")
_HINT = b"<|e"  # a plain search, which rules out nearly all texts
_SAMPLE = (
    "def f(x):\n        return x + 10_000  # it's\t\tok\r\n",
    " " * 1 + "a" + " " * 9 + "b" + " " * 10 + "c" + " " * 11 + "d" + "\t" * 10 + "e" + " " * 150 + "\n\n \n",
    "caf\u00e9 \u00df\ufb01 \u4f60\u597d \U0001f600\u200d\U00010400 \u0120\u0109 \u3000\u2028\x85\xa0x'S 'll\x7f\x01",
)


class CorpusEncoder:
    """Encodes corpus texts given as UTF-8, to the same ids as `tokenizer.encode`.

    Args:
        tokenizer: any tokenizer. If `gigatoken` cannot load it, or would encode differently, it does the work itself.

    Attributes:
        is_fast: whether `gigatoken` does the work.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._fast = _gigatoken(tokenizer) if isinstance(tokenizer, ByteLevelTokenizer) else None
        self.is_fast = self._fast is not None and all(
            self._fast.encode(text).tolist() == tokenizer.encode(text) for text in _SAMPLE
        )

    def encode(self, data: bytes) -> np.ndarray:
        """Ids `[size]` (unsigned, 32 bits or more) of valid UTF-8; neither a prefix nor the end token is among them.

        Nothing here starts a thread.
        """
        if not self.is_fast:
            return self._slowly(data)
        if _HINT not in data:
            return self._fast.encode(data)
        parts, end = [], 0
        for start, stop in _with_special_names(data):
            parts += [self._fast.encode(data[end:start]), self._slowly(data[start:stop])]
            end = stop
        return np.concatenate([*parts, self._fast.encode(data[end:])])

    def _slowly(self, data: bytes) -> np.ndarray:
        return np.array(self._tokenizer.encode(data.decode("utf-8")), np.uint32)

    def encode_inside(self, data: bytes) -> np.ndarray:
        """The same for a text that continues another; see `Tokenizer.encode_inside`."""
        if isinstance(self._tokenizer, ByteLevelTokenizer):
            return self.encode(data)
        return np.array(self._tokenizer.encode_inside(data.decode("utf-8")), np.uint32)


def _with_special_names(data: bytes) -> Iterator[tuple[int, int]]:
    """The lines with special tokens' names, as pieces between two places where the text may be divided, in order."""
    end = 0
    while match := _SPECIAL.search(data, end):
        line = data.rfind(b"\n", end, match.start())
        while line > end and not _BREAK.match(data, line):
            line = data.rfind(b"\n", end, line)
        after = _BREAK.search(data, match.end())
        start, end = max(line, end), after.start() if after else len(data)
        yield start, end


@lru_cache(maxsize=3)  # takes 0.2 s of CPU time, and a tokenizer does not change
def _gigatoken(tokenizer: ByteLevelTokenizer) -> gigatoken.Tokenizer | None:
    """The same tokenizer, from a description in the format of `tokenizer.json`; None if the library refuses it."""
    import gigatoken

    added = tokenizer._model.get_added_tokens_decoder()
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    description: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [{"id": number, "content": added[number].content, **flags} for number in sorted(added)],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {**tokenizer._tables.vocab, **{token.content: number for number, token in added.items()}},
            "merges": [" ".join(pair) for pair in tokenizer._tables.merges],
        },
    }
    try:
        return gigatoken.Tokenizer.from_json(json.dumps(description))
    except (ValueError, RuntimeError):
        return None


def text_decoder(tokenizer: Tokenizer) -> Callable[[list[int]], bytes]:
    """From ids to the bytes of their text, for many documents; half a character at an edge stays half a character."""
    if not isinstance(tokenizer, ByteLevelTokenizer):
        return lambda ids: tokenizer.decode(ids).encode()
    return lambda ids: b"".join(map(tokenizer.pieces.__getitem__, ids))  # several times as fast
