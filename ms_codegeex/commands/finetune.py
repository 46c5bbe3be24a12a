"""`ms-codegeex finetune`: train a model further on prompts and answers."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import REQUIRED, add_options, given, option
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


@dataclass(frozen=True)
class FinetuneOptions:
    """The model, its data, and the run."""

    model: Path = option("model directory, run directory or checkpoint", "DIR", REQUIRED)
    data: tuple[str, ...] = option(
        "records in .jsonl[.gz|.zst] (docs/finetuning-data.md), or a dataset directory made of them", "PATH", REQUIRED
    )
    config: str | None = option(
        "YAML file without a model, or a shipped name (default: finetune_lora, or finetune_full for a small model)",
        "FILE",
    )
    adapter: Path | None = option("train these adapters further: a run, or a directory in PEFT's layout", "DIR")
    overrides: tuple[str, ...] = option("overrides, such as training.steps=40", "key=value", (), positional=True)
    task: Literal["completion", "chat", "translation"] | None = option(
        "kind of records (default: recognised from the fields of the first one)"
    )
    epochs: float | None = option(
        "train for N passes over the data, instead of the configuration's steps", "N", gt=0, lt=float("inf")
    )
    devices: int | None = option("worker processes (default: 1 on a CPU, otherwise the configuration's)", "N")
    json: bool = option("print summary.json on standard output at the end", default=False)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_options(parser, FinetuneOptions)
    add_infill_options(parser)
    add_options(parser, ResumingOptions)


def run(arguments: argparse.Namespace) -> None:
    """Prepare the data with the model's tokenizer, then train from its weights."""
    from ms_codegeex.base.reading import read_json
    from ms_codegeex.commands.finetune_choices import TuningRequest, file_of, fit, length_of, with_steps
    from ms_codegeex.commands.training_job import paths_and_overrides, rank_table_of, train
    from ms_codegeex.data.corpus.tally import print_tally
    from ms_codegeex.data.finetuning.prepare import FinetuneSettings, example_sizes, recognised_task
    from ms_codegeex.formats.sources import open_source, tokenizer_place
    from ms_codegeex.runs.attempts import Restarts
    from ms_codegeex.runs.node import resolve_node
    from ms_codegeex.runs.resume import check_allowed

    options, resuming = given(FinetuneOptions, arguments), given(ResumingOptions, arguments)
    data, words = paths_and_overrides(options.data)
    if not data:
        raise UserError(f"--data: {words[0]} is an override; name files or a dataset directory first")
    source = open_source(options.model)
    infill = infill_config(arguments)
    given_infill = [] if infill is None else [f"data.infill={json.dumps(asdict(infill))}"]
    words = [*given_infill, *options.overrides, *words, *overrides_of(arguments)]
    request = TuningRequest(
        options.config, _model_words(options, source), words, options.adapter is not None, _stored(source)
    )
    name, kind = file_of(request)
    stated = request.stated(name)
    config = request.load(name)
    check_allowed(config, resuming.allow_change)
    table = _one_server(rank_table_of("finetune", None, config.device))
    prepared = len(data) == 1 and (Path(data[0]) / "dataset.json").is_file()
    dataset = Path(data[0]).absolute() if prepared else None
    task = None if prepared else options.task or recognised_task(data)
    limit, sizes = config.model.sizes.max_position_embeddings, None
    if task is not None and stated.get("data.seq_length") is None:
        sizes = example_sizes(data, FinetuneSettings(task, limit, tokenizer_place(source), seed=config.seed))
    length = length_of(stated, sizes, limit, dataset)
    config, memory = fit(request, name, length)
    if task is not None:
        dataset = _prepared(data, task, source, config, quiet=options.json)
    config = replace(config, data=replace(config.data, train=str(dataset), blend=None))
    config, steps = with_steps(config, stated, options.epochs)
    tokens = f"sequences of {config.seq_length} tokens: {length.reason} (data.seq_length)"
    if not prepared and (tally := read_json(dataset / "dataset.json").get("tally")):
        print_tally(tally)
        if left := tally["read"] - tally["kept"]:
            tokens += f"; {left} of {tally['read']} records were left out"
    for line in (kind, tokens, memory, steps):
        print_error(line)
    node, restarts = resolve_node(config, table), Restarts(resuming.restarts, resuming.min_devices)
    train(config, node, allow_change=resuming.allow_change, restarts=restarts, as_json=options.json)


def _one_server(path: Path | None) -> Path | None:
    """A rank table, which says which devices are allotted here. `UserError` if it is for several servers."""
    from ms_codegeex.runs.rank_table import read_rank_table

    if path is not None and (servers := len(read_rank_table(path).servers)) > 1:
        uses = f"{path} has {servers} servers, finetune uses one"
        raise UserError(f"RANK_TABLE_FILE: {uses}; name a table of this one, or unset it")
    return path


def _model_words(options: FinetuneOptions, source: Source) -> list[str]:
    """The overrides that `--model` and `--adapter` mean: sizes, and where the weights are."""
    from ms_codegeex.commands.finetune_choices import model_words
    from ms_codegeex.formats.peft import open_adapters

    words = model_words(source)
    if options.adapter is not None:
        adapters = open_adapters(options.adapter, source)
        lora = {"rank": adapters.rank, "alpha": adapters.alpha, "targets": adapters.targets}
        lora["weights"] = str(options.adapter.absolute())
        words += [f"lora.{key}={json.dumps(value)}" for key, value in lora.items()]
    return words


def _stored(source: Source) -> str:
    """The one type of the model's matrices and tables in its files; "" if there are several."""
    types = {tensor.dtype for tensor in source.tensors.values() if len(tensor.shape) == 2}
    return types.pop() if len(types) == 1 else ""


def _prepared(data: list[str], task: str, source: Source, config: RunConfig, quiet: bool) -> Path:
    """A dataset directory next to the run for these files, made on first use. Equal files give the same one."""
    from ms_codegeex.base.reading import sha256
    from ms_codegeex.data.finetuning.prepare import FinetuneSettings, prepare_finetune
    from ms_codegeex.formats.sources import tokenizer_place

    settings = FinetuneSettings(task, config.seq_length, tokenizer_place(source), seed=config.seed)
    files = sorted(file for name in data for file in (Path(name), *Path(name).rglob("*")) if file.is_file())
    request: Mapping[str, Any] = {"settings": asdict(settings), "files": [sha256(file) for file in files]}
    key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    directory = Path(config.output).absolute().parent / f"tuning-{key[:12]}"
    if not (directory / "dataset.json").is_file():
        directory.parent.mkdir(parents=True, exist_ok=True)
        try:
            prepare_finetune(data, directory, settings, progress=not quiet)
        except UserError as error:  # it names options of `prepare`
            raise UserError(re.sub(r"--seq-length (\w+)", r"data.seq_length=\1", str(error))) from None
    return directory
