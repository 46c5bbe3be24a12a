"""Train a tokenizer on the user's text.

For CodeGeeX, CodeGen and Qwen2 it is byte-level BPE with the family's pre-tokenisation and its tokens for white space,
or marks: the family's own class with other tables. For CodeGeeX2, whose released tokenizer may not be redistributed, it
is a SentencePiece BPE model with the properties that `CodeGeeX2Tokenizer` needs: ids 0 to 2 are unknown, begin and end
of text, and every character survives (identity normalisation, with bytes as a last resort)."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from ms_codegeex.base.digests import json_digest
from ms_codegeex.base.errors import UserError, first_line
from ms_codegeex.base.files import atomic_directory
from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.base.shipped import shipped_table
from ms_codegeex.data.languages import languages
from ms_codegeex.data.tokenizer import CONFIG, Tokenizer
from ms_codegeex.data.tokenizer.chatglm import MODEL, SPACE, CodeGeeX2Tokenizer
from ms_codegeex.data.tokenizer.files import AddedTokens
from ms_codegeex.data.tokenizer.gpt2 import (
    LONGEST_RUN,
    ByteLevelTokenizer,
    CodeGeeXTokenizer,
    CodeGenTokenizer,
    divide_as,
    own_extra_tokens,
    whitespace_tokens,
)
from ms_codegeex.data.tokenizer.qwen2 import MARKS, Qwen2Tokenizer
from ms_codegeex.data.tokenizer.tables import Tables
from ms_codegeex.extras.corpus.events import Event
from ms_codegeex.extras.corpus.reading import Search, Unit, find_units
from ms_codegeex.extras.corpus.settings import ReadingSettings
from ms_codegeex.extras.corpus.sources import Inputs, Root, hash_key, printable, user_roots
from ms_codegeex.extras.corpus.tally import Tally, read_documents
from ms_codegeex.extras.corpus.workspace import make_once

RUNS = {"codegeex": (10, 2, LONGEST_RUN), "codegeex2": (16, 1, 64)}  # --whitespace-run: default, least, most
AFTER_END = {"codegen": len(whitespace_tokens(0)), "qwen2": len(MARKS)}  # ids that follow the end token's
FAMILIES = ("codegeex", "codegen", "codegeex2", "qwen2")
MIN_PIECES = 512  # for SentencePiece: 256 bytes, three special pieces, letters
MAX_SIZE = 1_000_000
LONGEST_LINE = 1 << 14  # bytes that SentencePiece takes at once
TRAINING_VERSION = 1  # changes when equal settings would give another tokenizer
ORDER_SEED = 0


@dataclass(frozen=True)
class TokenizerSettings:
    """The settings that decide the tokenizer, apart from its text. `vocab_size` counts all ids; for codegeex2 only the
    pieces of the SentencePiece model, to which five command tokens are added. `whitespace_run`: the longest run of
    spaces that is one token; None: the family's default (codegen's is fixed). `language_tags`: for codegeex2, make each
    language's tag line one token. `max_bytes`: how much text to read. `reading`: which text."""

    vocab_size: int = 32_000
    whitespace_run: int | None = None
    language_tags: bool = False
    max_bytes: int = 64_000_000
    family: str = "codegeex2"
    reading: ReadingSettings = field(default_factory=partial(ReadingSettings, all_text=True))

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise UserError(f"--family: {self.family!r}; give one of {', '.join(FAMILIES)}")
        if self.language_tags and self.family != "codegeex2":
            raise UserError(f"--language-tags: tag lines are plain text to {self.family}; leave it out")
        if self.whitespace_run is not None and self.family not in RUNS:
            decides = f"{self.family} decides itself which white space is a token"
            raise UserError(f"--whitespace-run: {decides}; leave it out")
        default, least, most = RUNS.get(self.family, (0, 0, 0))
        run = default if self.whitespace_run is None else self.whitespace_run
        object.__setattr__(self, "whitespace_run", run)
        shown = f"{least}{' (none)' if least == 1 else ''} to {most}"
        for name, right, expected in (
            ("whitespace_run", least <= run <= most, shown),
            ("vocab_size", self.smallest <= self.vocab_size <= MAX_SIZE, f"{self.smallest} to {MAX_SIZE}"),
            ("max_bytes", self.max_bytes >= 1, "1 or more"),
        ):
            if not right:
                option = f"--{name.replace('_', '-')}"
                raise UserError(f"{option}: {getattr(self, name)} is out of range; give {expected}")

    def too_many(self, size: int, most: int) -> UserError:
        """Return the error for a text of `size` bytes, from which at most `most` tokens can be made."""
        smaller = f"--vocab-size {most}, or " if most >= self.smallest else ""
        made = f"--vocab-size: {self.vocab_size} tokens cannot be made from {size} bytes of text, but {most}"
        return UserError(f"{made}; give {smaller}more text")

    @property
    def smallest(self) -> int:
        """The least `vocab_size`: the 256 bytes and the family's special tokens."""
        return MIN_PIECES if self.family == "codegeex2" else 256 + 1 + self.added

    @property
    def added(self) -> int:
        """The number of ids that follow the end token's in a byte-level tokenizer."""
        return own_extra_tokens(self.whitespace_run) if self.family == "codegeex" else AFTER_END[self.family]

    @property
    def end_token(self) -> int | None:
        """The id that ends a document; None for codegeex2, whose command tokens follow the trained pieces."""
        return None if self.family == "codegeex2" else self.vocab_size - 1 - self.added

    @property
    def whole_tokens(self) -> list[str]:
        """For codegeex2, the texts that are one token wherever they occur."""
        runs = [SPACE * length for length in range(2, self.whitespace_run + 1)]
        tags = sorted({language.tag for language in languages("codegeex")}) if self.language_tags else []
        return [*runs, *(tag.replace(" ", SPACE) for tag in tags)]


