"""CodeGeeX4's tokenizer, which is GLM-4's: byte-level BPE in a file of tiktoken, and special tokens after its ids.

Sources: GLM-4's and CodeGeeX4's published tokenizer class; CodeGeeX4's guide to infilling."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_file, write_json
from ms_codegeex.data.tokenizer.base import LITERAL, not_text
from ms_codegeex.data.tokenizer.files import (
    CONFIG,
    EOS,
    MODEL,
    AddedTokens,
    check_fields,
    check_files,
    read_added,
    read_object,
)
from ms_codegeex.data.tokenizer.gpt2 import ByteLevelTokenizer
from ms_codegeex.data.tokenizer.tables import Tables

if TYPE_CHECKING:
    import tiktoken

_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
LONGEST_SPACE = 100_000  # characters; tiktoken fails at a million
_FIRST = ("[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>")  # after the end token, whatever files say
_ROLES = tuple(f"<|{role}|>" for role in ("system", "user", "assistant", "observation"))
_PARTS = {part: f"<|code_{part}|>" for part in ("prefix", "suffix", "middle")}
_THIS = "###PATH:filename\n###LANGUAGE:\n###MODE:BLOCK\n"  # what is not known may be left out


def infilling_marks(names: Collection[str]) -> dict[str, Any] | None:
    """How a model whose tokens have these names is asked to fill in; see `Tokenizer.infilling`."""
    if not {*_PARTS.values(), "<|user|>", "<|assistant|>"} <= {*names}:
        return None
    return {
        **_PARTS,
        "order": ["suffix", "prefix", "middle"],
        "end": [EOS, *_ROLES[1:], *_PARTS.values()],
        "frame": [f"<|user|>\n{_THIS}", "<|assistant|>\n"],
        "files": ["<|user|>\n", "###REFERENCE:\n###PATH:{name}\n{text}\n", _THIS],
    }


class CodeGeeX4Tokenizer(ByteLevelTokenizer):
    """The tokenizer of the file of ranks at `model`, `tokenizer.model` in a released directory: its ids, 0..151328
    there, then `<|endoftext|>`, which ends a document, and the tokens of `added`; None: GLM-4's first ones. A prompt
    starts with `[gMASK]<sop>`, once if its text does. `UserError` if the file is not readable, or not of this kind."""

    name, tokenizer_class, kind = "codegeex4", "ChatGLM4Tokenizer", "glm4"
    ends, roles = "0-9A-Za-z", ("eos_token", "pad_token")
    answer_ends = ("<|user|>", "<|observation|>")
    by_merges = False

    def __init__(self, model: Path | str, added: AddedTokens | None = None) -> None:
        try:
            self._data = Path(model).read_bytes()
        except OSError as error:
            raise UserError(f"{model}: not readable ({error.strerror}); restore the file") from None
        self._ranked = _ranked(self._data, str(model))
        size = len(self._ranked)
        tables = Tables(dict.fromkeys(range(size + 1)), [], (hashlib.sha256(self._data).hexdigest(), ""))
        if added is None:
            added = AddedTokens(special={name: size + number for number, name in enumerate((*_FIRST, *_ROLES), 1)})
        super().__init__(tables, runs={}, names={}, further={}, added=added.with_special({**added.plain}))
        self.prefix = (self._names["[gMASK]"], self._names["<sop>"])
        self.infilling = infilling_marks(self._names)

    @cached_property
    def _encoding(self) -> tiktoken.Encoding:
        import tiktoken

        ranks = {token: number for number, token in enumerate(self._ranked)}
        return tiktoken.Encoding(self.name, pat_str=_SPLIT, mergeable_ranks=ranks, special_tokens={})

    @cached_property
    def pieces(self) -> list[bytes]:
        """The bytes of every id."""
        return [*self._ranked, EOS.encode(), *self._further]

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer.encode`."""
        try:
            text.encode()
        except (AttributeError, UnicodeEncodeError):
            raise not_text(text) from None
        places = [0]
        for space in re.finditer(r"\s+", text) if len(text) > LONGEST_SPACE else ():
            places += range(space.start() + LONGEST_SPACE, space.end(), LONGEST_SPACE)
        parts = (text[start:end] for start, end in pairwise([*places, len(text)]))
        return [number for part in parts for number in self._encoding.encode_ordinary(part)]

    def encode_prompt(self, text: str, special: bool = True) -> list[int]:
        ids = self.encode_marks(text, special)
        return ids if tuple(ids[: len(self.prefix)]) == self.prefix else [*self.prefix, *ids]

    def said(self, text: str) -> str:
        return f"{LITERAL}{self.literal(text)}" if text else text

    def save(self, directory: Path | str) -> None:
        """Write tokenizer.model, byte for byte as it was given, and tokenizer_config.json."""
        with atomic_file(Path(directory) / MODEL) as path:
            path.write_bytes(self._data)
        entries = {self.tables.eos_id: self.added.entry(EOS)}
        entries |= {n: self.added.entry(text) for text, n in {**self.added.plain, **self.added.special}.items()}
        decoder = {str(number): entries[number] for number in sorted(entries)}
        config = {"tokenizer_class": self.tokenizer_class, "added_tokens_decoder": decoder}
        write_json(Path(directory) / CONFIG, {**config, "padding_side": "left", **self.special_texts()})

    @classmethod
    def load(cls, directory: Path | str) -> CodeGeeX4Tokenizer:
        """The tokenizer of a released model's directory or of `save`; a missing or foreign file is a `UserError`."""
        directory = Path(directory)
        check_files(directory, (MODEL,))
        config = read_object(directory / CONFIG, missing=True)
        check_fields(directory, config, {}, {})
        found = cls(directory / MODEL)
        vocabulary = {f"\0{number}": number for number in range(found.tables.eos_id)} | {EOS: found.tables.eos_id}
        added = read_added(directory, config, {}, vocabulary, cls.name)
        if not added.special:
            return found
        if missing := [name for name in _FIRST if name not in added.special]:
            raise UserError(f"{directory / CONFIG}: lists no token {missing[0]}; restore the file from the model")
        return cls(directory / MODEL, added)


def file_of_ranks(pieces: Iterable[bytes]) -> bytes:
    return b"".join(base64.b64encode(piece) + b" %d\n" % rank for rank, piece in enumerate(pieces))


def _ranked(data: bytes, where: str) -> list[bytes]:
    try:
        pairs = [line.split() for line in data.splitlines()]
        ranked: Mapping[int, bytes] = {int(rank): base64.b64decode(token, validate=True) for token, rank in pairs}
    except (ValueError, binascii.Error):
        ranked = {}
    single = {bytes([byte]) for byte in range(256)}
    tokens = [ranked[number] for number in range(len(ranked)) if number in ranked]
    if len(tokens) < len(ranked) or not single <= {*tokens} or len({*tokens}) < len(tokens):
        remedy = "take that of the released model (one of 130 bytes or so is a Git LFS pointer: `git lfs pull`)"
        raise UserError(f"{where}: not a file of ranks with the 256 bytes in it; {remedy}")
    return tokens
