"""A tokenizer as a GGUF file holds it: one text, score and type for each row of the model's tables."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.tokenizer import Tokenizer
from ms_codegeex.data.tokenizer.chatglm import COMMANDS, MODEL, CodeGeeX2Tokenizer
from ms_codegeex.data.tokenizer.codegeex4 import CodeGeeX4Tokenizer, file_of_ranks
from ms_codegeex.data.tokenizer.files import EOS, AddedTokens
from ms_codegeex.data.tokenizer.gpt2 import ByteLevelTokenizer, CodeGenTokenizer
from ms_codegeex.data.tokenizer.qwen2 import Qwen2Tokenizer
from ms_codegeex.data.tokenizer.tables import DIGESTS_KEY, Tables, ranked_tables, read_tables, token_bytes
from ms_codegeex.formats.wire import FIXED32, WireError, WireReader, length_field, number_field, varint

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # ggml has the same numbers
# A SentencePiece model is a protocol buffer (`sentencepiece_model.proto`). The library shows no user-defined piece, and
# importing its own classes of the messages first keeps MindSpore's, of another version, from being imported. These are
# the fields of the model, of a piece, and of the trainer's and the normaliser's settings.
_PIECE, _TRAINER, _NORMALISER = 1, 2, 3
_TEXT, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _BPE, _VOCAB_SIZE, _BYTE_FALLBACK = 3, 2, 4, 35
_NORMALISER_NAME, _REMOVE_SPACES = 1, 4
# llama.cpp finds the name of a control token anywhere in a prompt, and `people` holds `eop`: the two command tokens
# whose names are plain words have those of GLM-4's tokenizer.
_NAMES = {"sop": "<sop>", "eop": "<eop>"}
PREFIXES = dict.fromkeys(("chatglm-spm", "chatglm-bpe"), "[gMASK]<sop>")  # what prompts begin with
_ENDS = ("<unk>", "<bos>", "<eos>")  # ids 0 to 2, as llama.cpp's converter names them
_PIECES = ("<unk>", "<s>", "</s>")  # and as SentencePiece does
KEYS = "tokenizer.ggml."
_BOTH = {"add_bos_token": (None, False), "add_eos_token": (None, False)}
_FIXED: Mapping[str, Mapping[str, tuple[Any, ...]]] = {  # keys that decide ids, and what they may be, for each model
    "llama": {**_BOTH, "add_space_prefix": (None, True), "remove_extra_whitespaces": (None, False)},
    "gpt2": {**_BOTH, "pre": (None, "gpt-2", "phi-2", "qwen2", "chatglm-bpe"), "add_space_prefix": (None, False)},
}


@dataclass(frozen=True)
class Vocabulary:
    """What the keys below `tokenizer.ggml` say. `model` and `pre` are llama.cpp's names of an algorithm and of its
    pre-tokenizer; `prefix` is the text that every prompt has to begin with; `limits` are sentences on what llama.cpp
    reads differently."""

    model: str
    pre: str
    tokens: list[bytes]
    types: list[int]
    special: Mapping[str, int]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    prefix: str = ""
    limits: tuple[str, ...] = ()


def vocabulary_of(tokenizer: Tokenizer, directory: Path, rows: int, eos: int) -> Vocabulary:
    """The vocabulary of the tokenizer, which is in `directory`, for tables of `rows` rows, whose end token is `eos`.
    Raises `UserError` if the tokenizer is of another kind or has more tokens than the tables have rows."""
    if tokenizer.vocab_size > rows:
        raise UserError(f"tokenizer: has {tokenizer.vocab_size} tokens, the model's tables {rows} rows; give its own")
    make = _MAKERS.get(type(tokenizer))
    if make is None:
        raise UserError(f"tokenizer: {tokenizer.name} is not one that this model's GGUF can hold; give the model's own")
    return make(tokenizer, directory, rows, eos)


def _padding(rows: range) -> list[bytes]:
    return [f"[PAD{number}]".encode() for number in rows]


def _sentencepiece(tokenizer: CodeGeeX2Tokenizer, directory: Path, rows: int, eos: int) -> Vocabulary:
    pieces = read_pieces((directory / MODEL).read_bytes(), f"tokenizer: {MODEL}")
    whole = [piece.text for piece in pieces if piece.type == USER_DEFINED]
    limit = "of a text around {!r}, one of {} whole tokens, llama.cpp may make other ids"
    texts = [*_ENDS, *(piece.text for piece in pieces[len(_ENDS) :])]
    texts += [_NAMES.get(name, name) for name in COMMANDS]
    # whole tokens are as in llama.cpp's converter: user-defined ones would get a space after them there
    types = [NORMAL if piece.type == USER_DEFINED else piece.type for piece in pieces] + [CONTROL] * len(COMMANDS)
    return Vocabulary(
        model="llama",
        pre="chatglm-spm",
        tokens=[text.encode() for text in texts] + _padding(range(len(texts), rows)),
        types=types + [UNUSED] * (rows - len(texts)),
        scores=[*(piece.score for piece in pieces), *[0.0] * (rows - len(pieces))],
        special={"eos": eos},
        prefix=PREFIXES["chatglm-spm"],
        limits=(limit.format(whole[0], len(whole)),) if whole else (),
    )


def _byte_level(tokenizer: ByteLevelTokenizer, directory: Path, rows: int, eos: int) -> Vocabulary:
    tables = tokenizer.tables if tokenizer.by_merges else ranked_tables(tokenizer.pieces[: tokenizer.tables.eos_id])
    texts, special = list(tables.vocab), {EOS, *tokenizer.added.special}
    special -= {text for text in tokenizer.added.shown if not text.startswith("<|")}  # as in llama.cpp's converter
    added = [tokenizer.token_bytes(number) for number in range(len(texts), tokenizer.vocab_size)]
    types = [CONTROL if text in special else NORMAL for text in texts]
    types += [CONTROL if text.decode() in special else USER_DEFINED for text in added]
    joined = {merge.replace(" ", "") for merge in tables.merges}
    whole = [text for text in texts[:-1] if len(text) > 1 and text not in joined]
    limit = "llama.cpp makes several ids of the word {!r}, one of {} tokens that no two others make"
    return Vocabulary(
        model="gpt2",
        pre=_BYTE_LEVEL[type(tokenizer)],
        tokens=[*(text.encode() for text in texts), *added, *_padding(range(tokenizer.vocab_size, rows))],
        types=types + [UNUSED] * (rows - len(types)),
        merges=tables.merges,
        special={"bos": tables.eos_id, "eos": eos},
        prefix=PREFIXES.get(_BYTE_LEVEL[type(tokenizer)], ""),
        limits=(limit.format(whole[0], len(whole)),) if whole else (),
    )


# llama.cpp's name for how each divides a text into words
_BYTE_LEVEL = {CodeGenTokenizer: "gpt-2", Qwen2Tokenizer: "qwen2", CodeGeeX4Tokenizer: "chatglm-bpe"}
_MAKERS: Mapping[type, Callable[..., Vocabulary]] = {
    CodeGeeX2Tokenizer: _sentencepiece,
    **dict.fromkeys(_BYTE_LEVEL, _byte_level),
}


def tokenizer_writer(metadata: Mapping[str, Any], where: str) -> Callable[[Path], object] | None:
    """A function that writes the tokenizer of a file's keys into a directory, None if there is none of our kinds. Its
    ids are those of the tokenizer the file was made with, for every text; the bytes of its own files are not. It raises
    `UserError`, naming the file `where`, if the keys contradict each other."""
    kind, end = str(metadata.get(f"{KEYS}model")), metadata.get(f"{KEYS}eos_token_id")
    rebuild = {"llama": _write_sentencepiece, "gpt2": _write_byte_level}.get(kind)

    def write(directory: Path) -> None:
        try:
            for key, known in _FIXED[kind].items():
                if (value := metadata.get(f"{KEYS}{key}")) not in known:
                    raise ValueError(f"{KEYS}{key} is {value!r:.40}, expected {known[1]!r}")
            rebuild(_lists(metadata), directory, end, str(metadata.get(f"{KEYS}pre")))
        except (LookupError, ValueError, TypeError, OverflowError, UserError) as error:
            remedy = "convert with --tokenizer NAME|DIR"
            raise UserError(f"{where}: its tokenizer is not one of ours ({error}); {remedy}") from None

    return write if rebuild is not None else None


def _lists(metadata: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The lists below `tokenizer.ggml`; `ValueError` unless they fit together."""
    lists = {name: metadata.get(f"{KEYS}{name}", []) for name in ("tokens", "scores", "token_type", "merges")}
    for name, kind in (("tokens", str), ("scores", float), ("token_type", int), ("merges", str)):
        if not isinstance(lists[name], list) or not all(type(value) is kind for value in lists[name]):
            raise ValueError(f"{name} is not a list of that kind")
        if name not in ("tokens", "merges") and lists[name] and len(lists[name]) != len(lists["tokens"]):
            raise ValueError(f"{len(lists[name])} {name} for {len(lists['tokens'])} tokens")
    return lists


