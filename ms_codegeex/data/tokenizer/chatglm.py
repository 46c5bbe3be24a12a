"""CodeGeeX2's tokenizer, which is ChatGLM2's: a SentencePiece model that the user supplies, and five command tokens.

Source: the released tokenizer and its configuration. The SentencePiece model keeps every character (identity
normalisation, byte fallback), writes a space as U+2581 and puts one more space before each text. So decoding a text is
not the same as joining its decoded parts: the first token's marker is removed only at the start of the text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_file, write_json
from ms_codegeex.data.tokenizer.base import VISIBLE, Tokenizer, not_text
from ms_codegeex.data.tokenizer.copying import AUTO_MAPS, write_module
from ms_codegeex.data.tokenizer.files import CONFIG, JSON, MODEL, check_files, read_added, read_object

COMMANDS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")  # their ids follow those of the SentencePiece model
SPACE = "\u2581"  # SentencePiece's marker of a space
_PROBE = " a  b\t\r\n\n  \u00e9\ufb01\uff21\u3000\u4f60\U0001f600 "  # characters that normalisation would change


class CodeGeeX2Tokenizer(Tokenizer):
    """The tokenizer of the SentencePiece model at `model`, `tokenizer.model` in a released directory. Ids are 0..64793
    with the released one: 64789 pieces, then `[MASK] [gMASK] [sMASK] sop eop`. A prompt starts with `[gMASK] sop`
    (64790, 64792); a document of a corpus does not and ends with `</s>` (2). The names of the command tokens are
    ordinary text, in prompts too, as in the release: `sop` is part of many words. The only text that does not survive
    is U+2581, which becomes a space. `UserError` if the file is not readable, or not a model of this kind."""

    name = "codegeex2"
    tokenizer_class = "ChatGLMTokenizer"
    eos_id = 2
    changes = "have spaces that may have been U+2581 before tokenising"

    def __init__(self, model: Path | str) -> None:
        try:
            self._data = Path(model).read_bytes()
        except OSError as error:
            raise UserError(f"{model}: not readable ({error.strerror}); restore the file") from None
        try:
            self._model = _open(self._data)
            pieces = self._model.get_piece_size()
            self.vocab_size = pieces + len(COMMANDS)
            self.prefix = (pieces + COMMANDS.index("[gMASK]"), pieces + COMMANDS.index("sop"))
            # at the front of a text a token adds one space less: see `decode` and `continuation`
            self.pieces = [self._piece_bytes(number) for number in range(pieces)] + [b""] * len(COMMANDS)
            self._marked = frozenset(n for n in range(pieces) if self._model.id_to_piece(n).startswith(SPACE))
            self._check(model)
            self._break = self.encode("\n")
        except (RuntimeError, ValueError):  # the library opens a model whose pieces are not UTF-8, and fails later
            raise UserError(
                f"{model}: not a SentencePiece model; take tokenizer.model of the released CodeGeeX2 (a file of 130 "
                "bytes or so is a Git LFS pointer: `git lfs pull` fetches the file)"
            ) from None

    @cached_property
    def divides(self) -> str:
        """All for byte-pair encoding without a longer piece that holds a line break, as in the release: merges on both
        sides of it do not depend on each other. In other kinds of model the scores of a whole text decide."""
        from sentencepiece.sentencepiece_model_pb2 import ModelProto, TrainerSpec

        is_bpe = ModelProto.FromString(self._data).trainer_spec.model_type == TrainerSpec.BPE
        return VISIBLE if is_bpe and not any(b"\n" in piece for piece in self.pieces if len(piece) > 1) else ""

    def _piece_bytes(self, number: int) -> bytes:
        piece = self._model.id_to_piece(number)
        if self._model.is_byte(number):
            return bytes([int(piece[3:5], 16)])
        if self._model.is_unknown(number) or self._model.is_control(number):
            return b""
        return piece.replace(SPACE, " ").encode()

    def _check(self, model: Path | str) -> None:
        ids = self._model.unk_id(), self._model.bos_id(), self._model.eos_id()
        if ids != (0, 1, 2):
            problem = f"unknown, begin and end of text are ids {ids}, expected (0, 1, 2)"
        elif sum(map(self._model.is_byte, range(self._model.get_piece_size()))) != 256:
            problem = "it has no piece for each of the 256 bytes"
        elif self.decode(self.encode(_PROBE)) != _PROBE:
            problem = "it changes characters or white space, so code would not survive"
        else:
            return
        raise UserError(f"{model}: {problem}; this is not CodeGeeX2's tokenizer.model, take the released file")

    def may_be_changed(self, data: bytes, size: int) -> bool:
        """Whether U+2581 in place of some spaces would give a text of this size: three bytes each instead of one."""
        lost, odd = divmod(size - len(data), 2)
        return not odd and 0 < lost <= data.count(b" ")

    def special_texts(self) -> dict[str, str]:
        unknown, _, end = map(self._model.id_to_piece, range(3))
        return {"unk_token": unknown, "pad_token": unknown, "eos_token": end}

    def encode(self, text: str) -> list[int]:
        """Ids of corpus text, every character taken literally, without prefix; never an id of 0..2 or a command."""
        try:
            if not isinstance(text, str):
                raise TypeError
            text.encode()
        except (TypeError, UnicodeEncodeError):
            raise not_text(text) from None
        return self._model.encode(text)

    def encode_inside(self, text: str) -> list[int]:
        ids = self.encode("\n" + text)
        return ids[len(self._break) :] if ids[: len(self._break)] == self._break else self.encode(text)

    def encode_prompt(self, text: str, special: bool = True) -> list[int]:
        """`[gMASK] sop` and the ids of the text, in which names of special tokens are text."""
        return [*self.prefix, *self.encode(text)]

    def _pieces(self, before: Sequence[int], ids: Iterable[int]) -> Iterator[bytes]:
        front = not any(self.token_bytes(number) for number in before if number < self.vocab_size)  # no sentinels
        for number in ids:
            data = self.token_bytes(number)
            yield data[1:] if front and number in self._marked else data
            front = front and not data

    @property
    def fingerprint(self) -> str:
        """64 hex digits over the model's bytes: equal fingerprints give equal ids for every text."""
        return hashlib.sha256(b"chatglm2\n" + self._data).hexdigest()

    def save(self, directory: Path | str) -> None:
        """Write tokenizer.model, byte for byte as it was given, into `directory`, and for transformers' `AutoTokenizer`
        tokenizer_config.json and a module with the class."""
        with atomic_file(Path(directory) / MODEL) as path:
            path.write_bytes(self._data)
        names = {"tokenizer_class": self.tokenizer_class, "auto_map": AUTO_MAPS[self.tokenizer_class]}
        write_json(Path(directory) / CONFIG, {**names, "remove_space": False, "do_lower_case": False})
        write_module(Path(directory), self.tokenizer_class)

    @classmethod
    def load(cls, directory: Path | str) -> CodeGeeX2Tokenizer:
        """The tokenizer of a released model's directory or of `save`; a missing or foreign file is a `UserError`."""
        directory = Path(directory)
        check_files(directory, (MODEL,))
        if (directory / JSON).is_file():
            there = f"other programs read it in place of {MODEL}, and their ids are others"
            raise UserError(f"{directory / JSON}: {there}; delete it, if the model was trained with {MODEL}")
        found, config = cls(directory / MODEL), read_object(directory / CONFIG, missing=True)
        pieces = {found._model.id_to_piece(number): number for number in range(found._model.get_piece_size())}
        commands = (f"<{name}>" if name in pieces else name for name in COMMANDS)  # a piece may have such a name
        vocabulary = pieces | {name: len(pieces) + number for number, name in enumerate(commands)}
        added = read_added(directory, config, {}, vocabulary, found.name, own=COMMANDS)
        texts = {**added.plain, **added.special}.items()
        pads = added.roles.get("pad_token")
        if further := [token for token, number in texts if number >= found.vocab_size and token != pads]:
            remedy = "without it, texts have other ids than in transformers; convert the model with another --tokenizer"
            raise UserError(f"{directory}: adds the token {further[0]!r:.40} to {MODEL}; {remedy}")
        return found


def _open(data: bytes) -> Any:
    from sentencepiece import SentencePieceProcessor

    if not data:
        raise ValueError("no bytes, which the library takes for a model without pieces")
    return SentencePieceProcessor(model_proto=data)
