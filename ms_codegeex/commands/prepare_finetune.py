"""`ms-codegeex prepare --task completion|chat|translation`: examples of fine-tuning to a dataset directory."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ms_codegeex.commands.dataset_summary import print_dataset
from ms_codegeex.errors import UserError

EXAMPLES = """\
  ms-codegeex prepare --input pairs.jsonl --output tuning --task completion --seq-length 2048
  ms-codegeex prepare --input chats.jsonl.zst --output chats --task chat --seq-length 8192 --tokenizer models/codegeex2
"""
PRETRAIN = "pretrain"
OF_CORPORA = (
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
"""Arguments of `prepare` that concern corpora alone; not given they are None, false, empty or `default`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what fine-tuning data wants besides the arguments of `prepare`."""
    group = parser.add_argument_group("fine-tuning", "records of .jsonl[.gz|.zst] files become prompts and answers")
    group.add_argument(
        "--task",
        choices=(PRETRAIN, "completion", "chat", "translation"),
        default=PRETRAIN,
        help="what the records are (docs/finetuning-data.md); pretrain: documents of a corpus (default: pretrain)",
    )
    group.add_argument(
        "--seq-length",
        type=int,
        metavar="N",
        help="most tokens of an example, end token included; with --to, rows have one token more than this",
    )
    group.add_argument(
        "--overlong",
        choices=("truncate", "drop"),
        help="of a longer example, cut the prompt's left end, or drop it whole (default: truncate)",
    )
    group.add_argument(
        "--template",
        choices=("auto", "codegeex2", "plain"),
        help="how conversations are written; auto: as the tokenizer's model does (default: auto)",
    )


def run(arguments: argparse.Namespace) -> int | None:
    """Prepare fine-tuning data and say what is in it; None if the task is another one."""
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
    )
    result = prepare_finetune(arguments.input, arguments.output, settings, True, replace=arguments.replace)
    print_dataset(arguments, result)
    return 0


def refuse(arguments: argparse.Namespace, names: Sequence[str], where: str) -> None:
    """`UserError` if one of the arguments `names` is given, which means something with `where` only."""
    for name in names:
        value = getattr(arguments, name, None)
        if value is not None and value is not False and value not in ([], "default"):
            raise UserError(f"--{name.replace('_', '-')}: only with {where}; leave it out")
