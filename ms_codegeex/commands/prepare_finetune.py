"""`ms-codegeex prepare --task completion|chat|translation`: make a dataset directory of fine-tuning examples."""

from __future__ import annotations

import argparse

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import given_values, refuse
from ms_codegeex.commands.dataset_summary import print_dataset
from ms_codegeex.commands.prepare_options import CORPORA, TuningOptions, infill_config

EXAMPLES = """\
  ms-codegeex prepare --input pairs.jsonl --output tuning --task completion --seq-length 2048
  ms-codegeex prepare --input chats.jsonl.zst --output chats --task chat --seq-length 8192 --tokenizer models/codegeex2
"""


def run(arguments: argparse.Namespace) -> bool:
    """Prepare fine-tuning data and print what is in it; False for another task."""
    if arguments.task == "pretrain":
        only = "only with --task completion, chat or translation"
        refuse(arguments, TuningOptions, only, ("seq_length", "overlong", "template"))
        return False
    for kind in CORPORA:
        refuse(arguments, kind, "only with --task pretrain")
    if not arguments.input or not arguments.seq_length:
        raise UserError(f"--task {arguments.task}: needs --input with .jsonl files and --seq-length, for example 2048")
    from ms_codegeex.data.finetuning.prepare import FinetuneSettings, prepare_finetune

    settings = FinetuneSettings(
        **given_values(TuningOptions, arguments),
        tokenizer=arguments.tokenizer,
        validation_share=arguments.validation_share,
        seed=arguments.seed,
        tags=arguments.tags,
        on_error=arguments.on_error,
        infill=infill_config(arguments),
    )
    result = prepare_finetune(arguments.input, arguments.output, settings, True, replace=arguments.replace)
    print_dataset(arguments, result)
    return True
