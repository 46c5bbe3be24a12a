"""One training run, from a checked configuration to its summary, for `train` and `finetune`."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.extras import extra
from ms_codegeex.base.printing import print_error, print_json, print_out
from ms_codegeex.config import RunConfig
from ms_codegeex.config.software import software_note
from ms_codegeex.data.datasets.batches import is_dataset
from ms_codegeex.data.datasets.opening import (
    absolute,
    check_meanings,
    held_out_data,
    lacks_validation,
    note_on_functions,
    rounded_weights,
    training_data,
    validation_data,
)
from ms_codegeex.formats.checkpoint import DamagedFile, list_checkpoints, step_of
from ms_codegeex.formats.sources import open_source, tokenizer_place
from ms_codegeex.models.registry import family
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.files.stopping import stop_at_once
from ms_codegeex.runs.memory_check import check_ascend, check_gpus, check_memory
from ms_codegeex.runs.opening import StartingPoint, held_run, join_run, open_run, pass_over, starting_point
from ms_codegeex.runs.rank.resumed_schedule import schedule_notes
from ms_codegeex.runs.rank.weights import check_weights
from ms_codegeex.runs.resume import changes_since, check_places, is_finished, out_of_patience
from ms_codegeex.runs.run_end import Stopwatch, finish
from ms_codegeex.runs.servers.attempts import recorded_end, resumed, with_restarts
from ms_codegeex.runs.servers.node import Node
from ms_codegeex.runs.servers.rendezvous import meeting
from ms_codegeex.runs.servers.supervision import planned_processes, run_workers
from ms_codegeex.runs.servers.workers import WorkerSpec
from ms_codegeex.runs.summary_text import print_summary


def resolve_data(config: RunConfig, corpus: Sequence[str], quiet: bool, servers: int = 1) -> RunConfig:
    """Return the configuration with absolute dataset paths. Without a dataset, prepare a corpus next to the run."""
    given = config.data.train is not None or config.data.blend is not None
    if corpus and given:
        key = "data.train" if config.data.blend is None else "data.blend"
        raise UserError(f"--corpus: {key} is given too; leave out --corpus, or set {key}=null")
    if servers > 1 and not given:
        made = "make it with `ms-codegeex prepare --input PATH --output DIR` where all of them can read it"
        raise UserError(f"data.train: {servers} servers need the same prepared dataset; {made}, and set data.train=DIR")
    if not given:
        directory = extra("train --corpus", "text")(config, corpus, tokenizer_of(config), quiet)
        data = replace(config.data, train=str(directory))
        if data.validation is not None and not is_dataset(Path(data.validation)):
            data = replace(data, validation=None)  # those files became the dataset's validation split
        config = replace(config, data=data)
    return replace(config, data=absolute(config.data))


def tokenizer_of(config: RunConfig) -> str | None:
    """Return the name or directory of the tokenizer for a corpus that the run prepares: that of the model that it
    starts from, or the family's. None: the run trains its own."""
    data, model = config.data, config.model
    if model.weights is not None and not model.grow and not model.fresh_vocabulary:
        source = open_source(Path(model.weights))
        if source.save_tokenizer is not None:
            name = tokenizer_place(source)
            print_error(f"tokenizer: that of model.weights, {name}")
            return name
    if data.tokenizer_size is None:
        return data.tokenizer or family(config.family).config.default_tokenizer(config.model.preset)
    return None


def check_datasets(config: RunConfig, begins: bool = False) -> Path:
    """Check the datasets once, before every worker would, and the initial model if the run `begins`. Return the dataset
    whose tokenizer the others must share."""
    model, training, held_out = config.model.sizes, training_data(config), held_out_data(config)
    validation, dataset = validation_data(config), Path(training.directory)
    note = check_weights(config, dataset) if begins else None  # first, since the model's sizes fit no other tokenizer
    training.check_model(model.vocab_size, model.eos_token_id)
    evaluated = {f"data.held_out.{name}": data for name, data in held_out.items()}
    if config.data.validation is not None:
        evaluated["data.validation"] = validation
    check_meanings(evaluated, dataset)
    for key, data in evaluated.items():
        if data.eos != model.eos_token_id or data.info["vocab_size"] > model.vocab_size:
            theirs = f"{data.directory} has {data.info['vocab_size']} ids and ends documents with {data.eos}"
            raise UserError(f"{key}: {theirs}; prepare it with the tokenizer of {dataset}")
    if unvalidated := lacks_validation(config):
        unvalidated = f"{unvalidated} has no validation split: the losses that are called validation are those of its "
        unvalidated += "training data; data.validation=DATASET evaluates on another"
    whole = config.data.validation is not None and validation.split != "validation"
    whole = whole and f"data.validation: {validation.directory} has no validation split, so all of it is evaluated on"
    notes = (note, unvalidated, whole, rounded_weights(config.data), note_on_functions(config, training))
    for line in filter(None, notes):
        print_error(line)
    return dataset


