"""Trains a tokenizer for CodeGeeX2's architecture; its released tokenizer may not be redistributed.

It is a SentencePiece BPE model with the properties that `CodeGeeX2Tokenizer` needs: ids 0 to 2 are unknown, begin and
end of text, every character survives (identity normalisation, bytes as a last resort).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_directory
from ms_codegeex.data.corpus.reading import Document, find_units, read_unit
from ms_codegeex.data.corpus.settings import ReadingSettings
from ms_codegeex.data.corpus.sources import user_roots
from ms_codegeex.data.languages import LANGUAGES
from ms_codegeex.data.tokenizer.chatglm import MODEL, SPACE, CodeGeeX2Tokenizer

MIN_SIZE = 512  # 256 bytes, three special pieces, letters
MAX_RUN = 64
LONGEST_LINE = 1 << 14  # bytes; longer lines teach little and cost much


@dataclass(frozen=True)
class TokenizerSettings:
    """The settings that decide the tokenizer, apart from its text: the pieces of the SentencePiece model, to which five
    command tokens are added; the longest run of spaces that is one token (1: none); whether each language's tag line is
    one token; and how much text to read."""

    vocab_size: int = 32_000
    whitespace_run: int = 16
    language_tags: bool = False
    max_bytes: int = 64_000_000

    def __post_init__(self) -> None:
        for name, right, expected in (
            ("vocab_size", self.vocab_size >= MIN_SIZE, f"{MIN_SIZE} or more"),
            ("whitespace_run", 1 <= self.whitespace_run <= MAX_RUN, f"1 (none) to {MAX_RUN}"),
            ("max_bytes", self.max_bytes >= 1, "1 or more"),
        ):
            if not right:
                raise UserError(f"{name}: {getattr(self, name)} is out of range; give {expected}")

    @property
    def whole_tokens(self) -> list[str]:
        """Texts that are one token wherever they occur."""
        runs = [SPACE * length for length in range(2, self.whitespace_run + 1)]
        tags = sorted({language.tag for language in LANGUAGES}) if self.language_tags else []
        return [*runs, *(tag.replace(" ", SPACE) for tag in tags)]


def train_tokenizer(
    inputs: Sequence[Path | str], output: Path, settings: TokenizerSettings, threads: int = 1
) -> CodeGeeX2Tokenizer:
    """Train on source trees, `.jsonl` and `.parquet` files, as `prepare` reads them, and write a tokenizer's directory.
    Equal text and settings give equal bytes.

    Raises:
        UserError: `output` exists, an input is missing, or the text is too small for this many pieces.
    """
    from sentencepiece import SentencePieceTrainer

    if Path(output).exists():
        raise UserError(f"--output: {output} exists; choose another directory, or remove it")
    roots, model = user_roots(inputs or None), io.BytesIO()
    lines = _Lines(_texts(roots, settings.max_bytes))
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=settings.vocab_size,
            character_coverage=0.9995,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            user_defined_symbols=settings.whole_tokens,
            max_sentence_length=LONGEST_LINE,
            num_threads=threads,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        if not lines.count:
            raise UserError("--input: no text in there; give source trees, .jsonl or .parquet files") from None
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"--vocab-size: {settings.vocab_size} pieces cannot be made of {lines.count} lines ({reason}); give more "
            "text, or a smaller size"
        ) from None
    with atomic_directory(Path(output)) as directory:
        (directory / MODEL).write_bytes(model.getvalue())
        tokenizer = CodeGeeX2Tokenizer(directory / MODEL)
        tokenizer.save(directory)
    return tokenizer


class _Lines:
    """The lines of texts, counted. A line keeps its indentation; its end is a separate token."""

    def __init__(self, texts: Iterator[str]):
        self._texts, self.count = texts, 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            for line in text.splitlines():
                if line.strip() and len(line.encode()) <= LONGEST_LINE:
                    self.count += 1
                    yield line


def _texts(roots: Sequence, maximum: int) -> Iterator[str]:
    units, _, _ = find_units(roots, ReadingSettings(all_text=True))
    read = 0
    for unit in units:
        for item in read_unit(unit, ReadingSettings(all_text=True)):
            if isinstance(item, Document):
                if read >= maximum:
                    return
                read += len(item.data)
                yield item.data.decode()