def train_tokenizer(
    inputs: Inputs,
    output: Path,
    settings: TokenizerSettings,
    threads: int = 1,
    search: Search = find_units,
    tally: Tally | None = None,
    share: float | None = None,
) -> Tokenizer:
    """Train on source trees and records, read as `prepare` reads them, and write a tokenizer's directory. Equal text
    and settings give equal bytes. `search` finds the same as `find_units`; `tally` counts the texts. `share` is the
    validation share of the corpus that uses the same search (see `user_roots`). Raises `UserError` if `output` exists,
    an input is missing, or the text is too small for this many tokens."""
    if Path(output).exists():
        raise UserError(f"--output: {output} exists; choose another directory, or remove it")
    texts = _Texts(user_roots(inputs or None, share=share), settings, search, Tally() if tally is None else tally)
    with atomic_directory(Path(output)) as directory:
        if settings.family == "codegeex2":
            (directory / MODEL).write_bytes(_sentence_pieces(texts, settings, threads))
            tokenizer: Tokenizer = CodeGeeX2Tokenizer(directory / MODEL)
        else:
            tokenizer = _byte_pairs(texts, settings)
        tokenizer.save(directory)
    return tokenizer


def cached_tokenizer(
    inputs: Inputs, parent: Path, settings: TokenizerSettings, search: Search = find_units, share: float | None = None
) -> Path:
    """Return the directory of the tokenizer for this request, `parent/tokenizer-<12 hex digits>`, trained on first use.
    The digits depend on the settings and the places of `inputs`. Once it exists, nothing is searched or read again."""
    places = [printable(root.path) for root in user_roots(inputs)]
    key = json_digest({"version": TRAINING_VERSION, "inputs": places, "settings": asdict(settings)})
    directory = parent / f"tokenizer-{key[:12]}"
    train = partial(train_tokenizer, inputs, directory, settings, search=search, share=share)
    make_once(directory, (directory / CONFIG).is_file, train)
    return directory


