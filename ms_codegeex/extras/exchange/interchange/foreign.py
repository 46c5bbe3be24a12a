"""Datasets from documents that other programs have tokenised, and the triplets of CodeGeeX's fine-tuning code.

A triplet is three datasets in Megatron's format, `PREFIX_input_ids`, `PREFIX_attention_mask` and `PREFIX_labels`,
int32, with one example per row of `seq_length` + 1: padded on the right, attention 1 on real tokens, labels -100 on
prompt and padding and the token itself elsewhere. Source: CodeGeeX's published packer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_directory
from ms_codegeex.data.datasets.batches import KIND, read_info
from ms_codegeex.data.datasets.indexed import IndexedDataset, IndexedWriter
from ms_codegeex.data.datasets.layout import check_output, file_records
from ms_codegeex.data.datasets.packing import open_mask
from ms_codegeex.data.tokenizer import Tokenizer, load_tokenizer
from ms_codegeex.data.tokenizer.fast import text_decoder
from ms_codegeex.extras.corpus.writing import DatasetWriter, write_description

PARTS = ("input_ids", "attention_mask", "labels")
IGNORED = -100  # label of a token that the loss does not count


def check_new(output: Path) -> None:
    """`UserError` unless `output` is missing or an empty directory."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output}: exists already; give --output a new directory")


def check_ids(row: np.ndarray, tokenizer: Tokenizer, source: str) -> None:
    """`UserError` if a row holds an id that `tokenizer` does not have."""
    wrong = row[(row < 0) | (row >= tokenizer.vocab_size)]
    if wrong.size:
        found = f"id {int(wrong[0])} is outside 0..{tokenizer.vocab_size - 1}"
        raise UserError(f"{source}: {found}; give --tokenizer the one the ids were made with")


def import_documents(
    documents: Iterable[tuple[str, np.ndarray, np.ndarray | None]],
    output: Path,
    known: Tokenizer,
    name: str,
    extra: dict[str, Any],
    validation_share: float,
    replace: bool,
) -> dict[str, Any]:
    """A dataset directory from documents (source, ids with their end token, mask), completely or not at all.

    Args:
        known: the tokenizer that the ids were made with; the files do not state it. `name`: what it was loaded by.
        extra: entries of dataset.json.
        validation_share: share of the documents for validation, chosen by a hash of their text.
        replace: write even if `output` holds a dataset.
    """
    check_output(output, replace)
    decode = text_decoder(known)
    with atomic_directory(output) as directory:
        with DatasetWriter(directory, known, masked=extra.get("kind") == KIND) as writer:
            for source, ids, mask in documents:
                writer.add(ids, mask, decode(ids[:-1].tolist()), source)
            if not len(writer):
                raise UserError(f"{output}: there is no document in the input; give files with some")
            splits = writer.write(validation_share)
        further = {"split_by": "document", "splits": splits, "dropped": {}, "files": file_records(directory)}
        description = write_description(directory, known, name, extra, further)
    return {**description, "output": str(output)}


def export_triplet(
    dataset: Path, output: Path, split: str = "train", seq_length: int | None = None, *, progress: bool = False
) -> dict[str, Any]:
    """Write a split of a fine-tuning dataset as a triplet into a new directory, completely or not at all.

    Rows have `seq_length` + 1 tokens: the dataset's by default, and not less than that.

    Returns:
        `rows`, `prefix`, `seq_length`, `split`, `output`.
    """
    info = read_info(dataset)
    if info.get("kind") != KIND:
        raise UserError(f"{dataset}: no examples of fine-tuning, so there are no prompts; export it --to mindrecord")
    longest = info["seq_length"]
    seq_length = longest if seq_length is None else seq_length
    if seq_length < longest:
        raise UserError(f"--seq-length {seq_length}: {dataset} has examples of {longest} tokens; give as many or more")
    examples = IndexedDataset(dataset / split)
    if len(examples) and (size := int(examples.sizes.max())) > longest + 1:
        damage = f"damaged, a row of {size} tokens, seq_length {longest}"
        raise UserError(f"{dataset / split}: {damage}; prepare it again with --replace")
    mask = open_mask(dataset / split, examples.tokens.size)
    check_new(output)
    width, end = seq_length + 1, 0
    rows = tqdm(total=len(examples), unit=" rows", disable=None if progress else True)  # only on a terminal
    with atomic_directory(output) as directory, rows as bar, ExitStack() as stack:
        made = (IndexedWriter(directory / f"{split}_{part}", np.int32, lowest=IGNORED) for part in PARTS)
        writers = [stack.enter_context(each) for each in made]
        for number, size in enumerate(examples.sizes.tolist()):
            start, end = end, end + size
            row = np.full((len(PARTS), width), [[info["eos_id"]], [0], [IGNORED]], np.int32)
            row[0, :size] = examples.document(number)
            row[1, :size] = 1
            row[2, :size] = np.where(mask[start:end], row[0, :size], IGNORED)
            for writer, values in zip(writers, row, strict=True):
                writer.add(values)
            bar.update()
    prefix = str(output / split)
    return {"rows": len(examples), "prefix": prefix, "seq_length": seq_length, "split": split, "output": str(output)}


def import_triplet(
    prefix: Path, output: Path, tokenizer: str, *, validation_share: float = 0.05, replace: bool = False
) -> dict[str, Any]:
    """Write a fine-tuning dataset directory from the triplet at `prefix`, its path without `_input_ids` and so on; the
    other arguments are as in `import_documents`. Rows of length L give `seq_length` L - 1. The published packer splits
    long examples into windows without an end token: such a row gets one that the loss does not count, and is truncated
    on its left to `seq_length`."""
    known = load_tokenizer(tokenizer)
    paths = [Path(f"{prefix}_{part}") for part in PARTS]
    if lacking := [file for path in paths if not (file := Path(f"{path}.idx")).is_file()]:
        raise UserError(f"{lacking[0]}: no such file; give the triplet's path without _input_ids, such as tuning/train")
    parts = [IndexedDataset(path) for path in paths]
    if any(not np.array_equal(part.sizes, parts[0].sizes) for part in parts) or not len(parts[0]):
        raise UserError(f"{prefix}: {', '.join(PARTS)} have rows of different sizes, or none; give a triplet")
    seq_length = int(parts[0].sizes.max()) - 1
    if seq_length < 2:
        raise UserError(f"{prefix}: rows of {seq_length + 1} tokens, expected 3 or more; give a triplet")

    def documents() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for number in range(len(parts[0])):
            source = f"{prefix.name}:{number}"
            ids, mask = _example([part.document(number) for part in parts], source)
            check_ids(ids, known, source)
            if ids[-1] != known.eos_id:
                ids, mask = np.append(ids, known.eos_id), np.append(mask, 0)
            yield source, ids[-seq_length:], mask[-seq_length:]

    extra = {"kind": KIND, "task": "triplet", "seq_length": seq_length, "made_from": "triplet"}
    return import_documents(documents(), output, known, tokenizer, extra, validation_share, replace)


def _example(row: list[np.ndarray], source: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask of a row's real tokens; a `UserError` if its three parts contradict each other."""
    ids, attention, labels = row
    size = int(np.count_nonzero(attention))
    if not size or not (attention[:size] == 1).all():
        raise UserError(f"{source}: attention_mask is not ones and then zeros; pad on the right only")
    mask = labels != IGNORED
    if mask[size:].any() or (labels[mask] != ids[mask]).any():
        raise UserError(f"{source}: labels are neither -100 nor the token at their place; give a triplet")
    return ids[:size], mask[:size].astype(np.uint8)