def _write_sentencepiece(lists: Mapping[str, list[Any]], directory: Path, end: Any, _pre: str) -> None:
    tokens, scores, types = lists["tokens"], lists["scores"], lists["token_type"]
    count = tokens.index(COMMANDS[0])
    names = tokens[count : count + len(COMMANDS)]
    if not scores or not types or [name.strip("<>") for name in names] != list(COMMANDS):
        raise ValueError(f"after its {count} pieces there are not {', '.join(COMMANDS)}")
    texts = [*_PIECES, *tokens[len(_PIECES) : count]]
    (directory / MODEL).write_bytes(write_model(map(SentencePiece, texts, scores, types)))
    if end not in (None, CodeGeeX2Tokenizer.eos_id):
        raise ValueError(f"its end token is {end!r:.40}")
    CodeGeeX2Tokenizer(directory / MODEL).save(directory)


def _write_byte_level(lists: Mapping[str, list[Any]], directory: Path, end: Any, pre: str) -> None:
    tokens = lists["tokens"]
    if not lists["merges"]:
        raise ValueError("it has no merges")
    eos = tokens.index(EOS)
    tables = Tables.of({token: number for number, token in enumerate(tokens[:eos])}, lists["merges"])
    if tables.eos_id != eos:
        raise ValueError("a token is there twice")
    by_ranks = pre == _BYTE_LEVEL[CodeGeeX4Tokenizer]
    if not by_ranks:
        tables.save(directory)
        tables = read_tables(directory, {DIGESTS_KEY: [*tables.digests]}, {})  # refuses what does not fit together
    kinds = lists["token_type"] or [USER_DEFINED if text.isspace() else UNUSED for text in tokens]
    added = range(eos + 1, len(tokens))
    plain, special = ({tokens[n]: n for n in added if kinds[n] == kind} for kind in (USER_DEFINED, CONTROL))
    if sorted((plain | special).values()) != [*range(eos + 1, eos + 1 + len(plain) + len(special))]:
        raise ValueError("its added tokens have gaps")
    names = {None: EOS, eos: EOS, **{number: token for token, number in special.items()}}
    if end not in names:
        raise ValueError(f"its end token is {end!r:.40}")
    added = AddedTokens(plain, special, roles={"eos_token": names[end]})
    if by_ranks:
        (directory / MODEL).write_bytes(file_of_ranks(token_bytes(tables)[:eos]))
        CodeGeeX4Tokenizer(directory / MODEL, added).save(directory)
    elif pre == _BYTE_LEVEL[Qwen2Tokenizer]:
        Qwen2Tokenizer(tables, added).save(directory)
    else:
        CodeGenTokenizer(False, tables, added).save(directory)


