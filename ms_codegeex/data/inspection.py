"""Checks a dataset directory, and shows its documents and training samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.base.digests import sha256
from ms_codegeex.base.errors import UserError
from ms_codegeex.config.sections import InfillConfig
from ms_codegeex.data.datasets import layout
from ms_codegeex.data.datasets.batches import KIND, DocumentSpan, read_info
from ms_codegeex.data.datasets.indexed import AGAIN, IndexedDataset
from ms_codegeex.data.datasets.opening import open_sequences
from ms_codegeex.data.datasets.packing import open_mask
from ms_codegeex.data.languages import tag_prefix
from ms_codegeex.data.tokenizer import Tokenizer
from ms_codegeex.data.tokenizer.fast import text_decoder
from ms_codegeex.data.tokenizer.recorded import TOKENIZER_DIRECTORY, recorded_tokenizer

_ROWS = 4096  # rows of the table of documents that the deep check compares at a time


@dataclass(frozen=True)
class Dataset:
    """An opened dataset directory: `description` is its dataset.json, `splits` its documents by split."""

    directory: Path
    description: dict[str, Any]
    splits: dict[str, IndexedDataset]

    def tokenizer(self) -> Tokenizer:
        return recorded_tokenizer(self.description["tokenizer"], self.directory / TOKENIZER_DIRECTORY, self.directory)


def open_dataset(directory: Path) -> Dataset:
    """Open a dataset and check sizes and offsets; anything wrong is a `UserError` that names the file."""
    path = directory / layout.DATASET_JSON
    description = read_info(directory, layout.FORMAT)
    try:
        names = ("documents", "tokens")
        counts = {split: [description["splits"][split][name] for name in names] for split in layout.SPLITS}
        for name in layout.DATA_FILES:
            description["files"][name]["sha256"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: {error} is missing; {AGAIN}") from None
    splits = {split: IndexedDataset(directory / split) for split in layout.SPLITS}
    for split, dataset in splits.items():
        if [len(dataset), dataset.tokens.size] != counts[split]:
            said = "says {} documents and {} tokens".format(*counts[split])
            there = f"there are {len(dataset)} and {dataset.tokens.size}"
            raise UserError(f"{path}: {said} in {split}, but {there}; {AGAIN}")
    return Dataset(directory, description, splits)


def verify_dataset(dataset: Dataset) -> None:
    """Check ids, end tokens, masks, tables of documents and hashes; a `UserError` names the file that is wrong."""
    directory, description = dataset.directory, dataset.description
    for split, documents in dataset.splits.items():
        documents.check_ids(description["vocab_size"])
        ends = np.cumsum(documents.sizes) - 1
        open_ended = np.flatnonzero(documents.tokens[ends] != description["eos_id"])
        if open_ended.size:
            found = f"document {open_ended[0]} does not end with id {description['eos_id']}"
            raise UserError(f"{directory / split}.bin: {found}; {AGAIN}")
        examples = description.get("kind") == KIND
        if examples and open_mask(directory / split, documents.tokens.size).max(initial=0) > 1:
            raise UserError(f"{directory / split}.mask: holds other values than 0 and 1; {AGAIN}")
        _check_table(directory / split, documents)
    for name, entry in description["files"].items():
        path = directory / Path(name).name  # nothing outside the directory is read
        if not path.is_file():
            raise UserError(f"{path}: missing, but {layout.DATASET_JSON} names it; {AGAIN}")
        if sha256(path) != entry.get("sha256"):
            raise UserError(f"{path}: its sha256 is not the one in {layout.DATASET_JSON}, so it has changed; {AGAIN}")


def _check_table(prefix: Path, documents: IndexedDataset) -> None:
    path, table = layout.documents_path(prefix), layout.read_documents(prefix, ["tokens"])
    if table is None:
        return
    if table.num_rows != len(documents):
        raise UserError(f"{path}: {table.num_rows} rows for {len(documents)} documents of the .idx; {AGAIN}")
    tokens = table["tokens"].to_numpy()
    for number in np.flatnonzero(tokens != documents.sizes).tolist():
        said, sized = tokens[number], documents.sizes[number]
        raise UserError(f"{path}: row {number} says {said} tokens, the .idx {sized}; {AGAIN}")


def deep_check(dataset: Dataset, split: str, tokenizer: Tokenizer) -> Iterator[tuple[int, int]]:
    """Decode every document of a split and compare its hash with the recorded one. Yields, per batch, the numbers of
    bytes decoded and of documents that cannot be compared, because the tokenizer may have changed them. `UserError` if
    hashes are not recorded, or naming the first document that has changed."""
    prefix = dataset.directory / split
    table = layout.read_documents(prefix)
    if table is None:
        raise UserError(f"{layout.documents_path(prefix)}: missing, so hashes of documents are not recorded; {AGAIN}")
    documents, fine_tuning = dataset.splits[split], dataset.description.get("kind") == KIND
    tags = dataset.description.get("settings", {}).get("tags", "none")
    scheme = {True: "codegeex", False: "none"}.get(tags, tags)  # older datasets record only whether there are any
    decode, number = text_decoder(tokenizer), 0
    for batch in table.to_batches(_ROWS):
        size = lossy = 0
        for row in batch.to_pylist():
            text = decode(documents.document(number)[:-1].tolist())
            text = text if fine_tuning else text.removeprefix(tag_prefix(row["language"], scheme))
            if hashlib.sha256(text).digest() != row["sha256"]:
                if not tokenizer.may_be_changed(text, row["bytes"]):
                    found = f"document {number} ({row['source']}) decodes to another text"
                    raise UserError(f"{prefix}.bin: {found} than the one whose sha256 is recorded; {AGAIN}")
                lossy += 1
            size, number = size + len(text), number + 1
        yield size, lossy


def report_path(dataset: Dataset) -> str:
    """Path of the dataset's HTML report; a `UserError` if there is none."""
    path = dataset.directory / layout.REPORT_HTML
    if not path.is_file():
        raise UserError(f"{path}: no such file, as in datasets of older versions; {AGAIN}")
    return str(path)


