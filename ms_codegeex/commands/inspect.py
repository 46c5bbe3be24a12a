"""`ms-codegeex inspect`: what a dataset or model directory holds, and whether it is sound."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_codegeex.commands.prepare import summary_lines
from ms_codegeex.errors import UserError
from ms_codegeex.files import read_json, sha256

if TYPE_CHECKING:
    from ms_codegeex.data.indexed import IndexedDataset

SUMMARY = "Show and verify what is in a dataset or model directory."
EXAMPLES = """\
  ms-codegeex inspect corpus
  ms-codegeex inspect corpus --document 3 --split validation
  ms-codegeex inspect model --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="dataset or model directory")
    parser.add_argument("--document", type=int, metavar="N", help="print the text of document N (from 0) of a dataset")
    parser.add_argument(
        "--split",
        choices=("train", "validation"),
        default="train",
        help="where to look for the document (default: train)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")


def run(arguments: argparse.Namespace) -> int:
    """Verify the directory and describe it; damage is a `UserError`."""
    directory: Path = arguments.directory
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory; give a dataset or model directory")
    if (directory / "dataset.json").is_file():
        return _run_dataset(arguments)
    if (directory / "config.json").is_file():
        if arguments.document is not None:
            raise UserError(f"{directory}: a model directory has no documents; leave out --document")
        result = describe_model(directory)
        print(json.dumps(result, ensure_ascii=False) if arguments.json else "\n".join(_model_lines(result)))
        return 0
    raise UserError(
        f"{directory}: neither a dataset (dataset.json) nor a model (config.json); "
        "`ms-codegeex prepare` makes datasets, `ms-codegeex convert` makes models"
    )


def _run_dataset(arguments: argparse.Namespace) -> int:
    description, splits = verify_dataset(arguments.directory)
    result = {"kind": "dataset", "directory": str(arguments.directory), "verified": True, **description}
    if arguments.document is None:
        lines = [*summary_lines(description), "verified: sizes, offsets, ids, end tokens and hashes are right"]
        print(json.dumps(result, ensure_ascii=False) if arguments.json else "\n".join(lines))
        return 0
    document = read_document(splits[arguments.split], description, arguments.split, arguments.document)
    if arguments.json:
        print(json.dumps({**result, "document": document}, ensure_ascii=False))
    else:
        print(f"document {document['number']} of {document['split']}, {document['tokens']} tokens:", file=sys.stderr)
        sys.stdout.write(document["text"] if document["text"].endswith("\n") else document["text"] + "\n")
    return 0


def verify_dataset(directory: Path) -> tuple[dict[str, Any], dict[str, IndexedDataset]]:
    """The content of dataset.json and both splits, once sizes, offsets, ids, end tokens and hashes have been checked.

    Raises:
        UserError: something is missing or does not fit; it names the file.
    """
    import numpy as np

    from ms_codegeex.data.indexed import IndexedDataset
    from ms_codegeex.data.prepare import DATA_FILES, DATASET_JSON, FORMAT, SPLITS

    path, remedy = directory / DATASET_JSON, "prepare it again with `ms-codegeex prepare --replace`"
    description = read_json(path)
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise UserError(f'{path}: not the description of a dataset (no "format": "{FORMAT}"); {remedy}')
    try:
        vocab_size, eos_id = description["vocab_size"], description["eos_id"]
        hashes = {name: description["files"][name]["sha256"] for name in DATA_FILES}
        counts = {split: [description["splits"][split][name] for name in ("documents", "tokens")] for split in SPLITS}
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: {error} is missing; {remedy}") from None
    splits = {split: IndexedDataset(directory / split) for split in SPLITS}
    for split, dataset in splits.items():
        dataset.check_ids(vocab_size)
        if [len(dataset), dataset.tokens.size] != counts[split]:
            raise UserError(
                f"{path}: says {counts[split][0]} documents and {counts[split][1]} tokens in {split}, but "
                f"there are {len(dataset)} and {dataset.tokens.size}; {remedy}"
            )
        ends = np.cumsum(dataset.sizes) - 1
        open_ended = np.flatnonzero(dataset.tokens[ends] != eos_id)
        if open_ended.size:
            raise UserError(
                f"{directory / split}.bin: document {open_ended[0]} does not end with id {eos_id}; {remedy}"
            )
    for name, expected in hashes.items():
        if sha256(directory / name) != expected:
            raise UserError(
                f"{directory / name}: its sha256 is not the one in {DATASET_JSON}; the file has changed, {remedy}"
            )
    return description, splits


def read_document(dataset: IndexedDataset, description: dict[str, Any], split: str, number: int) -> dict[str, Any]:
    """Document `number` decoded with the dataset's tokenizer, without its end token."""
    from ms_codegeex.data.tokenizer.recorded import DIRECTORY, recorded_tokenizer

    if not 0 <= number < len(dataset):
        raise UserError(f"--document {number}: {split} has documents 0..{len(dataset) - 1}")
    directory = dataset.prefix.parent
    tokenizer = recorded_tokenizer(description["tokenizer"], directory / DIRECTORY, directory)
    ids = dataset.document(number)
    return {"split": split, "number": number, "tokens": int(ids.size), "text": tokenizer.decode(ids[:-1].tolist())}


def describe_model(directory: Path) -> dict[str, Any]:
    """Configuration, and name, shape, dtype and file of every tensor, from the headers of the files of weights."""
    from ms_codegeex.formats.model_directory import ModelDirectory

    model = ModelDirectory(directory)
    if "model_type" not in model.config:
        raise UserError(f"{directory / 'config.json'}: no model_type; this is not a model's configuration")
    tensors = [
        {
            "name": name,
            "shape": list(model.shape(name)),
            "dtype": model.dtype(name),
            "file": model.files[name],
        }
        for name in sorted(model.names)
    ]
    return {
        "kind": "model",
        "directory": str(directory),
        "config": model.config,
        "tensors": tensors,
        "parameters": sum(math.prod(tensor["shape"]) for tensor in tensors),
    }


def _model_lines(result: dict[str, Any]) -> list[str]:
    lines = [f"{key}: {value}" for key, value in result["config"].items()]
    lines += [f"{tensor['name']}  {tensor['dtype']}  {tensor['shape']}" for tensor in result["tensors"]]
    return [*lines, f"parameters: {result['parameters']}"]
