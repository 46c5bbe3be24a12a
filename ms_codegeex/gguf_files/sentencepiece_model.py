"""The pieces of a SentencePiece model, read from and written to its file.

The file is a protocol buffer (SentencePiece, `sentencepiece_model.proto`). The library shows no user-defined piece, and
its own classes of the messages cannot be in a process with MindSpore's, which are of another version.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.wire import FIXED32, WireError, WireReader, length_field, number_field, varint

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # ggml has the same numbers
_PIECE, _TRAINER, _NORMALISER = 1, 2, 3  # fields of the model
_TEXT, _SCORE, _TYPE = 1, 2, 3  # of a piece
_MODEL_TYPE, _BPE, _VOCAB_SIZE, _BYTE_FALLBACK = 3, 2, 4, 35  # of the trainer's settings
_NAME, _REMOVE_SPACES = 1, 4  # of the normaliser's


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
                pieces.append(
                    SentencePiece(reader.text(fields.get(_TEXT, range(0))), *struct.unpack("<f", value), kind)
                )
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
    return (
        bytes(model)
        + _field(_TRAINER, trainer)
        + _field(_NORMALISER, _field(_NAME, b"identity") + number_field(_REMOVE_SPACES, 0))
    )
