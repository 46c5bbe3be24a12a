"""`ms-codegeex finetune`: train a model further on prompts and answers."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import add_options, given
from ms_codegeex.base.printing import print_error
from ms_codegeex.commands.prepare_options import add_infill_options, infill_config
from ms_codegeex.commands.train import ResumingOptions, overrides_of

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig
    from ms_codegeex.formats.sources import Source

SUMMARY = "train a model further on prompts and answers: prepares the data, trains, keeps the best, exports"
EXAMPLES = """  ms-codegeex finetune --model runs/codegeex_tiny --data pairs.jsonl
  ms-codegeex finetune --model models/codegen --data chats.jsonl.zst --epochs 2 output=runs/chat
  ms-codegeex finetune --model runs/codegeex_tiny --data corpus --infill-rate 0.9
  ms-codegeex finetune --model runs/codegeex_tiny --adapter runs/finetune_lora --data more.jsonl output=runs/more
  ms-codegeex finetune --config my.yaml --model runs/codegeex_tiny --data tuning training.schedule.learning_rate=1e-5"""
DEFAULT_CONFIG, ADAPTER_CONFIG = "finetune_full", "finetune_lora"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--model", required=True, metavar="DIR", help="model directory, run directory or checkpoint")
    parser.add_argument(
        "--data",
        required=True,
        nargs="+",
        metavar="PATH",
        help="files of records, .jsonl[.gz|.zst] (docs/finetuning-data.md), or a dataset directory made of them",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f"YAML file of the run without a model, or a shipped name (default: {DEFAULT_CONFIG}, with --adapter "
        f"{ADAPTER_CONFIG})",
    )
    parser.add_argument(
        "--adapter", metavar="DIR", help="train these adapters further: a run, or a directory in PEFT's layout"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides, such as training.steps=40")
    parser.add_argument(
        "--task",
        choices=("completion", "chat", "translation"),
        help="kind of records (default: recognised from the fields of the first one)",
    )
    parser.add_argument(
        "--epochs",
        type=float,
        metavar="N",
        help="train for N passes over the data, instead of the configuration's steps",
    )
    add_infill_options(parser)
    parser.add_argument("--devices", type=int, metavar="N", help="worker processes (default: the configuration's)")
    add_options(parser, ResumingOptions)
    parser.add_argument("--json", action="store_true", help="print summary.json on standard output at the end")


def run(arguments: argparse.Namespace) -> int:
    """Prepare the data with the model's tokenizer, then train from its weights."""
    from ms_codegeex.commands.training_job import paths_and_overrides, rank_table_of, train
    from ms_codegeex.formats.sources import open_source
    from ms_codegeex.runs.attempts import Restarts
    from ms_codegeex.runs.memory_check import required_memory
    from ms_codegeex.runs.node import resolve_node
    from ms_codegeex.runs.resume import check_allowed

    if arguments.epochs is not None and arguments.epochs <= 0:
        raise UserError(f"--epochs: {arguments.epochs} is out of range; give a number above 0")
    data, words = paths_and_overrides(arguments.data)
    if not data:
        raise UserError(f"--data: {words[0]} is an override; name files or a dataset directory first")
    source = open_source(Path(arguments.model))
    config = _configured(arguments, source, [*arguments.overrides, *words])
    options = given(ResumingOptions, arguments)
    check_allowed(config, options.allow_change)
    table = _one_server(rank_table_of("finetune", None, config.device))
    if len(data) == 1 and (Path(data[0]) / "dataset.json").is_file():
        dataset = Path(data[0]).absolute()
    else:
        dataset = _prepared(data, arguments.task, source, config, quiet=arguments.json)
    infill = infill_config(arguments) or config.data.infill
    config = replace(config, data=replace(config.data, train=str(dataset), blend=None, infill=infill))
    if arguments.epochs is not None:
        config = _with_epochs(config, arguments.epochs)
    if config.device == "cpu":
        print_error(f"memory: about {required_memory(config) / 1e9:.1f} GB on {config.devices} process(es)")
    print_error(
        f"at most {config.steps} steps of {config.training.global_batch} sequences of {config.seq_length} tokens"
    )
    node, restarts = resolve_node(config, table), Restarts(options.restarts, options.min_devices)
    return train(config, node, allow_change=options.allow_change, restarts=restarts, as_json=arguments.json)