@dataclass(frozen=True)
class SentencePiece:
    """One piece: its text, the score by which it is merged, and its type."""

    text: str
    score: float
    type: int


def read_pieces(data: bytes, where: str) -> list[SentencePiece]:
    """The pieces of a model in the order of their ids; `UserError` naming `where` for other data."""
    reader, pieces = WireReader(io.BytesIO(data)), []
    try:
        for number, span in reader.fields(range(len(data))):
            if number == _PIECE and isinstance(span, range):
                fields = dict(reader.fields(span))
                score, kind = fields.get(_SCORE), fields.get(_TYPE, NORMAL)
                value = data[score.start : score.stop] if isinstance(score, range) else bytes(4)
                if len(value) != 4 or not isinstance(kind, int):
                    raise WireError(f"no piece before byte {span.stop}")
                text = reader.text(fields.get(_TEXT, range(0)))
                pieces.append(SentencePiece(text, *struct.unpack("<f", value), kind))
    except WireError as error:
        raise UserError(f"{where}: not a SentencePiece model ({error}); restore the file") from None
    return pieces


def _field(number: int, content: bytes) -> bytes:
    return length_field(number, len(content)) + content


def write_model(pieces: Iterable[SentencePiece]) -> bytes:
    """A model of these pieces as CodeGeeX2's is: merged by score, bytes for what no piece has, every space kept.
    `ValueError` for a type that there is none of."""
    model, count = bytearray(), 0
    for count, piece in enumerate(pieces, 1):
        if not NORMAL <= piece.type <= BYTE:
            raise ValueError(f"piece {count - 1} has the unknown type {piece.type}")
        score = varint(_SCORE << 3 | FIXED32) + struct.pack("<f", piece.score)
        model += _field(_PIECE, _field(_TEXT, piece.text.encode()) + score + number_field(_TYPE, piece.type))
    trainer = number_field(_MODEL_TYPE, _BPE) + number_field(_VOCAB_SIZE, count) + number_field(_BYTE_FALLBACK, 1)
    normaliser = _field(_NORMALISER_NAME, b"identity") + number_field(_REMOVE_SPACES, 0)
    return bytes(model) + _field(_TRAINER, trainer) + _field(_NORMALISER, normaliser)
