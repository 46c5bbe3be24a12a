"""`ms-codegeex prepare --task completion|chat|translation`: make a dataset directory of fine-tuning examples."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ms_codegeex.base.errors import UserError
from ms_codegeex.commands.dataset_summary import print_dataset
from ms_codegeex.commands.infill_options import infill_config

EXAMPLES = """\
  ms-codegeex prepare --input pairs.jsonl --output tuning --task completion --seq-length 2048
  ms-codegeex prepare --input chats.jsonl.zst --output chats --task chat --seq-length 8192 --tokenizer models/codegeex2
"""
PRETRAIN = "pretrain"
OF_CORPORA = (
    "engine",
    "ray_address",
    "work",
    "languages",
    "all_text",
    "filters",
    "max_file_bytes",
    "min_bytes",
    "near_duplicates",
    "max_bytes",
    "strip_licences",
    "redact",
    "text_field",
    "language_field",
    "licence_field",
    "group_field",
    "licences",
)
"""Arguments of `prepare` for corpora only. When they are not given they are None, false, empty or `default`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for fine-tuning data."""
    group = parser.add_argument_group("fine-tuning", "turn records of .jsonl[.gz|.zst] files into prompts and answers")
    group.add_argument(
        "--task",
        choices=(PRETRAIN, "completion", "chat", "translation"),
        default=PRETRAIN,
        help="kind of records (docs/finetuning-data.md); pretrain: documents of a corpus (default: pretrain)",
    )
    group.add_argument(
        "--seq-length",
        type=int,
        metavar="N",
        help="maximum tokens per example, including the end token; rows of --to have one token more",
    )
    group.add_argument(
        "--overlong",
        choices=("truncate", "drop"),
        help="truncate the start of the prompt of a longer example, or drop the example (default: truncate)",
    )
    group.add_argument(
        "--template",
        choices=("auto", "codegeex2", "plain"),
        help="format of conversations; auto: that of the tokenizer's model (default: auto)",
    )


def run(arguments: argparse.Namespace) -> int | None:
    """Prepare fine-tuning data and print what is in it; None for another task."""
    if arguments.task == PRETRAIN:
        refuse(arguments, ("seq_length", "overlong", "template"), "--task completion, chat or translation")
        return None
    refuse(arguments, OF_CORPORA, "--task pretrain")
    if not arguments.input or not arguments.seq_length:
        raise UserError(f"--task {arguments.task}: needs --input with .jsonl files and --seq-length, for example 2048")
    from ms_codegeex.data.finetuning.prepare import FinetuneSettings, prepare_finetune

    settings = FinetuneSettings(
        arguments.task,
        arguments.seq_length,
        arguments.tokenizer,
        overlong=arguments.overlong or "truncate",
        validation_share=arguments.validation_share,
        seed=arguments.seed,
        template=arguments.template or "auto",
        tags=arguments.tags,
        on_error=arguments.on_error,
        infill=infill_config(arguments),
    )
    result = prepare_finetune(arguments.input, arguments.output, settings, True, replace=arguments.replace)
    print_dataset(arguments, result)
    return 0


def refuse(arguments: argparse.Namespace, names: Sequence[str], where: str) -> None:
    """Raise a `UserError` if one of the arguments `names`, which only apply to `where`, was given."""
    for name in names:
        value = getattr(arguments, name, None)
        if value is not None and value is not False and value not in ([], "default"):
            raise UserError(f"--{name.replace('_', '-')}: only with {where}; leave it out")