def _one_server(path: Path | None) -> Path | None:
    """A rank table, which says which devices are allotted here. `UserError` if it is for several servers."""
    from ms_codegeex.runs.rank_table import read_rank_table

    if path is not None and (servers := len(read_rank_table(path).servers)) > 1:
        raise UserError(
            f"RANK_TABLE_FILE: {path} has {servers} servers, finetune uses one; name a table of this one, or unset it"
        )
    return path


def _configured(arguments: argparse.Namespace, source: Source, words: list[str]) -> RunConfig:
    """The run's configuration with the model's sizes in it."""
    from ms_codegeex.base.shipped import find_config
    from ms_codegeex.config.loading import load_config
    from ms_codegeex.config.values import read_yaml
    from ms_codegeex.formats.adapter_files import open_adapters

    name = arguments.config or (ADAPTER_CONFIG if arguments.adapter else DEFAULT_CONFIG)
    given = read_yaml(find_config(Path(name))).get("model")
    if given is not None:
        raise UserError(f"{name}: model: --model names the model; remove the section")
    model = {"family": source.family.name, **source.fields, "weights": str(source.path.absolute())}
    words = [f"model.{key}={json.dumps(value)}" for key, value in model.items()] + words
    if arguments.adapter is not None:
        adapters = open_adapters(Path(arguments.adapter), source)
        lora = {"rank": adapters.rank, "alpha": adapters.alpha, "targets": adapters.targets}
        lora["weights"] = str(Path(arguments.adapter).absolute())
        words = [f"lora.{key}={json.dumps(value)}" for key, value in lora.items()] + words
    return load_config(Path(name), [*words, *overrides_of(arguments)])


def _prepared(data: list[str], task: str | None, source: Source, config: RunConfig, quiet: bool) -> Path:
    """A dataset directory next to the run for these files, made on first use. Equal files give the same one."""
    from ms_codegeex.base.reading import sha256
    from ms_codegeex.data.finetuning.prepare import FinetuneSettings, prepare_finetune, recognised_task

    task = task or recognised_task(data)
    settings = FinetuneSettings(task, config.seq_length, _tokenizer(source), seed=config.seed)
    files = sorted(file for name in data for file in (Path(name), *Path(name).rglob("*")) if file.is_file())
    request: Mapping[str, Any] = {"settings": asdict(settings), "files": [sha256(file) for file in files]}
    key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    directory = Path(config.output).absolute().parent / f"tuning-{key[:12]}"
    if not (directory / "dataset.json").is_file():
        directory.parent.mkdir(parents=True, exist_ok=True)
        prepare_finetune(data, directory, settings, progress=not quiet)
    return directory


def _tokenizer(source: Source) -> str:
    """Name or directory of the model's tokenizer."""
    from ms_codegeex.data.tokenizer import TOKENIZER_NAMES
    from ms_codegeex.data.tokenizer.recorded import TOKENIZER_DIRECTORY
    from ms_codegeex.formats.source_tokenizer import source_tokenizer

    tokenizer = source_tokenizer(source)
    if tokenizer.name in TOKENIZER_NAMES:
        return tokenizer.name
    run = source.path.absolute().parent.parent
    return str(source.path if source.kind == "huggingface" else run / TOKENIZER_DIRECTORY)


def _with_epochs(config: RunConfig, epochs: float) -> RunConfig:
    """This many passes over the data, with warm-up and decay adapted to them."""
    from ms_codegeex.data.datasets.opening import training_data

    batch, schedule = config.training.global_batch, config.training.schedule
    steps = max(1, round(epochs * training_data(config).size / batch))
    schedule = replace(schedule, decay_steps=max(steps, 2), warmup_steps=min(schedule.warmup_steps, steps // 10))
    return replace(config, training=replace(config.training, steps=steps, tokens=None, schedule=schedule))
