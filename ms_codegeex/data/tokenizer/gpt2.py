"""GPT-2's byte-level BPE, and the tokenizers that add tokens for white space to it.

| name | ids | white space |
|---|---|---|
| `codegen-nl` | 50257 | none added: plain GPT-2 |
| `codegen-multi`, `codegen-mono` | 50295 | runs of 2..31 spaces and of 2..9 tabs |
| `codegeex` | 50400 | runs of 2..10 spaces, under the names `<|extratoken_10|>` and following |

Sources: the released tokenizer files; CodeGeeX paper, section 3.1."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_codegeex.base.digests import json_digest
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.data.tokenizer.base import LITERAL, VISIBLE, Tokenizer, not_text
from ms_codegeex.data.tokenizer.copying import AUTO_MAPS, spaces_steps, write_codegeex_files
from ms_codegeex.data.tokenizer.files import (
    ADDED,
    CONFIG,
    EOS,
    AddedTokens,
    Ids,
    check_fields,
    read_added,
    read_settings,
)
from ms_codegeex.data.tokenizer.tables import DIGESTS_KEY, Tables, gpt2_tables, read_tables, token_bytes

if TYPE_CHECKING:
    from tokenizers import Tokenizer as FastTokenizer

LONG = 4096  # characters, which take about ten milliseconds

EXTRA_TOKENS = 143  # <|extratoken_1|> .. <|extratoken_143|> = ids 50257 .. 50399, the first after the end token's
START_EXTRA_ID = 10  # <|extratoken_10|> stands for two spaces, _11 for three, and so on
LONGEST_RUN = EXTRA_TOKENS - START_EXTRA_ID + 2  # spaces


@lru_cache(maxsize=4)
def _byte_pair_encoder(
    tables: Tables, runs: frozenset[tuple[str, int]], late: frozenset[str], split: str
) -> FastTokenizer:
    from tokenizers import AddedToken, Tokenizer, models

    # The runs are in the BPE table under their own spelling, so that they keep their ids when they become added
    # tokens. BPE itself cannot produce them: its alphabet writes a space as U+0120 and a tab as U+0109. Added
    # tokens match leftmost and longest first. The names of special tokens are not added, which is why corpus text
    # cannot reach their ids. Ids between the runs get names that BPE cannot produce either: the library warns of gaps.
    last = max((number for _, number in runs), default=0)
    unused = {f" {number}": number for number in range(tables.eos_id + 1, last)}
    for _, number in runs:
        unused.pop(f" {number}", None)
    model = Tokenizer(models.BPE({**tables.vocab, **unused, **dict(runs)}, tables.pairs()))
    divide_as(model, split)
    in_order = sorted(runs, key=lambda run: run[1])
    model.add_tokens([AddedToken(run, normalized=run in late, special=False) for run, _ in in_order])
    return model


def divide_as(model: FastTokenizer, split: str) -> None:
    """Let a model divide text into words as GPT-2 does, or where the regular expression `split` says, after NFC."""
    from tokenizers import Regex, normalizers, pre_tokenizers

    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not split)
    if split:
        model.normalizer = normalizers.NFC()
        model.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(split), "isolated"), model.pre_tokenizer]
        )


class ByteLevelTokenizer(Tokenizer):
    """GPT-2's tokenizer with further tokens, or one of the same kind with tables of its own. `tables`: vocabulary and
    merges. `runs`: white space that is one token wherever it occurs, leftmost and longest first, with its id. `names`:
    in prompts, the names of special tokens besides `<|endoftext|>`, with their ids. `further`: the bytes of every id
    above the vocabulary's, without a gap, except those of `added`: the tokens that a model's owner has added, the end
    token among them if it is not `<|endoftext|>`."""

    kind: str  # in the fingerprint
    by_merges = True  # or by ranks alone, as tiktoken does
    split = ""  # the words of another pattern than GPT-2's; see `divide_as`
    longest = 2048  # tokens of a text, for other programs
    roles: tuple[str, ...] = ("bos_token", "eos_token", "unk_token")  # that the end token has unless others are named
    ends = VISIBLE  # of words, before a line break

    def __init__(self, tables: Tables, runs: Ids, names: Ids, further: Mapping[int, bytes], added: AddedTokens) -> None:
        self.tables, self.added, self.runs, self.names = tables, added, {**runs, **added.plain}, names
        # the pattern that finds words ends one at a line break, but an added token may hold one
        self.divides = "" if any("\n" in run for run in self.runs) else self.ends
        self._names = {EOS: tables.eos_id, **names, **added.special}
        self._name = re.compile("|".join(map(re.escape, sorted(self._names, key=len, reverse=True))))
        self.eos_id = self._names.get(added.roles.get("eos_token", EOS), tables.eos_id)
        further = {**further, **{number: text.encode() for text, number in (added.plain | added.special).items()}}
        first = tables.eos_id + 1
        self.vocab_size = max(further, default=tables.eos_id) + 1
        self._further = [further[number] for number in range(first, self.vocab_size)]

    def is_unused(self, number: int) -> bool:
        return super().is_unused(number) or number in {*self.added.special.values()} - {self.eos_id}

    def special_texts(self) -> dict[str, str]:
        return {**dict.fromkeys(self.roles, EOS), **self.added.roles}

    @cached_property  # this and the next take a tenth of a second; encoding a corpus needs neither
    def _model(self) -> FastTokenizer:
        return _byte_pair_encoder(self.tables, frozenset(self.runs.items()), self.added.late, self.split)

    @cached_property
    def pieces(self) -> list[bytes]:
        """The bytes of every id."""
        return [*token_bytes(self.tables), *self._further]

    def encode(self, text: str) -> list[int]:
        """Ids of corpus text, every character taken literally: `decode(encode(text)) == text`, and never `eos_id`."""
        try:
            if isinstance(text, str) and len(text) >= LONG:  # for one text, the library does not let other threads run
                return self._model.encode_batch_fast([text], add_special_tokens=False)[0].ids
            return self._model.encode(text, add_special_tokens=False).ids
        except (TypeError, UnicodeEncodeError):
            raise not_text(text) from None

    def encode_prompt(self, text: str, special: bool = True) -> list[int]:
        """Ids of a prompt: if `special`, names of special tokens become their ids; the rest is as in `encode`."""
        ids: list[int] = []
        for part in text.split(LITERAL):
            position = 0
            for match in self._name.finditer(part) if special else ():
                ids += self.encode(part[position : match.start()])
                ids.append(self._names[match[0]])
                position = match.end()
            ids += self.encode(part[position:])
        return ids

    def literal(self, text: str) -> str:
        return self._name.sub(lambda match: f"{match[0][0]}{LITERAL}{match[0][1:]}", text)

    encode_marks = encode_prompt

    def _save(self, directory: Path | str, config: Mapping[str, Any]) -> None:
        directory = Path(directory)
        self.tables.save(directory)
        if added := {**self.names, **self.added.plain, **self.added.special}:
            write_json(directory / ADDED, added)
        common = {"model_max_length": self.longest, "add_prefix_space": False, "clean_up_tokenization_spaces": False}
        own = {DIGESTS_KEY: [*self.tables.digests]} if self.tables.are_own else {}
        write_json(directory / CONFIG, {**config, **common, **self.special_texts(), **own})

    def _parameters(self) -> dict[str, int]:
        return {}

    @property
    def fingerprint(self) -> str:
        """64 hex digits over tables and parameters: equal fingerprints give equal ids for every text."""
        parts = {"tokenizer": self.kind, "added": {**self.names, **self.added.plain}, **self._parameters()}
        parts |= dict(zip(("vocab", "merges"), self.tables.digests, strict=True))
        parts |= {} if self.eos_id == self.tables.eos_id else {"end": self.eos_id}
        return json_digest(parts)


class CodeGeeXTokenizer(ByteLevelTokenizer):
    """CodeGeeX-13B's tokenizer; ids are 0..50399, 50256 ends a document. Ids 50266..50399 decode to runs of 2..135
    spaces, 50257..50265 to their names. In prompts `<|extratoken_1..143|>` become their ids too. With `tables` of its
    own (None: GPT-2's), the names start after its end token, and the last stands for the longest run of spaces in text.
    `max_len`: the longest run of spaces with its own token, 2..135; the released models use 10. `added`: tokens besides
    these. `UserError` if GPT-2's tables are missing or damaged, or `max_len` is out of range."""

    tokenizer_class, kind = "CodeGeeXTokenizer", "codegeex"

    def __init__(self, max_len: int = 10, tables: Tables | None = None, added: AddedTokens | None = None) -> None:
        if type(max_len) is not int or not 2 <= max_len <= LONGEST_RUN:
            expected = f"expected 2..{LONGEST_RUN} spaces, the released models use 10"
            raise UserError(f"tokenizer max_len {max_len!r}: {expected}")
        self.max_len, tables = max_len, gpt2_tables() if tables is None else tables
        added = added or AddedTokens()
        self.name = "own-codegeex" if tables.are_own or added.plain or added.special else "codegeex"
        count = own_extra_tokens(max_len) if tables.are_own else EXTRA_TOKENS
        names = {f"<|extratoken_{number}|>": tables.eos_id + number for number in range(1, count + 1)}
        first, longest = tables.eos_id + START_EXTRA_ID, count - START_EXTRA_ID + 2
        self._spaces = {" " * length: first + length - 2 for length in range(2, longest + 1)}
        runs = {run: number for run, number in self._spaces.items() if len(run) <= max_len}
        further = {number: text.encode() for text, number in (*names.items(), *self._spaces.items())}
        super().__init__(tables, runs, names, further, added)

    def _first_sentinel(self) -> int:
        return self.tables.eos_id + 1  # <|extratoken_1..3|> never stand for a run of spaces, whatever `max_len` is

    def is_unused(self, number: int) -> bool:
        extra = {*self.names.values()} - {*self.runs.values(), self.eos_id}
        return super().is_unused(number) or number in extra

    def description(self) -> dict[str, Any]:
        return {**super().description(), "max_len": self.max_len}

    def _parameters(self) -> dict[str, int]:
        return {"ws_encoding_start_id": START_EXTRA_ID, "ws_encoding_length": self.max_len}

    def save(self, directory: Path | str) -> None:
        """Write vocab.json, merges.txt, added_tokens.json and tokenizer_config.json into `directory`, and for
        transformers' `AutoTokenizer` tokenizer.json and a module with the class."""
        names = {"tokenizer_class": self.tokenizer_class, "auto_map": AUTO_MAPS[self.tokenizer_class]}
        self._save(directory, {"pad_token": EOS, **names, **self._parameters()})
        write_codegeex_files(Path(directory), self.tables, self.names, self._spaces, self.max_len, self.added)

    @classmethod
    def load(cls, directory: Path | str) -> CodeGeeXTokenizer:
        """The tokenizer saved in `directory`; a missing, foreign or damaged file is a `UserError` that names it."""
        directory = Path(directory)
        config, content = read_settings(directory)
        known = content or "ws_encoding_length" in config
        if config.get("ws_encoding_start_id", START_EXTRA_ID) != START_EXTRA_ID or not known:
            expected = f"ws_encoding_start_id {START_EXTRA_ID} and ws_encoding_length (10 in the released models)"
            raise UserError(f"{directory / CONFIG}: expected {expected}; add them")
        tables = read_tables(directory, config, content)
        max_len = config.get("ws_encoding_length", 1 + len((content.get("normalizer") or {}).get("normalizers", ())))
        found = cls(max_len, tables)
        check_fields(directory, config, content, spaces_steps(found._spaces, found.names, found.max_len))
        added = read_added(directory, config, content, tables.vocab, "codegeex")
        numbers = {**added.plain, **added.special}
        if {name: numbers.get(name) for name in found.names} != found.names:
            last, end = len(found.names), tables.eos_id
            expected = f"<|extratoken_1|> = {end + 1} to <|extratoken_{last}|> = {end + last}"
            raise UserError(f"{directory}: expected the added tokens {expected}; restore the files")
        return cls(max_len, tables, added.without(found.names))


def own_extra_tokens(max_len: int) -> int:
    return START_EXTRA_ID + max_len - 2


class CodeGenTokenizer(ByteLevelTokenizer):
    """CodeGen's tokenizer; 50256 ends a document, or the last token of other `tables` than GPT-2's. `whitespace`: with
    the 38 white space tokens of the multi and mono models (ids 0..50294), or plain GPT-2 as in the nl models (ids
    0..50256). `added`: the tokens of a model's directory, in place of those for white space."""

    tokenizer_class, kind = "CodeGenTokenizer", "gpt2"

    def __init__(self, whitespace: bool, tables: Tables | None = None, added: AddedTokens | None = None) -> None:
        tables = gpt2_tables() if tables is None else tables
        white = whitespace_tokens(tables.eos_id)
        added = AddedTokens(white if whitespace else {}) if added is None else added
        released = not tables.are_own and not added.special and added.plain in ({}, white)
        self.name = ("codegen-multi" if added.plain else "codegen-nl") if released else "own-codegen"
        super().__init__(tables, runs={}, names={}, further={}, added=added)

    def _first_sentinel(self) -> int:
        return max(self.vocab_size, self.tables.eos_id + 1 + len(whitespace_tokens(0)))

    def save(self, directory: Path | str) -> None:
        """Write vocab.json, merges.txt, tokenizer_config.json and, with white space tokens, added_tokens.json.
        transformers' `AutoTokenizer.from_pretrained` reads them and gives the same ids."""
        added, decoder = self.added.plain | self.added.special, {str(self.tables.eos_id): AddedTokens().entry(EOS)}
        decoder |= {str(number): self.added.entry(text) for text, number in added.items()}
        self._save(directory, {"tokenizer_class": self.tokenizer_class, "added_tokens_decoder": decoder})

    @classmethod
    def load(cls, directory: Path | str) -> CodeGenTokenizer:
        """The tokenizer in a directory of a released model, of transformers or of `save`; lists that contradict each
        other are a `UserError`, and so is a missing, foreign or damaged file."""
        directory = Path(directory)
        config, content = read_settings(directory)
        check_fields(directory, config, content, {})
        tables = read_tables(directory, config, content)
        return cls(False, tables, read_added(directory, config, content, tables.vocab, "codegen"))


def whitespace_tokens(eos_id: int) -> dict[str, int]:
    runs = [" " * length for length in range(31, 1, -1)] + ["\t" * length for length in range(9, 1, -1)]
    return {run: eos_id + 1 + rank for rank, run in enumerate(runs)}
