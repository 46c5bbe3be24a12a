"""The tokenizer of a dataset, a run or a checkpoint: the one that made its ids, never a default.

Datasets and checkpoints record `Tokenizer.description()`. A tokenizer that needs files is copied to `tokenizer/` in the
dataset directory, and from there to the run directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_directory
from ms_codegeex.data.tokenizer import TOKENIZER_NAMES, Tokenizer, load_tokenizer
from ms_codegeex.data.tokenizer.copying import copy_data

TOKENIZER_DIRECTORY = "tokenizer"  # in a dataset directory and in a run directory
DEFAULTS = {"codegeex": "codegeex"}  # families with a single tokenizer, which need not be recorded


def recorded_tokenizer(record: Mapping[str, Any], files: Path, owner: Path) -> Tokenizer:
    """The tokenizer with which `owner`, a dataset or checkpoint, was made: that of its `record`, a
    `Tokenizer.description()`, in the directory `files`, which need not exist if the name is enough. `UserError` if the
    files are missing, or the tokenizer no longer matches the record."""
    name = str(record.get("name"))
    if not files.is_dir() and name not in TOKENIZER_NAMES and not Path(name).is_dir():
        made = f"{owner} was made with tokenizer {name}"
        raise UserError(f"{files}: missing, but {made}; put that tokenizer's files there")
    source = files if files.is_dir() else name
    tokenizer = load_tokenizer(source)
    if tokenizer.fingerprint != record.get("fingerprint"):
        changed = f"no longer the one {owner} was made with"
        raise UserError(f"tokenizer {source}: {changed}; restore it, or make {owner} again")
    return tokenizer


def other_token(ours: Tokenizer, theirs: Tokenizer) -> int | None:
    """The first id that both tokenizers have and read differently; None if one only adds tokens to the other."""
    if ours.fingerprint == theirs.fingerprint:
        return None
    common = min(theirs.vocab_size, ours.vocab_size)
    return next((i for i in range(common) if theirs.token_bytes(i) != ours.token_bytes(i)), None)


def checkpoint_tokenizer(checkpoint: Path, state: Mapping[str, Any], family: str) -> Tokenizer:
    """The tokenizer that the model of the checkpoint `RUN/checkpoints/step-…` was trained with; its files are looked
    for in `RUN/tokenizer`. If the manifest `state` has no `tokenizer`, the files or the model's `family` decide.
    `UserError` if nothing says which tokenizer it is, or it no longer exists."""
    files, record = _files(checkpoint), state.get("tokenizer")
    if isinstance(record, Mapping):
        return recorded_tokenizer(record, files, checkpoint)
    if files.is_dir():
        return load_tokenizer(files)
    return family_tokenizer(checkpoint, family, f"put its files in {files}")


def checkpoint_has_tokenizer(checkpoint: Path, state: Mapping[str, Any], family: str) -> bool:
    return bool(state.get("tokenizer")) or _files(checkpoint).is_dir() or family in DEFAULTS


def _files(checkpoint: Path) -> Path:
    return Path(checkpoint).absolute().parent.parent / TOKENIZER_DIRECTORY


def family_tokenizer(owner: Path, family: str, remedy: str, known: bool = True) -> Tokenizer:
    """The tokenizer of a model that records none: its family's, if there is a single one that needs no files, and it is
    `known` that the model has this one. `owner` and `remedy` are for the `UserError` that any other model raises."""
    if known and family in DEFAULTS:
        return load_tokenizer(DEFAULTS[family])
    raise UserError(f"{owner}: does not say which tokenizer this {family} model has; {remedy}")


def keep_files(dataset: Path, run: Path) -> None:
    """Copy the tokenizer's files in a dataset, if any, to the directory of a run on it."""
    if (dataset / TOKENIZER_DIRECTORY).is_dir():
        with atomic_directory(run / TOKENIZER_DIRECTORY) as target:
            copy_data(dataset / TOKENIZER_DIRECTORY, target)
