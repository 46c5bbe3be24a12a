"""Perplexity of a corpus: a prepared dataset's validation split, or texts and records as `prepare` reads them, all of
them and as they are; or of examples as `finetune` takes them, in the model's chat format.

Every document is scored on its own, after one end-of-document token, as in training. That token is context only, so
every byte of the text is scored and figures per byte are comparable between models with different tokenizers. Of an
example only the answer and its end are scored. Sums are over tokens, not means of documents. Documents longer than the
context are read in windows (`scoring.windowed`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.printing import print_error
from ms_codegeex.base.progress import Progress
from ms_codegeex.data.datasets.batches import KIND, is_dataset, read_info
from ms_codegeex.data.datasets.packing import open_mask
from ms_codegeex.data.description import chat_json
from ms_codegeex.data.summary_lines import print_tally
from ms_codegeex.extras.corpus.filters import preset
from ms_codegeex.extras.corpus.reading import find_units
from ms_codegeex.extras.corpus.settings import ReadingSettings
from ms_codegeex.extras.corpus.sources import user_roots
from ms_codegeex.extras.corpus.tally import Tally, read_documents
from ms_codegeex.extras.evaluation.local_model import LocalModel
from ms_codegeex.extras.evaluation.output_directory import RecordedSettings, sole_writer
from ms_codegeex.extras.evaluation.perplexity.scoring import Score, Scorer, windowed
from ms_codegeex.extras.evaluation.reports import page
from ms_codegeex.extras.shared.records import archive_kind

if TYPE_CHECKING:
    from ms_codegeex.data.datasets.indexed import IndexedDataset

SPLIT = "validation"
NO_TEXT = ("binary", "not UTF-8")  # reasons why a file is not text


@dataclass(frozen=True)
class CorpusPerplexity:
    """The measurements, and the `tally` of the files and documents read (`Tally.summed`)."""

    score: Score
    text_bytes: int
    documents: int
    window: int
    stride: int
    tally: Mapping[str, Any]
    whole: bool = True
    scored: str = "all text"

    def row(self) -> dict[str, Any]:
        no_text = sum(self.tally["dropped"].get(reason, {"count": 0})["count"] for reason in NO_TEXT)
        return {
            "perplexity": self.score.perplexity,
            "loss (nats per token)": self.score.nats / self.score.tokens,
            "bits per byte": self.score.nats / math.log(2) / self.text_bytes,  # comparable between tokenizers
            "bytes per token": self.text_bytes / self.score.tokens,
            "tokens": self.score.tokens,
            "bytes": self.text_bytes,
            "documents": self.documents,
            "scored": self.scored,
            "files that are no text": no_text,
            "whole corpus": self.whole,
            "window": self.window,
            "stride": self.stride,
        }


def measure(
    model: Scorer,
    paths: Sequence[Path],
    window: int | None = None,
    stride: int | None = None,
    max_tokens: int | None = None,
    progress: bool = False,
) -> CorpusPerplexity:
    """Token-weighted perplexity of the documents; with `max_tokens`, stop after the document that reaches it.
    `UserError`: there is no text, a dataset was made with another tokenizer, or window and stride do not fit."""
    window = model.seq_length if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    total, size, documents, whole, tally = Score(0.0, 0), 0, 0, True, Tally()
    answers, eos = False, model.tokenizer.eos_id
    with Progress(None, "read", unit="tokens", shown=progress) as bar:
        for ids, counted in _scored(model, paths, tally):
            if max_tokens is not None and total.tokens >= max_tokens:
                whole = False
                break
            logprobs = windowed(model, ids, window, stride)[counted[1:]]
            total += Score(-float(logprobs.astype(np.float64).sum()), len(logprobs))
            text = [each for each, counts in zip(ids, counted.tolist(), strict=True) if counts]
            answers = answers or not counted[1:].all()
            size += len(model.tokenizer.decode(text[:-1] if answers and text[-1] == ids[-1] == eos else text).encode())
            documents += 1
            bar.update(len(logprobs))
    if not total.tokens:
        why = tally.nothing_left("give UTF-8 files, records or a dataset", "texts")
        raise UserError(f"{', '.join(map(str, paths))}: no text was found: {why}")
    scored = "answers" if answers else "all text"
    return CorpusPerplexity(total, size, documents, window, stride, tally.summed(documents), whole, scored)


def evaluate_corpus(
    model: LocalModel,
    data: Path,
    output: Path,
    window: int | None = None,
    stride: int | None = None,
    max_tokens: int | None = None,
) -> dict[str, Any]:
    """Measure a corpus, write `evaluation.json`, `report.json` and `report.html`, and return the report."""
    if not data.exists():
        raise UserError(f"--data: {data} does not exist; give a dataset directory, text files or .jsonl")
    with sole_writer(output):
        settings = RecordedSettings(output)
        settings.settle("task", {"name": "perplexity"})
        generator, identity = model.open()
        perplexity = measure(generator, [data], window, stride, max_tokens, progress=True)
        print_tally(perplexity.tally)
        recipe = {"window": perplexity.window, "stride": perplexity.stride, "max_tokens": max_tokens}
        sections = {"data": {"path": str(data)}, "model": identity, "recipe": recipe}
        return page.write_measures(settings, sections, {"perplexity": perplexity.row(), "tally": perplexity.tally})


def _scored(model: Scorer, paths: Sequence[Path], tally: Tally) -> Iterator[tuple[list[int], np.ndarray]]:
    """The ids of each document or example, with what comes before it, and which of them are scored: bool [ids]."""
    for path in map(Path, paths):
        examples = _examples(model, path, tally)
        for ids, mask in examples or ():
            yield ids.tolist(), mask.astype(bool)
        if examples is None:
            for ids in corpus_documents(model, [path], tally):
                yield [model.tokenizer.eos_id, *ids], np.arange(len(ids) + 1) > 0


def _examples(model: Scorer, path: Path, tally: Tally) -> Iterable[tuple[np.ndarray, np.ndarray]] | None:
    from ms_codegeex.extras.corpus.finetuning.prepare import FinetuneSettings, example_rows, recognised_task

    if is_dataset(path):
        return _example_rows(model, path, tally) if read_info(path).get("kind") == KIND else None
    if not path.is_file() or archive_kind(path.name) is None:
        return None
    try:
        task = recognised_task([path])
    except UserError:  # texts, or what the reader of texts explains
        return None
    chat = model.description.chat
    known = {"chat": None if chat is None else chat_json(chat), "validation_share": 0.0}
    return example_rows([path], FinetuneSettings(task, model.seq_length, **known), model.tokenizer, tally)


def _example_rows(model: Scorer, directory: Path, tally: Tally) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    dataset, prefix = _split_of(model, directory)
    mask, ends = open_mask(prefix, dataset.tokens.size), np.cumsum(dataset.sizes)
    for number, end in enumerate(ends.tolist()):
        ids = dataset.document(number)
        yield ids[-model.seq_length :], mask[end - len(ids) : end][-model.seq_length :]
        tally.keep(records=True)


def _split_of(model: Scorer, directory: Path) -> tuple[IndexedDataset, Path]:
    from ms_codegeex.data.datasets.indexed import IndexedDataset
    from ms_codegeex.data.datasets.opening import evaluated_split

    info, tokenizer, split = read_info(directory), model.tokenizer, evaluated_split(directory)
    recorded = (info.get("tokenizer") or {}).get("fingerprint")
    if recorded not in (None, tokenizer.fingerprint) or info["eos_id"] != tokenizer.eos_id:
        raise UserError(f"{directory}: made with another tokenizer than the model's; prepare the text again with that")
    dataset = IndexedDataset(directory / split)
    dataset.check_ids(tokenizer.vocab_size)
    if not len(dataset):
        raise UserError(f"{directory}: has no documents; give text files, or another dataset")
    if split != SPLIT:
        print_error(f"{directory}: has no {SPLIT} split, so all of it is scored")
    return dataset, directory / split


def corpus_documents(model: Scorer, paths: Sequence[Path], tally: Tally) -> Iterator[list[int]]:
    """The ids of each non-empty document, without the end-of-document token; `tally` counts them, and the rest."""
    for path in map(Path, paths):
        if is_dataset(path):
            for ids in _dataset(model, path):
                yield ids
                tally.keep(records=True)
            continue
        for text in _texts(path, tally):
            if ids := model.tokenizer.encode(text):
                yield ids


def _dataset(model: Scorer, directory: Path) -> Iterator[list[int]]:
    info = read_info(directory)
    if info.get("kind") is not None:
        raise UserError(f'{directory}: a dataset of kind "{info["kind"]}"; expected one that `prepare` makes of text')
    dataset, _ = _split_of(model, directory)
    for number in range(len(dataset)):
        ids = dataset.document(number)
        if len(ids := ids[:-1] if ids[-1] == info["eos_id"] else ids):
            yield ids.tolist()


def _texts(path: Path, tally: Tally) -> Iterator[str]:
    reading = ReadingSettings(rules=preset("none"), strip_licences="none", all_text=True)
    units, rejected, _ = find_units(user_roots([path]), reading)
    for item in rejected:
        tally.add(item)
    for document in read_documents(units, reading, tally):
        yield document.data.decode()
