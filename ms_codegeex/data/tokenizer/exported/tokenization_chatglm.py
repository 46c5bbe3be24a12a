"""CodeGeeX2's tokenizer for transformers 4.48 to 5.x, with `trust_remote_code=True`; tokenizer.model holds it all."""

import shutil
from pathlib import Path

import transformers

if not (4, 48) <= tuple(map(int, transformers.__version__.split(".")[:2])) < (6, 0):
    raise ImportError(
        f"CodeGeeX2's tokenizer works with transformers 4.48 to 5.x, this is {transformers.__version__}; "
        'pip install "transformers>=4.48,<6"'
    )

from sentencepiece import SentencePieceProcessor
from transformers import PreTrainedTokenizer

COMMANDS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")  # their ids follow those of the SentencePiece model
SPACE = "\u2581"  # SentencePiece's marker of a space


class ChatGLMTokenizer(PreTrainedTokenizer):
    """A SentencePiece model and five command tokens. A text begins with `[gMASK] sop`. Names of special tokens in it
    are ordinary text, as in the release, and special ids add nothing to a decoded text."""

    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012
    vocab_files_names = {"vocab_file": "tokenizer.model"}  # noqa: RUF012 (transformers reads it from the class)
    padding_side = "left"
    _in_chat = False

    def __init__(self, vocab_file, **settings):
        self.vocab_file = str(vocab_file)
        self.sp_model = SentencePieceProcessor(model_file=self.vocab_file)
        pieces = [self.sp_model.id_to_piece(number) for number in range(self.sp_model.get_piece_size())]
        known = {*pieces}  # where a piece has a command's name, text has the piece
        self._names = [*pieces, *(f"<{name}>" if name in known else name for name in COMMANDS)]
        self._ids = {name: number for number, name in enumerate(self._names)}
        self._prefix = [len(pieces) + COMMANDS.index(name) for name in ("[gMASK]", "sop")]
        for role, number in {"unk_token": 0, "pad_token": 0, "eos_token": 2}.items():
            settings.setdefault(role, pieces[number])
        super().__init__(**{**settings, "clean_up_tokenization_spaces": False})

    @property
    def vocab_size(self):
        return len(self._names)

    def apply_chat_template(self, *given, **options):
        """Ids begin with `[gMASK] sop`, and the end token's name at the end of the text is the end token."""
        self._in_chat = True
        try:
            return super().apply_chat_template(*given, **options)
        finally:
            self._in_chat = False

    def __call__(self, *given, **options):
        return super().__call__(*given, **{**options, **({"add_special_tokens": True} if self._in_chat else {})})

    def get_vocab(self):
        return {**self._ids, **self.added_tokens_encoder}

    def tokenize(self, text, **options):
        """Not divided at names of special tokens; at those of tokens that a user adds, as in transformers."""
        ended = self._in_chat and text.endswith(self.eos_token)
        text = text.removesuffix(self.eos_token) if ended else text
        tokens = super().tokenize(text, **options) if len(self) > self.vocab_size else self._tokenize(text)
        return [*tokens, self.eos_token] if ended else tokens

    def _tokenize(self, text, **_):
        return [self._names[number] for number in self.sp_model.encode(text)]

    def _convert_token_to_id(self, token):
        return self._ids.get(token, 0)

    def _convert_id_to_token(self, index):
        return self._names[index] if index < len(self._names) else ""  # a row of the table that no text uses

    def convert_tokens_to_string(self, tokens):
        """Their bytes; the space that SentencePiece puts before a text is removed from the first that has any."""
        data, front = b"", True
        for token in tokens:
            number, added = self._ids.get(token), token.encode()
            if number is not None:
                added = self._bytes(number)
                added = added[1:] if front and token.startswith(SPACE) else added
            front = front and not (added or token == SPACE)
            data += added
        return data.decode("utf-8", "replace")

    def _bytes(self, number):
        if number >= self.sp_model.get_piece_size() or self.sp_model.is_control(number) or number == 0:
            return b""
        piece = self._names[number]
        return bytes([int(piece[3:5], 16)]) if self.sp_model.is_byte(number) else piece.replace(SPACE, " ").encode()

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        """`[gMASK] sop` and the text; after a second text the end token, as in the release."""
        return [*self._prefix, *token_ids_0, *([] if token_ids_1 is None else [*token_ids_1, self.eos_token_id])]

    def get_special_tokens_mask(self, token_ids_0, token_ids_1=None, already_has_special_tokens=False):
        if already_has_special_tokens:
            special = {*self.all_special_ids, *range(self.vocab_size - len(COMMANDS), self.vocab_size)}
            return [int(number in special) for number in token_ids_0]
        return [1, 1, *(0 for _ in token_ids_0), *([] if token_ids_1 is None else [*(0 for _ in token_ids_1), 1])]

    def save_vocabulary(self, save_directory, filename_prefix=None):
        path = Path(save_directory) / f"{filename_prefix + '-' if filename_prefix else ''}tokenizer.model"
        if path.resolve() != Path(self.vocab_file).resolve():
            shutil.copyfile(self.vocab_file, path)
        return (str(path),)
