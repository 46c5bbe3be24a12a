"""The interface of all tokenizers, and the decoding of ids piece by piece."""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from ms_codegeex.base.errors import UserError

LITERAL = "\udfff"  # in the name of a special token that is text; half of a surrogate pair is in no text
LONGEST_CHARACTER = 4  # bytes of UTF-8
_CONTINUING = {bytes([byte]) for byte in range(0x80, 0xC0)}  # those that begin no character
VISIBLE = "!-~"
INFILLING_PARTS = ("prefix", "suffix", "middle")
Broken = Literal["ignore", "replace"]  # what becomes of bytes that form no character


class Tokenizer(ABC):
    """Text to ids and back. `encode` is for corpora and takes every character literally: a file that contains
    `<|endoftext|>` must not end a document. `encode_prompt` is for prompts and gives what the released model expects
    before an answer. `name`: which tokenizer this is; `codegen-mono` is the same as `codegen-multi`. `eos_id` ends a
    document. Ids are 0 to `vocab_size` - 1; a model's table may have more rows, which no text uses. `prefix`: ids that
    every prompt starts with, and documents of a corpus do not. `pieces`: the bytes of each id, as `token_bytes` returns
    them. `divides`: no token and no choice of tokens crosses from one of these ASCII characters, ranges of a regular
    expression, to a line break; empty: they may. `infilling`: how released models with this tokenizer are asked to fill
    in the middle, in the form of `data.infilling.sentinels`; None: it has no tokens for that. `file_marks`: ids that
    precede the name of a repository, and the path of each of its files, where a document holds several; None: it has no
    such tokens. `changes`: what documents may be that do not survive, in words. `answer_ends`: names of special tokens
    that end an answer in a conversation, besides the end token and what the model's template shows."""

    name: str
    eos_id: int
    vocab_size: int
    prefix: tuple[int, ...] = ()
    pieces: Sequence[bytes]
    divides: str
    infilling: Mapping[str, Any] | None = None
    file_marks: tuple[int, int] | None = None
    changes = ""
    answer_ends: tuple[str, ...] = ()

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of corpus text, every character taken literally; neither the prefix nor the end token is among them."""

    @abstractmethod
    def encode_prompt(self, text: str, special: bool = True) -> list[int]:
        """Ids of a prompt, the prefix included. If `special`, names of special tokens are those tokens, but for parts
        that `literal` has marked. CodeGeeX2's are text in any case."""

    def literal(self, text: str) -> str:
        return text

    def said(self, text: str) -> str:
        return self.literal(text)

    def encode_inside(self, text: str) -> list[int]:
        return self.encode(text)

    def encode_marks(self, text: str) -> list[int]:
        return self.encode_inside(text)

    @property
    def sentinels(self) -> tuple[int, int, int]:
        """Ids that mark prefix, suffix and middle for infilling: its tokens for that, or else rows of the model's table
        that nothing else uses."""
        if self.infilling is not None:
            prefix, suffix, middle = (self.encode_marks(self.infilling[part])[0] for part in INFILLING_PARTS)
            return prefix, suffix, middle
        first = self._first_sentinel()
        return first, first + 1, first + 2

    def _first_sentinel(self) -> int:
        return self.vocab_size

    def is_unused(self, number: int) -> bool:
        """Whether an id is unused: `encode` never gives it, and it is neither the end token nor part of the prefix."""
        return number >= self.vocab_size

    def may_be_changed(self, data: bytes, size: int) -> bool:
        """Whether `data`, the decoded text of a document, may have been another text of `size` bytes."""
        return False

    def special_texts(self) -> dict[str, str]:
        return {}

    def token_bytes(self, number: int) -> bytes:
        """The bytes of an id in a text, maybe a part of a character; none for some special ids. `UserError`: no id."""
        if not 0 <= number < self.vocab_size:
            known = f"the {self.name} tokenizer has ids 0..{self.vocab_size - 1}"
            raise UserError(f"token id {int(number)}: {known}; give the tokenizer that made the id")
        return self.pieces[number]

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """64 hex digits over tables and parameters: equal fingerprints give equal ids for every text."""

    @abstractmethod
    def save(self, directory: Path | str) -> None:
        """Write the tokenizer's files into `directory`, under the names its released models use."""

    @classmethod
    @abstractmethod
    def load(cls, directory: Path | str) -> Tokenizer:
        """The tokenizer in `directory`; a missing, foreign or damaged file is a `UserError` that names it."""

    def description(self) -> dict[str, Any]:
        return {"name": self.name, "fingerprint": self.fingerprint}

    def decode(self, ids: Iterable[int]) -> str:
        """Text of a whole sequence; broken UTF-8 becomes U+FFFD. For ids that continue others use `continuation`: a
        tokenizer may remove a space from the front of a text, but not in the middle of one."""
        return b"".join(self._pieces((), ids)).decode("utf-8", "replace")

    def file_texts(self, ids: Sequence[int]) -> list[str]:
        """The text of a document, or those of the files of a repository that it holds."""
        mark = self.file_marks and self.file_marks[1]
        places = [place for place, number in enumerate(ids) if number == mark]
        files = (ids[start + 1 : end] for start, end in pairwise([*places, len(ids)]))
        return [self.decode(file).partition("\n")[2] for file in files] or [self.decode(ids)]

    def continuation(self, before: Sequence[int], ids: Iterable[int], broken: Broken = "ignore") -> Iterator[str]:
        """Text of `ids` after the ids `before`, in pieces of whole characters as the ids arrive. Joined, the pieces are
        the decoded text without the text of `before`. A character that `before` begins is part of them once it is
        complete; one that the last id leaves incomplete is not. Bytes that form no character are left out, or `broken`
        is "replace", and each becomes U+FFFD."""
        text = Continuation(self, before, broken)
        for number in ids:
            if piece := text.feed(number):
                yield piece

    def truncate_prompt(self, ids: Sequence[int], room: int) -> list[int]:
        """At most `room` ids of a prompt: its prefix, and as much of the rest as fits, truncated on the left.
        `UserError` if nothing but the prefix would fit."""
        if len(ids) <= room:
            return list(ids)
        kept = room - len(self.prefix)
        if kept < 1:
            raise UserError(f"prompt: room for {room} tokens, expected {len(self.prefix) + 1} or more; ask for less")
        return [*self.prefix, *ids[-kept:]]

    def truncate_text(self, ids: Sequence[int], room: int) -> list[int]:
        """The same without the end of a character whose start is gone."""
        if len(ids) <= room:
            return list(ids)
        kept, rest = [*self.prefix], self.truncate_prompt(ids, room)[len(self.prefix) :]
        for _ in range(LONGEST_CHARACTER - 1):
            if len(rest) > 1 and rest[0] < self.vocab_size and self.token_bytes(rest[0])[:1] in _CONTINUING:
                rest.pop(0)
        return kept + rest

    def _pieces(self, before: Sequence[int], ids: Iterable[int]) -> Iterator[bytes]:
        """The bytes of each of `ids` in a text that starts with the ids `before`."""
        return map(self.token_bytes, ids)


