"""`ms-codegeex prepare --to|--from mindrecord|triplet`: export and import datasets of other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import refuse
from ms_codegeex.base.printing import print_result
from ms_codegeex.commands.dataset_summary import print_dataset
from ms_codegeex.commands.prepare_options import CORPORA, DatasetOptions, ExchangeOptions, InfillOptions, TuningOptions

EXAMPLES = """\
  ms-codegeex prepare --input corpus --to mindrecord --output corpus-mindrecord --seq-length 2048 --files 8
  ms-codegeex prepare --input tuning --to triplet --output tuning-megatron
  ms-codegeex prepare --input corpus-mindrecord --from mindrecord --output corpus2 --tokenizer codegeex
  ms-codegeex prepare --input tuning-megatron/train --from triplet --output tuning2
"""


def run(arguments: argparse.Namespace) -> bool:
    """Export or import a dataset and print what was written; False if neither was requested."""
    if not arguments.to:
        refuse(arguments, ExchangeOptions, "only with --to", ("split", "files", "order"))
        if not arguments.from_format:
            return False
    for kind in (*CORPORA, InfillOptions):
        refuse(arguments, kind, "only with datasets that are made of text")
    refuse(arguments, TuningOptions, "only with datasets that are made of text", ("overlong", "template"))
    if arguments.task != "pretrain" or not arguments.input:
        raise UserError("--to and --from: take --input and no --task, for text has been made tokens already")
    if arguments.to:
        _export(arguments)
    else:
        refuse(arguments, TuningOptions, "only with --to or --task", ("seq_length",))
        _import(arguments)
    return True


def _one(arguments: argparse.Namespace, what: str) -> Path:
    if len(arguments.input) != 1:
        raise UserError(f"--input: {len(arguments.input)} paths, expected one, {what}")
    return arguments.input[0]


def _export(arguments: argparse.Namespace) -> None:
    dataset, split = _one(arguments, "a dataset directory"), arguments.split or "train"
    refuse(arguments, DatasetOptions, "only with datasets that are made; give --output a new directory", ("replace",))
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

        refuse(arguments, ExchangeOptions, "only with --to mindrecord", ("files", "order"))
        result = export_triplet(dataset, arguments.output, split, arguments.seq_length, progress=True)
    text = f"{result['rows']} rows of {result['seq_length']} + 1 tokens of {split}: {result['output']}"
    print_result(result, text, arguments.json)


def _import(arguments: argparse.Namespace) -> None:
    options = {"validation_share": arguments.validation_share, "replace": arguments.replace}
    if arguments.from_format == "mindrecord":
        from ms_codegeex.data.interchange.mindrecord import import_mindrecord

        result = import_mindrecord(arguments.input, arguments.output, arguments.tokenizer, **options)
    else:
        from ms_codegeex.data.interchange.foreign import import_triplet

        prefix = _one(arguments, "the triplet's path without _input_ids")
        result = import_triplet(prefix, arguments.output, arguments.tokenizer, **options)
    print_dataset(arguments, result)
