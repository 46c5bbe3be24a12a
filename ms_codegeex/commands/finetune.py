"""`ms-codegeex finetune`: train a model further on prompts and answers."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import REQUIRED, given, option
from ms_codegeex.base.printing import print_error
from ms_codegeex.base.verb_options import CHECKPOINT
from ms_codegeex.commands.train import ResumingOptions, overrides_of, paths_and_overrides
from ms_codegeex.data.infilling.options import INFILLING, infill_config

SUMMARY = "train a model further on prompts and answers: prepares the data, trains, keeps the best, exports"
EXAMPLES = """  ms-codegeex finetune --model runs/codegeex_tiny --data pairs.jsonl
  ms-codegeex finetune --model models/codegen --data chats.jsonl.zst --epochs 2 output=runs/chat
  ms-codegeex finetune --model models/codegen --data chats.jsonl --validation held_out.jsonl
  ms-codegeex finetune --model runs/codegeex_tiny --data corpus --infill-rate 0.9
  ms-codegeex finetune --model runs/codegeex_tiny --adapter runs/finetune_lora --data more.jsonl output=runs/more
  ms-codegeex finetune --config my.yaml --model runs/codegeex_tiny --data tuning training.schedule.learning_rate=1e-5"""


@dataclass(frozen=True)
class FinetuneOptions:
    """The model, its data, and the run."""

    model: Path = option("model directory, run directory or checkpoint", "DIR", REQUIRED)
    checkpoint: str | None = CHECKPOINT.field(None, kw_only=True)
    data: tuple[str, ...] = option(
        "records in .jsonl[.gz|.zst] (docs/finetune.md), or a dataset directory made from them", "PATH", REQUIRED
    )
    validation: str | None = option(
        "your own records for validation, or a dataset of them, in place of a share of --data (data.validation)", "PATH"
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


OPTIONS = (FinetuneOptions, INFILLING, ResumingOptions)


def run(arguments: argparse.Namespace) -> None:
    """Prepare the data with the model's tokenizer, then train from the model's weights."""
    from ms_codegeex.formats.files import chosen_place
    from ms_codegeex.formats.sources import open_source
    from ms_codegeex.runs.finetune_choices import TuningData, TuningRequest, file_of, tuned
    from ms_codegeex.runs.resume import check_allowed
    from ms_codegeex.runs.servers.node import resolve_node
    from ms_codegeex.runs.servers.rank_table import awaited_rank_table
    from ms_codegeex.runs.training_job import rank_table_of, train

    options, resuming = given(FinetuneOptions, arguments), given(ResumingOptions, arguments)
    data, words = paths_and_overrides(options.data)
    if not data:
        raise UserError(f"--data: {words[0]} is an override; name files or a dataset directory first")
    source, infill = open_source(chosen_place(options.model, options.checkpoint)), infill_config(arguments)
    given_infill = [] if infill is None else [f"data.infill={json.dumps(asdict(infill))}"]
    words = [*given_infill, *options.overrides, *words, *overrides_of(arguments)]
    request = TuningRequest.of(source, options.config, words, options.adapter)
    name, kind = file_of(request)
    request.stated(name)  # raises for a file with a section `model`
    config = request.load(name)
    check_allowed(config, resuming.allow_change)
    table = rank_table_of("finetune", None, config.device)  # names the devices allotted to this job
    if table is not None and (servers := len(awaited_rank_table(table, config.cluster.start_timeout).servers)) > 1:
        uses = f"{table} has {servers} servers, finetune uses one"
        raise UserError(f"RANK_TABLE_FILE: {uses}; name a table of this one, or unset it")
    try:
        config, lines = tuned(request, name, source, TuningData(data, options.task, options.epochs, options.json))
    except UserError as error:  # may come from `prepare` and name its option
        raise UserError(re.sub(r"give --seq-length (\w+)", r"give data.seq_length=\1", str(error))) from None
    for line in (kind, *lines):
        print_error(line)
    common = {"allow_change": resuming.allow_change, "restarts": resuming.restarts}
    train(config, resolve_node(config, table), **common, as_json=options.json)
