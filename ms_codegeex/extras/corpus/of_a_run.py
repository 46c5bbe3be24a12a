"""The corpus that `train` makes for a run without a dataset, and the tokenizer for it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ms_codegeex.base.errors import UserError, located
from ms_codegeex.base.host import available_cores
from ms_codegeex.base.printing import print_error
from ms_codegeex.config import RunConfig
from ms_codegeex.data.datasets.batches import is_dataset
from ms_codegeex.extras.corpus.prepare import cached_corpus
from ms_codegeex.extras.corpus.reading import Search, find_units
from ms_codegeex.extras.corpus.selection import NothingLeft
from ms_codegeex.extras.corpus.settings import PrepareSettings, ReadingSettings
from ms_codegeex.extras.corpus.sources import Inputs
from ms_codegeex.extras.corpus.tokenizer_training import TokenizerSettings, cached_tokenizer

MAX_BYTES_FOR_TOKENIZER = 6_000_000  # ten times as many take 15 s more and shorten texts by 2 %


def prepared(config: RunConfig, corpus: Sequence[str], tokenizer: str | None, quiet: bool) -> Path:
    """Return the dataset directory made from these files and folders, or from Python's libraries, next to the run on
    first use. What `data.validation` names, unless it is a dataset, is its validation split. `tokenizer`: a name or
    directory; None: train one of `data.tokenizer_size` ids on the same text."""
    parent = Path(config.output).parent
    paths = [Path(p) for p in corpus] or None
    with located("data.languages"):
        reading = ReadingSettings(languages=() if corpus else config.data.languages)
    search = functools.cache(find_units)  # one search, as both are made from the same files
    named = config.data.validation
    held_out = () if named is None or is_dataset(Path(named)) else (named,)
    settings = PrepareSettings(reading=reading, validation=held_out)
    share = None if held_out else settings.validation_share
    tokenizer = tokenizer or _trained(config, paths, reading, parent, search, share)
    settings = replace(settings, tokenizer=tokenizer)
    try:
        directory = cached_corpus(paths, parent, settings, available_cores(), progress=not quiet, search=search)
    except NothingLeft as error:  # its remedies are options of `prepare`
        raise UserError(f"{error}, then set data.train=corpus without --corpus") from None
    print_error(f"corpus {directory} (delete it to search and prepare the sources afresh)")
    return directory


def _trained(
    config: RunConfig, corpus: Inputs, reading: ReadingSettings, parent: Path, search: Search, share: float | None
) -> str:
    data, model = config.data, config.model
    size, sizes = data.tokenizer_size, model.sizes
    try:
        settings = TokenizerSettings(size, max_bytes=MAX_BYTES_FOR_TOKENIZER, family=config.family, reading=reading)
        end = settings.end_token
        if size > sizes.vocab_size or end not in (None, sizes.eos_token_id):
            fits = f"model.vocab_size={size} model.eos_token_id={end}"
            raise UserError(f"data.tokenizer_size: {size} ids do not fit the model; set {fits}")
        directory = cached_tokenizer(corpus, parent, settings, search, share)
    except UserError as error:  # it names options of `tokenizer train`
        problem = str(error).partition(": ")[2].replace("--vocab-size ", "data.tokenizer_size=")
        raise UserError(f"data.tokenizer_size: {problem}") from None
    print_error(f"tokenizer {directory} (delete it to train one afresh)")
    return str(directory)