def _byte_pairs(texts: _Texts, settings: TokenizerSettings) -> ByteLevelTokenizer:
    from tokenizers import Regex, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as FastTokenizer

    runs = {"codegeex": f" {{2,{settings.whitespace_run}}}", "codegen": " {2,31}|\t{2,9}"}.get(settings.family)
    bpe = FastTokenizer(models.BPE())
    divide_as(bpe, Qwen2Tokenizer.split if settings.family == "qwen2" else "")
    if runs is not None:
        removed = pre_tokenizers.Split(Regex(runs), "removed")
        bpe.pre_tokenizer = pre_tokenizers.Sequence([removed, bpe.pre_tokenizer])
    wanted = settings.vocab_size - 1 - settings.added
    trainer = trainers.BpeTrainer(
        vocab_size=wanted, min_frequency=2, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(iter(texts), trainer)
    texts.check()
    model = parse_json(bpe.to_str())["model"]
    if missing := wanted - len(model["vocab"]):
        raise settings.too_many(texts.read, settings.vocab_size - missing)
    tables = Tables.of(model["vocab"], [" ".join(pair) for pair in model["merges"]])
    if settings.family == "codegen":
        return CodeGenTokenizer(whitespace=True, tables=tables)
    if settings.family == "qwen2":
        return Qwen2Tokenizer(tables, AddedTokens(special=dict(zip(MARKS, itertools.count(len(tables.vocab))))))
    return CodeGeeXTokenizer(settings.whitespace_run, tables)


def _sentence_pieces(texts: _Texts, settings: TokenizerSettings, threads: int) -> bytes:
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=_lines(texts),
            model_writer=model,
            vocab_size=settings.vocab_size,
            user_defined_symbols=settings.whole_tokens,
            max_sentence_length=LONGEST_LINE,
            num_threads=threads,
            **shipped_table(Path(__file__).with_name("sentencepiece.yaml")),
        )
    except (RuntimeError, OSError) as error:
        if texts.interrupted:  # SentencePiece turns it into an error
            raise KeyboardInterrupt from None
        texts.check()
        if found := re.search(r"value <= (\d+)", str(error)):
            raise settings.too_many(texts.read, int(found[1])) from None
        if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error)):
            few = "are too few for the characters of this text"
            said = f"--vocab-size: {settings.vocab_size} tokens {few}"
            raise UserError(f"{said}; give --vocab-size {found[1]} or more") from None
        raise UserError(f"--input: SentencePiece cannot learn from it ({first_line(error)}); give more text") from None
    return model.getvalue()


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for line in filter(str.strip, text.splitlines()):
            while len(line) > LONGEST_LINE // 4 and len(line.encode()) > LONGEST_LINE:
                end = max(line.rfind(" ", 1, LONGEST_LINE // 4), 0) or LONGEST_LINE // 4
                yield line[:end]
                line = line[end:]
            yield line


class _Texts:
    """The texts below `roots` until `max_bytes` are read: source files in the order of a hash, as `prepare` samples
    them, then the documents of archives in order. `read` is the bytes so far; Ctrl-C sets `interrupted`."""

    def __init__(self, roots: Sequence[Root], settings: TokenizerSettings, search: Search, tally: Tally):
        self._roots, self._settings, self._search, self._tally = tuple(roots), settings, search, tally
        self.read, self.interrupted = 0, False

    def __iter__(self) -> Iterator[str]:
        try:
            yield from self._read()
        except KeyboardInterrupt:
            self.interrupted = True
            raise

    def _read(self) -> Iterator[str]:
        units, rejected, _ = self._search(self._roots, self._settings.reading, frozenset())
        units = [unit for unit in units if not any(file.held_out for file in unit.files)]
        for item in rejected:
            self._tally.add(item)
        files = [file for unit in units if unit.part is None for file in unit.files]
        files.sort(key=lambda file: (hash_key(ORDER_SEED, file.identity), file.identity))
        units = [*(Unit(file.identity, (file,)) for file in files), *(unit for unit in units if unit.part)]
        for document in read_documents(units, self._settings.reading, self._tally):
            if self.read >= self._settings.max_bytes:
                limit = f"the text from here on is not read (max_bytes {self._settings.max_bytes})"
                self._tally.add(Event(document.source, "noted", limit))
                return
            self.read += len(document.data)
            yield document.data.decode()

    def check(self) -> None:
        """Raise `UserError` if there was no text."""
        if not self.read:
            why = self._tally.nothing_left("give source trees or records (docs/prepare.md)", "texts")
            raise UserError(f"--input: no text was found: {why}")