class Continuation:
    """The text of ids that follow the ids `before`, one id at a time; see `Tokenizer.continuation`."""

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = (), broken: Broken = "ignore"):
        self._ids: deque[int] = deque()
        self._pieces = tokenizer._pieces(before, iter(self._ids.popleft, None))
        self._decoder = codecs.getincrementaldecoder("utf-8")(broken)
        self._decoder.decode(_last_bytes(tokenizer, before))  # only the start of a character stays in the decoder

    def feed(self, number: int) -> str:
        self._ids.append(number)
        return self._decoder.decode(next(self._pieces))

    @property
    def within_character(self) -> bool:
        return bool(self._decoder.getstate()[0])


def _last_bytes(tokenizer: Tokenizer, ids: Sequence[int]) -> bytes:
    """The bytes of the last ids, enough to hold the start of a character; a sentinel separates texts."""
    tail = b""
    for number in reversed(ids):
        if len(tail) >= LONGEST_CHARACTER or not 0 <= number < tokenizer.vocab_size:
            break
        tail = tokenizer.token_bytes(number) + tail
    return tail


def not_text(text: Any) -> UserError:
    """The error for something that cannot be encoded."""
    if not isinstance(text, str):
        return UserError(f"text to encode is {type(text).__name__}, expected str")
    position = next((i for i, character in enumerate(text) if "\ud800" <= character <= "\udfff"), 0)
    return UserError(f"text to encode has a lone surrogate at character {position}; decode the file as UTF-8 first")