def origin(prefix: Path, number: int) -> dict[str, Any]:
    """`source`, `language` and `sha256` (hex) of a document, each None where it is not recorded."""
    row = layout.read_document_row(prefix, number) or {}
    return {**{name: row.get(name) for name in ("source", "language")}, "sha256": row["sha256"].hex() if row else None}


def read_document(dataset: Dataset, split: str, number: int) -> dict[str, Any]:
    """Document `number` of a split: its origin, and its text without the end token."""
    documents = dataset.splits[split]
    if not 0 <= number < len(documents):
        raise UserError(f"--document {number}: {split} has documents 0..{len(documents) - 1}")
    ids = documents.document(number)
    place = {"split": split, "number": number, "tokens": int(ids.size), **origin(dataset.directory / split, number)}
    return {**place, "text": dataset.tokenizer().decode(ids[:-1].tolist())}


def read_sample(
    dataset: Dataset, split: str, number: int, seq_length: int | None, seed: int, functions_from: int | None = None
) -> dict[str, Any]:
    """Training sample `number` of a run with this seed: its documents, and which of their tokens the loss counts.
    Epochs follow each other. `seq_length` is the run's; None: the dataset's, or 2048. `functions_from` is the sample
    from which on sequences begin at functions. In the result, `counted` is the number of labels in the loss and
    `padding` of tokens; each of the `documents` has the tokens `start` to `stop`, its origin, and `runs` of `counted`,
    `tokens` and `text`. Instead of text, the end token has `end`, and a sentinel of infilling `sentinel`, its part."""
    if not 0 <= number < 2**63:
        raise UserError(f"--sample {number}: samples are numbered from 0 to 2**63 - 1")
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed {seed}: expected 0 to 2**32 - 1, as in a run")
    length = dataset.description.get("seq_length", 2048) if seq_length is None else seq_length
    infill = InfillConfig() if split == "train" else None  # as a run reads the dataset
    if functions_from is not None and not 0 <= functions_from < 2**63:
        raise UserError(f"--functions-from {functions_from}: samples are numbered from 0 to 2**63 - 1")
    functions_from = functions_from if split == "train" else None
    sequences = open_sequences(dataset.directory, split, length, seed, infill=infill, functions_from=functions_from)
    marks = {number: part for part, number in sequences.infilling.marks.items()} if sequences.infilling else {}
    index = int(sequences.indices(np.array([number]))[0])
    batch = sequences.read(np.array([index]), np.array([number]))
    ids = np.append(batch.inputs[0], batch.labels[0, -1:])
    counted = np.append(False, batch.loss_mask[0] > 0)  # the first token is not a label
    tokenizer, documents, offset = dataset.tokenizer(), [], 0
    for span in sequences.documents_of(index):
        stop = offset + span.stop - span.start
        documents.append(_part(dataset, split, tokenizer, span, ids[offset:stop], counted[offset:stop], marks))
        offset = stop
    sample = {"number": number, "index": index, "split": split, "seq_length": length, "seed": seed}
    sample |= {"counted": int(counted.sum()), "padding": int(ids.size - offset)}
    return {**sample, "documents": documents}


def _part(
    dataset: Dataset,
    split: str,
    tokenizer: Tokenizer,
    span: DocumentSpan,
    ids: np.ndarray,
    counted: np.ndarray,
    marks: Mapping[int, str],
) -> dict[str, Any]:
    before = dataset.splits[split].document(span.document)[: span.start].tolist()
    ended = ids == dataset.description["eos_id"]
    alone = ended | np.isin(ids, list(marks))
    borders = np.flatnonzero((counted[1:] != counted[:-1]) | alone[1:] | alone[:-1]) + 1
    runs = []
    for start, stop in zip([0, *borders], [*borders, ids.size], strict=True):
        run = {"counted": bool(counted[start]), "tokens": int(stop - start)}
        if ended[start]:
            runs.append({**run, "end": True})
        elif alone[start]:
            runs.append({**run, "sentinel": marks[int(ids[start])]})
        else:
            part = ids[start:stop].tolist()
            runs.append({**run, "text": "".join(tokenizer.continuation(before, part, "replace"))})
            before += part
    position = {"number": span.document, "start": span.start, "stop": span.stop}
    return {**position, **origin(dataset.directory / split, span.document), "runs": runs}