def train(
    config: RunConfig,
    node: Node,
    corpus: Sequence[str] = (),
    *,
    allow_change: Sequence[str] = (),
    restarts: int = 0,
    dry_run: Callable[[Path, Sequence[WorkerSpec]], str] | None = None,
    as_json: bool = False,
) -> None:
    """Check everything that can be checked, then train, export and sample; `node` is this server.

    `corpus`: files and folders to prepare and train on, instead of a dataset. `allow_change`: keys and sections that
    may differ from the checkpoint's. `restarts`: the maximum number of restarts after failures. `dry_run`: instead of
    training, print what this returns for the run directory and its processes. `as_json`: print summary.json at the end.
    """
    if restarts and node.count > 1:
        raise UserError("--restarts: a job of several servers is restarted by its scheduler (--job); leave it out")
    config = replace(config, output=str(Path(config.output).absolute()))
    run_directory = RunDirectory(Path(config.output))
    check_memory(config)
    if dry_run:
        held = f"{run_directory.config} would hold the resolved configuration"
        print_error(f"nothing is started, prepared or written; {held}")
        if config.device == "ascend" and (note := software_note(config.parallel.hardware or "")):
            print_error(note)
        checkpoint = starting_point(config, run_directory).checkpoint
        for note in schedule_notes(config, checkpoint):
            print_error(note)
        print_out(dry_run(run_directory.path, planned_processes(config, run_directory, node, checkpoint)))
        return
    summary = _train(config, node, corpus, allow_change, restarts, as_json)
    if summary is not None and as_json:
        print_json(summary)
    elif summary is not None:
        print_summary(summary, config)


def _train(
    config: RunConfig, node: Node, corpus: Sequence[str], allow_change: Sequence[str], restarts: int, quiet: bool
) -> dict[str, Any] | None:
    check_ascend(config)
    if note := check_gpus(config, len(node.ranks)):
        print_error(note)
    signal.signal(signal.SIGUSR1, stop_at_once)  # until workers run, whose launcher handles it
    run_directory = RunDirectory(Path(config.output))
    if node.rank > 0:
        _help_out(config, corpus, run_directory, node)
        return None
    # a job of several servers is restarted by its scheduler
    rewinds = config.faults.most if node.count == 1 and config.faults.policy == "rewind" else 0
    watch = Stopwatch()
    with _told_how_to_continue(run_directory, node), held_run(run_directory):
        attempts = run_directory.attempt
        start = starting_point(config, run_directory)
        if start.checkpoint is not None:
            check_places(config, start.checkpoint)
        with watch.part("corpus"):
            config = resolve_data(config, corpus, quiet, node.count)
            check_datasets(config, begins=start.checkpoint is None)
        for note in schedule_notes(config, start.checkpoint):
            print_error(note)

        def attempt(number: int) -> None:
            begin = starting_point(resumed(config, run_directory), run_directory) if number else start
            _open(config, run_directory, begin, allow_change)
            try:
                with recorded_end(run_directory), meeting(run_directory, node, begin.checkpoint) as others:
                    run_workers(config, run_directory, begin.checkpoint, node, others)
            except DamagedFile as damage:
                pass_over(begin.checkpoint, run_directory, damage)
                if node.count > 1:
                    raise UserError(f"{damage}; it is set aside, start the job again with --resume auto") from None
                raise

        with_restarts(run_directory, restarts, rewinds, attempt)
        return finish(config, run_directory, watch, attempts)


@contextlib.contextmanager
def _told_how_to_continue(run: RunDirectory, node: Node) -> Iterator[None]:
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        if saved := list_checkpoints(run.checkpoints):
            again = "the same command with --resume auto"
            if node.count == 1 and node.table is None:
                again = f"ms-codegeex train --config {shlex.quote(str(run.config))} --resume auto"
            print_error(f"saved: step {step_of(saved[-1])}; to continue: {again}")
        else:
            print_error(f"nothing was saved in {run.path}; the same command starts again")
        raise


def _open(config: RunConfig, run_directory: RunDirectory, start: StartingPoint, allow_change: Sequence[str]) -> None:
    checkpoint = start.checkpoint
    changes = changes_since(config, checkpoint, allow_change) if checkpoint else []
    open_run(config, run_directory, start, changes)
    print_error(f"run directory {run_directory.path}")
    if checkpoint is None:
        if config.model.weights is not None:
            print_error(f"starting from the weights of {config.model.weights}")
        return
    for change in changes:
        print_error(f"changed since {checkpoint.path.name}: {change.key} from {change.before} to {change.now}")
    if is_finished(config, checkpoint):
        longer = "training.tokens=…" if config.training.tokens else "training.steps=…"
        if out_of_patience(config, checkpoint):
            longer = "training.patience=…"
        print_error(f"already at step {checkpoint.step}: nothing left to train (more: {longer})")


def _help_out(config: RunConfig, corpus: Sequence[str], run_directory: RunDirectory, node: Node) -> None:
    config = resolve_data(config, corpus, True, node.count)
    check_datasets(config)  # server 0 has checked the initial model
    print_error(f"waiting for server 0 to open {run_directory.path}")
    with meeting(run_directory, node) as others:
        join_run(config, run_directory)
        run_workers(config, run_directory, None, node, others)


def rank_table_of(verb: str, given: Path | None, device: str, nodes: int | None = None) -> Path | None:
    """Return the rank table of the command line, or else the one that `RANK_TABLE_FILE` names, unless `nodes` says how
    many servers meet without one. Platforms set that variable in every job. Prints a line if it is used or ignored."""
    named = os.environ.get("RANK_TABLE_FILE")
    if not named or (given is not None and given.absolute() == Path(named).absolute()):
        return given
    if given is not None:
        note = f"--rank-table {given} is used, not RANK_TABLE_FILE={named} of the environment"
    elif device != "ascend":
        note = f"RANK_TABLE_FILE={named} of the environment is not used: rank tables are for Ascend, device is {device}"
    elif nodes is not None:
        note = f"--nodes {nodes} is used, not RANK_TABLE_FILE={named} of the environment"
    else:
        note = f"--rank-table {named}: from RANK_TABLE_FILE in the environment; unset it to train without a rank table"
        given = Path(named)
    print_error(f"ms-codegeex {verb}: {note}")
    return given
