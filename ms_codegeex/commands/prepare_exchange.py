"""`ms-codegeex prepare --to|--from mindrecord|triplet`: export and import datasets of other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.printing import print_json, print_out
from ms_codegeex.commands.dataset_summary import print_dataset
from ms_codegeex.commands.infill_options import INFILL
from ms_codegeex.commands.prepare_finetune import OF_CORPORA, PRETRAIN, refuse

EXAMPLES = """\
  ms-codegeex prepare --input corpus --to mindrecord --output corpus-mindrecord --seq-length 2048 --files 8
  ms-codegeex prepare --input tuning --to triplet --output tuning-megatron
  ms-codegeex prepare --input corpus-mindrecord --from mindrecord --output corpus2 --tokenizer codegeex
  ms-codegeex prepare --input tuning-megatron/train --from triplet --output tuning2
"""
FORMATS = ("mindrecord", "triplet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for exporting and importing."""
    group = parser.add_argument_group(
        "exchange", "MindRecord files, or the three Megatron datasets of CodeGeeX's fine-tuning (docs/interchange.md)"
    )
    direction = group.add_mutually_exclusive_group()
    direction.add_argument("--to", choices=FORMATS, help="write the dataset directory --input in this format")
    direction.add_argument(
        "--from", choices=FORMATS, dest="from_format", help="read --input in this format, write a dataset directory"
    )
    group.add_argument("--split", choices=("train", "validation"), help="split that --to writes (default: train)")
    group.add_argument("--files", type=int, metavar="N", help="number of files of --to mindrecord (default: 1)")
    group.add_argument(
        "--order",
        choices=("stored", "training"),
        help="order of the rows of --to mindrecord: that of the dataset, or that of training with --seed "
        "(default: stored)",
    )


def run(arguments: argparse.Namespace) -> int | None:
    """Export or import a dataset and print what was written; None if neither was requested."""
    if not arguments.to:
        refuse(arguments, ("split", "files", "order"), "--to")
    if not arguments.to and not arguments.from_format:
        return None
    refuse(arguments, (*OF_CORPORA, "overlong", "template", *INFILL), "datasets that are made of text")
    if arguments.task != PRETRAIN or not arguments.input:
        raise UserError("--to and --from: take --input and no --task, for text has been made tokens already")
    if arguments.to:
        return _export(arguments)
    refuse(arguments, ("seq_length",), "--to or --task")
    return _import(arguments)


def _one(arguments: argparse.Namespace, what: str) -> Path:
    if len(arguments.input) != 1:
        raise UserError(f"--input: {len(arguments.input)} paths, expected one, {what}")
    return arguments.input[0]


def _export(arguments: argparse.Namespace) -> int:
    dataset, split = _one(arguments, "a dataset directory"), arguments.split or "train"
    refuse(arguments, ("replace",), "datasets that are made; give --output a new directory")
    if not (dataset / "dataset.json").is_file():
        raise UserError(f"{dataset}: no dataset directory (no dataset.json); `ms-codegeex prepare` makes them")
    if arguments.to == "mindrecord":
        from ms_codegeex.data.interchange.mindrecord import export_mindrecord

        result = export_mindrecord(
            dataset,
            arguments.output,
            split,
            2048 if arguments.seq_length is None else arguments.seq_length,
            files=1 if arguments.files is None else arguments.files,
            seed=arguments.seed if arguments.order == "training" else None,
            progress=True,
        )
    else:
        from ms_codegeex.data.interchange.foreign import export_triplet

        refuse(arguments, ("files", "order"), "--to mindrecord")
        result = export_triplet(dataset, arguments.output, split, arguments.seq_length, progress=True)
    if arguments.json:
        print_json(result)
    else:
        print_out(f"{result['rows']} rows of {result['seq_length']} + 1 tokens of {split}: {result['output']}")
    return 0


def _import(arguments: argparse.Namespace) -> int:
    options = {"validation_share": arguments.validation_share, "replace": arguments.replace}
    if arguments.from_format == "mindrecord":
        from ms_codegeex.data.interchange.mindrecord import import_mindrecord

        result = import_mindrecord(arguments.input, arguments.output, arguments.tokenizer, **options)
    else:
        from ms_codegeex.data.interchange.foreign import import_triplet

        prefix = _one(arguments, "the triplet's path without _input_ids")
        result = import_triplet(prefix, arguments.output, arguments.tokenizer, **options)
    print_dataset(arguments, result)
    return 0
