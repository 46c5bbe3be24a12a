"""`ms-codegeex prepare`: make a dataset directory from source trees and archives of records."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.extras import extra
from ms_codegeex.base.host import available_cores
from ms_codegeex.base.options import OptionGroup, given, given_values, refuse
from ms_codegeex.base.printing import print_result
from ms_codegeex.data.infilling.options import INFILLING, InfillOptions, infill_config
from ms_codegeex.data.summary_lines import corpus_lines, print_dataset
from ms_codegeex.extras.corpus.options import (
    CORPORA,
    CorpusRecipe,
    DatasetOptions,
    ExchangeOptions,
    RecordOptions,
    TagOptions,
    TextOptions,
    TuningOptions,
    WorkOptions,
    chosen_settings,
    read_recipe,
)
from ms_codegeex.extras.shared.remote import RemotePath

if TYPE_CHECKING:
    from ms_codegeex.extras.corpus.settings import PrepareSettings

EXTRA = "corpus"
SUMMARY = "turn source trees and files of records into a tokenised, deduplicated dataset directory"
EXAMPLES = """\
  ms-codegeex prepare --output corpus                     # 64 MB of the installed Python libraries
  ms-codegeex prepare --input ~/src --output corpus --languages python c++
  ms-codegeex prepare --input a b --output corpus --max-bytes 2000000000 --workers 8 --json
  ms-codegeex prepare --input dump.jsonl.gz stack/*.parquet --output corpus --licences mit apache-2.0
  ms-codegeex prepare --input ~/src --output corpus --licences mit bsd-3-clause --unknown-licences keep
  ms-codegeex prepare --input records.jsonl --output corpus --text-field body --language-field lang --on-error stop
  ms-codegeex prepare --input ~/src --output corpus --filters codegeex --redact email secrets --near-duplicates 0.85
  ms-codegeex prepare --input ~/src --output corpus --recipe bigpython
  ms-codegeex prepare --input ~/src --validation ~/held_out --output corpus
  ms-codegeex prepare --input ~/src --output corpus --infill-rate 0.5 --infill-mode both
  ms-codegeex prepare --input pairs.jsonl --output tuning --task completion --seq-length 2048
  ms-codegeex prepare --input chats.jsonl.zst --output chats --task chat --seq-length 8192 --tokenizer models/codegeex2
  ms-codegeex prepare --input corpus --to mindrecord --output corpus-mindrecord --seq-length 2048 --files 8
  ms-codegeex prepare --input tuning --to triplet --output tuning-megatron
  ms-codegeex prepare --input corpus-mindrecord --from mindrecord --output corpus2 --tokenizer codegeex
  ms-codegeex prepare --input tuning-megatron/train --from triplet --output tuning2
"""


RECORDS, RUN = "records", "the run"
OPTIONS = (
    OptionGroup(DatasetOptions, ("output", "input")),
    OptionGroup(DatasetOptions, ("tokenizer",), over=True),
    OptionGroup(DatasetOptions, ("validation_share", "validation", "seed")),
    TagOptions,
    OptionGroup(TextOptions, title="which documents"),
    OptionGroup(RecordOptions, title=RECORDS, text="by default the usual field names are tried"),
    OptionGroup(DatasetOptions, ("on_error",), title=RECORDS),
    OptionGroup(TuningOptions, title="fine-tuning", text="turn records into prompts and answers"),
    INFILLING,
    OptionGroup(
        ExchangeOptions,
        title="exchange",
        text="MindRecord files, or the three Megatron datasets of CodeGeeX's fine-tuning (docs/exchange.md)",
    ),
    OptionGroup(WorkOptions, title=RUN),
    OptionGroup(DatasetOptions, ("workers", "replace", "json"), title=RUN),
)


def run(arguments: argparse.Namespace) -> None:
    """Make the dataset and print a summary of it."""
    _refuse_urls(arguments)
    recipe = _recipe(arguments)
    if _exchange(arguments) or _tune(arguments):
        return
    # NumPy's threads would prevent forking the worker processes, and no matrices are multiplied here.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from ms_codegeex.extras.corpus.prepare import RunOptions, prepare_dataset, prepare_remote

    cluster = None  # None: this machine
    if arguments.engine == "ray":
        if arguments.workers is not None:
            raise UserError("--workers: not with --engine ray, which uses all cores of the cluster; leave it out")
        cluster = extra("prepare --engine", "ray")(arguments.ray_address or "auto")
    elif arguments.ray_address is not None:
        raise UserError("--ray-address: is for --engine ray; leave it out, or add --engine ray")
    workers = available_cores() if arguments.workers is None else arguments.workers
    options = RunOptions(workers, True, arguments.replace, cluster, dropped=arguments.dropped)
    if isinstance(arguments.output, RemotePath):
        if arguments.work is None:
            raise UserError(f"--output {arguments.output}: is made in another directory first; add --work DIR")
        result = prepare_remote(
            arguments.input, arguments.output, _settings(arguments, recipe), arguments.work, options
        )
    elif arguments.work is not None:
        raise UserError("--work: is for an --output that is a URL; leave it out")
    else:
        result = prepare_dataset(arguments.input, arguments.output, _settings(arguments, recipe), options)
    print_result(result, "\n".join(corpus_lines(result)), arguments.json)


def _recipe(arguments: argparse.Namespace) -> CorpusRecipe | None:
    recipe = None if arguments.recipe is None else read_recipe(arguments.recipe)
    if arguments.no_tags:
        arguments.tags = "none"
    values = {"tokenizer": "codegeex", "tags": "codegeex", **(recipe.values() if recipe else {})}
    for name, value in values.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return recipe


def _tune(arguments: argparse.Namespace) -> bool:
    if arguments.task == "pretrain":
        only = "only with --task completion, chat or translation"
        refuse(arguments, TuningOptions, only, ("seq_length", "overlong", "template"))
        return False
    for kind in CORPORA:
        refuse(arguments, kind, "only with --task pretrain")
    if not arguments.input or not arguments.seq_length:
        raise UserError(f"--task {arguments.task}: lacks an option; give --input RECORDS and --seq-length 2048")
    from ms_codegeex.extras.corpus.finetuning.prepare import FinetuneSettings, prepare_finetune

    settings = FinetuneSettings(**given_values(TuningOptions, arguments), **_common(arguments))
    result = prepare_finetune(arguments.input, Path(arguments.output), settings, True, arguments.replace)
    print_dataset(arguments, result)
    return True


def _refuse_urls(arguments: argparse.Namespace) -> None:
    if isinstance(arguments.dropped, RemotePath):
        raise UserError(f"--dropped {arguments.dropped}: is a URL; give a path of this machine")
    if arguments.task == "pretrain" and not arguments.to and not arguments.from_format:
        return
    both = {"input": arguments.input or (), "validation": arguments.validation or ()}
    for name, locations in (*both.items(), ("output", [arguments.output])):
        for location in locations:
            if isinstance(location, RemotePath):
                raise UserError(f"--{name} {location}: a URL is for corpora; give a path of this machine")


def _exchange(arguments: argparse.Namespace) -> bool:
    if not arguments.to:
        refuse(arguments, ExchangeOptions, "only with --to", ("split", "files", "order"))
        if not arguments.from_format:
            return False
    for kind in (*CORPORA, InfillOptions):
        refuse(arguments, kind, "only with datasets that are made from text")
    refuse(arguments, DatasetOptions, "only with datasets that are made from text", ("validation",))
    refuse(arguments, TuningOptions, "only with datasets that are made from text", ("overlong", "template"))
    if arguments.task != "pretrain" or not arguments.input:
        raise UserError("--to and --from: their input has been tokenised; give --input, and leave out --task")
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
        remedy = "make one with `ms-codegeex prepare --input PATH --output DIR`"
        raise UserError(f"{dataset}: not a dataset directory (no dataset.json); {remedy}")
    export = extra("prepare --to", arguments.to)
    length, more = arguments.seq_length, {}
    if arguments.to == "mindrecord":
        length = 2048 if length is None else length
        more = {"files": 1 if arguments.files is None else arguments.files}
        more["seed"] = arguments.seed if arguments.order == "training" else None
    else:
        refuse(arguments, ExchangeOptions, "only with --to mindrecord", ("files", "order"))
    result = export(dataset, arguments.output, split, length, **more, progress=True)
    text = f"{result['rows']} rows of {result['seq_length']} + 1 tokens of {split}: {result['output']}"
    print_result(result, text, arguments.json)


def _import(arguments: argparse.Namespace) -> None:
    options = {"validation_share": arguments.validation_share, "replace": arguments.replace}
    read = extra("prepare --from", arguments.from_format)
    if arguments.from_format == "mindrecord":
        result = read(arguments.input, arguments.output, arguments.tokenizer, **options)
    else:
        prefix = _one(arguments, "the triplet's path without _input_ids")
        result = read(prefix, arguments.output, arguments.tokenizer, **options)
    print_dataset(arguments, result)


def _settings(arguments: argparse.Namespace, recipe: CorpusRecipe | None) -> PrepareSettings:
    text, records = given(TextOptions, arguments), given(RecordOptions, arguments)
    return chosen_settings(text, records, recipe and recipe.rules, arguments.input is None, **_common(arguments))


def _common(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("tags", "validation_share", "seed", "tokenizer", "on_error")
    values = {name: getattr(arguments, name) for name in names}
    return {**values, "validation": tuple(arguments.validation or ()), "infill": infill_config(arguments)}
