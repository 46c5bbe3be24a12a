"""Qwen2's tokenizer, which Qwen2.5-Coder has: byte-level BPE with words of its own kind, after NFC.

Sources: `Qwen2Tokenizer` in transformers; Qwen2.5-Coder Technical Report, sections 2 and 3.2 (infilling)."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ms_codegeex.base.files import atomic_file
from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.data.tokenizer.base import INFILLING_PARTS
from ms_codegeex.data.tokenizer.files import EOS, JSON, AddedTokens, check_fields, read_added, read_settings
from ms_codegeex.data.tokenizer.gpt2 import ByteLevelTokenizer
from ms_codegeex.data.tokenizer.tables import Tables, read_tables

_NAMES = ("im_start", "im_end", "fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name", "file_sep")
MARKS = tuple(f"<|{name}|>" for name in _NAMES)
_OF_FILES = MARKS[6:]
_SHOWN = (*MARKS[2:], "<tool_call>", "</tool_call>")  # not special in the releases
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
_STEPS = {
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": _SPLIT}, "behavior": "Isolated", "invert": False},
            _BYTES,
        ],
    },
}


def infilling_marks(names: Collection[str]) -> dict[str, Any] | None:
    """How a model whose tokens have these names is asked to fill in; see `Tokenizer.infilling`."""
    parts = {part: f"<|fim_{part}|>" for part in INFILLING_PARTS}
    if not {*parts.values()} <= {*names}:
        return None
    repository, file = _OF_FILES
    texts = [f"{repository}myproject\n", f"{file}{{name}}\n{{text}}\n", f"{file}filename\n"]  # llama.cpp's names
    of_files = {"files": texts} if {repository, file} <= {*names} else {}
    return {
        **parts,
        "order": [*INFILLING_PARTS],
        "end": [mark for mark in (EOS, *MARKS[1:]) if mark in names],
        **of_files,
    }


class Qwen2Tokenizer(ByteLevelTokenizer):
    """The tokenizer of a model directory, or one of the user's own: ids of `tables`, which end with `<|endoftext|>`
    (151643 in the releases), then those of `added`. A text becomes NFC. Chat models end with `<|im_end|>`. Marks such
    as `<|fim_prefix|>` and `<tool_call>` are special tokens here, so that no text of a corpus has their ids; in prompts
    all names are tokens, as in transformers."""

    name, tokenizer_class, kind = "qwen2", "Qwen2Tokenizer", "qwen2"
    changes = "have characters that may not have been in NFC before tokenising"
    answer_ends = ("<|im_end|>", EOS)
    split, ends, longest, roles = _SPLIT, "0-9A-Za-z", 32768, ("eos_token", "pad_token")

    def __init__(self, tables: Tables, added: AddedTokens) -> None:
        added = added.with_special(_SHOWN)
        super().__init__(tables, runs={}, names={}, further={}, added=added)
        self.infilling = infilling_marks(self._names)
        if {*_OF_FILES} <= self._names.keys():
            self.file_marks = (self._names[_OF_FILES[0]], self._names[_OF_FILES[1]])

    def may_be_changed(self, data: bytes, size: int) -> bool:
        return not data.isascii() or size > len(data)

    def save(self, directory: Path | str) -> None:
        """Write vocab.json, merges.txt, added_tokens.json, tokenizer.json and tokenizer_config.json, as in releases.
        transformers' `AutoTokenizer.from_pretrained` reads them and gives the same ids."""
        directory, numbers = Path(directory), {EOS: self.tables.eos_id, **self.added.plain, **self.added.special}
        entries = {number: self.added.entry(text) for text, number in sorted(numbers.items(), key=lambda item: item[1])}
        decoder = {str(number): entry for number, entry in entries.items()}
        named = {EOS, *self.added.roles.values(), *self.added.plain, *self.added.shown}
        config = {"bos_token": None, "unk_token": None, "tokenizer_class": self.tokenizer_class}
        config |= {"additional_special_tokens": [text for text in self.added.special if text not in named]}
        self._save(directory, {**config, "added_tokens_decoder": decoder})
        self.tables.save(directory, end=False)
        content = parse_json(self._model.to_str(), data=True)
        content["model"]["vocab"] = {token: n for token, n in self.tables.vocab.items() if token != EOS}
        content["added_tokens"] = [{"id": number, **entry} for number, entry in entries.items()]
        content |= {"post_processor": {**_BYTES, "trim_offsets": False}, "decoder": {**_BYTES, "trim_offsets": False}}
        with atomic_file(directory / JSON) as path:
            path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, directory: Path | str) -> Qwen2Tokenizer:
        """The tokenizer in a directory of a released model, of transformers or of `save`; a missing, foreign or damaged
        file is a `UserError` that names it."""
        directory = Path(directory)
        config, content = read_settings(directory)
        check_fields(directory, config, content, _STEPS)
        tables = read_tables(directory, config, content, usual=None)
        return cls(tables, read_added(directory, config, content, tables.vocab, cls.name))
