"""One training run from a checked configuration to its summary, for `train` and `finetune`."""

from __future__ import annotations

import functools
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.base.hardware import GIB
from ms_codegeex.base.host import available_cores
from ms_codegeex.base.printing import print_error, print_json, print_out
from ms_codegeex.base.reading import read_json
from ms_codegeex.commands.run_end import Stopwatch, compared, comparison, sampled, time_line
from ms_codegeex.config import RunConfig
from ms_codegeex.config.software import software_note
from ms_codegeex.data.corpus.prepare import cached_corpus
from ms_codegeex.data.corpus.reading import Search, find_units
from ms_codegeex.data.corpus.selection import NothingLeft
from ms_codegeex.data.corpus.settings import PrepareSettings, ReadingSettings
from ms_codegeex.data.corpus.sources import Inputs
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
from ms_codegeex.data.tokenizer_training import TokenizerSettings, cached_tokenizer
from ms_codegeex.formats.checkpoint import Checkpoint, Damaged
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.peft import write_peft
from ms_codegeex.formats.sources import open_source, tokenizer_place
from ms_codegeex.models.registry import family
from ms_codegeex.runs.attempts import Restarts, on_fewer_devices, recorded_end, resumed, with_restarts
from ms_codegeex.runs.fork_server import fork_server_of
from ms_codegeex.runs.history import read_history
from ms_codegeex.runs.memory_check import Shortage, check_gpus, check_memory, shortage
from ms_codegeex.runs.node import Node, resolve_node
from ms_codegeex.runs.opening import StartingPoint, held_run, join_run, open_run, pass_over, starting_point
from ms_codegeex.runs.process_list import Form, process_text
from ms_codegeex.runs.rendezvous import meeting
from ms_codegeex.runs.resume import changes_since, is_finished, out_of_patience, schedule_notes
from ms_codegeex.runs.run_directory import RunDirectory
from ms_codegeex.runs.stopping import stop_at_once
from ms_codegeex.runs.supervision import planned_processes, run_workers
from ms_codegeex.runs.weights import check_weights
from ms_codegeex.runs.workers import WorkerSpec

TOKENIZER_BYTES = 6_000_000  # of a corpus, for a run's own tokenizer; ten times as many take 15 s more for 2 % of it
OVERRIDE = re.compile(r"[a-z_]+(\.[a-z_0-9]+)*=")


def paths_and_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of an option that takes paths, `--corpus a b key=value`, apart from overrides that follow them."""
    overrides = [word for word in words if OVERRIDE.match(word) and not Path(word).exists()]
    return [word for word in words if word not in overrides], overrides


def resolve_data(config: RunConfig, corpus: Sequence[str], quiet: bool, servers: int = 1) -> RunConfig:
    """The configuration with absolute dataset paths; without any, a corpus is prepared next to the run."""
    given = config.data.train is not None or config.data.blend is not None
    if corpus and given:
        key = "data.train" if config.data.blend is None else "data.blend"
        raise UserError(f"--corpus: {key} is given too; choose one of them")
    if servers > 1 and not given:
        made = "make it with `ms-codegeex prepare --input PATH --output DIR` where all of them can read it"
        raise UserError(f"data.train: {servers} servers need the same prepared dataset; {made}, and set data.train=DIR")
    if not given:
        parent = Path(config.output).parent
        paths = [Path(p) for p in corpus] or None
        reading = _reading(config, corpus)
        search = functools.cache(find_units)  # the tokenizer and the corpus are made of the same files
        settings = PrepareSettings(tokenizer=_tokenizer(config, paths, reading, parent, search), reading=reading)
        try:
            directory = cached_corpus(paths, parent, settings, available_cores(), progress=not quiet, search=search)
        except NothingLeft as error:  # what helps are options of `prepare`
            raise UserError(f"{error}, then set data.train=corpus without --corpus") from None
        print_error(f"corpus {directory} (delete it to search and prepare the sources afresh)")
        config = replace(config, data=replace(config.data, train=str(directory)))
    return replace(config, data=absolute(config.data))


def _reading(config: RunConfig, corpus: Sequence[str]) -> ReadingSettings:
    """What a corpus that the run prepares is read from; the user's own files are taken in all languages."""
    try:
        return ReadingSettings(languages=() if corpus else config.data.languages)
    except UserError as error:
        raise UserError(f"data.languages: {error}") from None


def _tokenizer(config: RunConfig, corpus: Inputs, reading: ReadingSettings, parent: Path, search: Search) -> str:
    """Name or directory of the tokenizer for a corpus that the run prepares: that of the model that it starts from, the
    run's own, which is trained here on first use, or the family's."""
    data, model = config.data, config.model
    if model.weights is not None and not model.grow and not model.fresh_vocabulary:
        source = open_source(Path(model.weights))
        if source.save_tokenizer is not None:
            name = tokenizer_place(source)
            print_error(f"tokenizer: that of model.weights, {name}")
            return name
    if data.tokenizer_size is None:
        return data.tokenizer or family(config.family).config.default_tokenizer(config.model.preset)
    size, sizes = data.tokenizer_size, model.sizes
    try:
        settings = TokenizerSettings(size, max_bytes=TOKENIZER_BYTES, family=config.family, reading=reading)
        end = settings.end_token
        if size > sizes.vocab_size or end not in (None, sizes.eos_token_id):
            fits = f"model.vocab_size={size} model.eos_token_id={end}"
            raise UserError(f"data.tokenizer_size: {size} ids do not fit the model; set {fits}")
        directory = cached_tokenizer(corpus, parent, settings, search)
    except UserError as error:  # it names options of `tokenizer train`
        problem = str(error).partition(": ")[2].replace("--vocab-size ", "data.tokenizer_size=")
        raise UserError(f"data.tokenizer_size: {problem}") from None
    print_error(f"tokenizer {directory} (delete it to train one afresh)")
    return str(directory)


def check_datasets(config: RunConfig, begins: bool = False) -> Path:
    """Find problems with the datasets once, before every worker does, and with the model that a run `begins` with;
    returns the dataset whose tokenizer counts."""
    model, training, held_out = config.model.sizes, training_data(config), held_out_data(config)
    validation, dataset = validation_data(config), Path(training.directory)
    note = check_weights(config, dataset) if begins else None  # first: sizes of its model fit no other tokenizer
    training.check_model(model.vocab_size, model.eos_token_id)
    evaluated = {f"data.held_out.{name}": data for name, data in held_out.items()}
    if config.data.validation is not None:
        evaluated["data.validation"] = validation
    check_meanings(evaluated, dataset)
    for key, data in evaluated.items():
        if data.eos != model.eos_token_id or data.info["vocab_size"] > model.vocab_size:
            theirs = f"{data.directory} has {data.info['vocab_size']} ids and ends documents with {data.eos}"
            raise UserError(f"{key}: {theirs}; prepare it with the tokenizer of {dataset}")
    unvalidated = lacks_validation(config) and (
        f"{lacks_validation(config)} has no validation split: the losses that are called validation are those of its "
        "training data; data.validation=DATASET evaluates on another"
    )
    for line in filter(None, (note, unvalidated, rounded_weights(config.data), note_on_functions(config, training))):
        print_error(line)
    return dataset


def train(
    config: RunConfig,
    node: Node,
    corpus: Sequence[str] = (),
    *,
    allow_change: Sequence[str] = (),
    restarts: Restarts,
    dry_run: Form | None = None,
    as_json: bool = False,
) -> None:
    """Check everything that can be checked, then train, export and sample; `node` is this server.

    `corpus`: files and folders to prepare and train on, instead of a dataset. Keys and sections of `allow_change` may
    differ from the checkpoint's. `dry_run`: print the processes instead, in this form. `as_json`: print summary.json at
    the end.
    """
    check_restarts(restarts, config, node)
    config = replace(config, output=str(Path(config.output).absolute()))
    run_directory = RunDirectory(Path(config.output))
    check_memory(config)
    if dry_run:
        held = f"{run_directory.config} would hold the resolved configuration"
        print_error(f"nothing is started, prepared or written; {held}")
        print_software([config])
        print_out(process_text({"": (run_directory.path, processes_of(config, node))}, dry_run))
        return
    summary = train_once(config, node, corpus, allow_change, restarts=restarts, quiet=as_json)
    if summary is not None and as_json:
        print_json(summary)
    elif summary is not None:
        _print_summary(summary, run_directory, _longer(config, summary))


def print_software(configs: Sequence[RunConfig]) -> None:
    """Say on standard error which MindSpore is known to support the Ascends that these runs name."""
    names = [config.parallel.hardware or "" for config in configs if config.device == "ascend"]
    for note in filter(None, dict.fromkeys(map(software_note, names))):
        print_error(note)


def _print_schedule(config: RunConfig, checkpoint: Checkpoint | None) -> None:
    """Say on standard error what a user should know of the run's learning rates."""
    for note in schedule_notes(config, checkpoint):
        print_error(f"stages.{config.stage}: {note}" if config.stage else note)


def _longer(config: RunConfig, summary: Mapping[str, Any]) -> str:
    """The override with which the finished run goes on."""
    tokens, patience = config.training.tokens, config.training.patience
    if patience and (summary["tokens"] < tokens if tokens else summary["steps"] < config.steps):
        return f"training.patience={2 * patience}"
    return f"training.tokens={2 * tokens}" if tokens else f"training.steps={2 * summary['steps']}"


def processes_of(config: RunConfig, node: Node) -> list[WorkerSpec]:
    """The processes that would be started on this server, for a dry run, which also says what `_print_schedule` does.
    `config.output` is absolute."""
    run_directory = RunDirectory(Path(config.output))
    checkpoint = starting_point(config, run_directory).checkpoint
    _print_schedule(config, checkpoint)
    return planned_processes(config, run_directory, node, checkpoint)


def check_restarts(restarts: Restarts, config: RunConfig, node: Node) -> None:
    """`UserError` for restarts that make no sense for this run on this server."""
    if restarts.max_restarts and node.count > 1:
        raise UserError("--restarts: a job of several servers is restarted by its scheduler (--job); leave it out")
    minimum = restarts.min_devices
    if minimum is None:
        return
    if not restarts.max_restarts:
        raise UserError("--min-devices: has no effect without --restarts; add --restarts 3")
    if node.table is not None:
        raise UserError("--min-devices: not with --rank-table, which fixes the devices; leave one of the two out")
    if (fewer := on_fewer_devices(config, minimum)) is None:
        possible = on_fewer_devices(config)
        remedy = "leave it out" if possible is None else f"give {possible.devices} or less, or leave it out"
        if minimum >= config.devices:
            raise UserError(f"--min-devices: {minimum} is not fewer than devices: {config.devices}; {remedy}")
        numbers = f"{minimum}" if minimum == config.devices - 1 else f"{minimum} to {config.devices - 1}"
        mesh = f"parallel.tensor {config.parallel.tensor}, parallel.pipeline {config.parallel.pipeline}"
        batch = f"training.global_batch {config.training.global_batch}"
        raise UserError(f"--min-devices: no mesh with {numbers} devices fits {mesh} and {batch}; {remedy}")
    if config.device != "cpu" and (short := shortage(fewer)):  # what is free on a CPU may change until then
        raise UserError(f"--min-devices: {_too_little(fewer, short)}; leave it out")


def _too_little(config: RunConfig, short: Shortage) -> str:
    if config.device == "cpu":
        processes = f"{config.devices} process{'es' * (config.devices > 1)}"
        return f"{processes} would need about {short.needed / 1e9:.1f} GB; {short.available / 1e9:.1f} GB are free"
    devices, each = f"{config.devices} device{'s' * (config.devices > 1)}", " each" * (config.devices > 1)
    return f"{devices} would need {short.needed / GIB:.1f} GiB{each}; {short.available / GIB:.1f} GiB are usable"


def train_once(
    config: RunConfig,
    node: Node,
    corpus: Sequence[str] = (),
    allow_change: Sequence[str] = (),
    *,
    restarts: Restarts,
    quiet: bool = False,
) -> dict[str, Any] | None:
    """Train, export and sample; returns the summary, None on a server other than 0. `config.output` is absolute."""
    if note := check_gpus(config, len(node.ranks)):
        print_error(note)
    signal.signal(signal.SIGUSR1, stop_at_once)  # while no workers run
    run_directory = RunDirectory(Path(config.output))
    if node.rank > 0:
        _help_out(config, corpus, run_directory, node)
        return None
    # a job of several servers is restarted by its scheduler
    rewinds = config.faults.most if node.count == 1 and config.faults.policy == "rewind" else 0
    watch = Stopwatch()
    with held_run(run_directory):
        attempts = run_directory.attempt
        with fork_server_of(config, node, run_directory) as fork_server:
            start = starting_point(config, run_directory)
            with watch.part("corpus"):
                config = resolve_data(config, corpus, quiet, node.count)
                check_datasets(config, begins=start.checkpoint is None)
            _print_schedule(config, start.checkpoint)

            def attempt(number: int) -> None:
                begin = starting_point(resumed(config, run_directory), run_directory) if number else start
                _open(config, run_directory, begin, allow_change)
                try:
                    with recorded_end(run_directory), meeting(run_directory, node, begin.checkpoint) as others:
                        run_workers(config, run_directory, begin.checkpoint, node, others, fork_server)
                except Damaged as damage:
                    pass_over(begin.checkpoint, run_directory, damage)
                    if node.count > 1:
                        raise UserError(f"{damage}; it is set aside, start the job again") from None
                    raise

            def shrink() -> None:
                nonlocal config, node
                if fewer := _fewer(config, restarts.min_devices):
                    config, node = fewer, resolve_node(fewer)

            with_restarts(run_directory, restarts.max_restarts, rewinds, attempt, shrink)
        return _finish(config, run_directory, watch, attempts)


def _fewer(config: RunConfig, minimum: int | None) -> RunConfig | None:
    """The configuration of the next attempt if a device may be lost (prints a notice); None if it stays the same."""
    fewer = on_fewer_devices(config, minimum) if minimum else None
    if fewer is None:
        return None
    devices = f"{fewer.devices} device{'s' * (fewer.devices > 1)}"
    if short := shortage(fewer):
        reason = _too_little(fewer, short)
        print_error(f"not continuing on {devices} instead of {config.devices} (--min-devices): {reason}")
        return None
    print_error(f"continuing on {devices} instead of {config.devices} (--min-devices)")
    return fewer


def _open(config: RunConfig, run_directory: RunDirectory, start: StartingPoint, allow_change: Sequence[str]) -> None:
    """Open the run and tell the user where it continues."""
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
    """On a server other than 0, run its workers in the run that server 0 has opened."""
    config = resolve_data(config, corpus, True, node.count)
    check_datasets(config)  # server 0 has checked the model that the run begins with
    print_error(f"waiting for server 0 to open {run_directory.path}")
    with meeting(run_directory, node) as others:
        join_run(config, run_directory)
        run_workers(config, run_directory, None, node, others)


def rank_table_of(verb: str, given: Path | None, device: str) -> Path | None:
    """The rank table of the command line, or else of `RANK_TABLE_FILE`; prints a line where the variable decides or is
    not followed."""
    named = os.environ.get("RANK_TABLE_FILE")
    if not named or (given is not None and given.absolute() == Path(named).absolute()):
        return given
    if given is not None:
        note = f"--rank-table {given} is used, not RANK_TABLE_FILE={named} of the environment"
    elif device != "ascend":
        note = f"RANK_TABLE_FILE={named} of the environment is not used: rank tables are for Ascend, device is {device}"
    else:
        note = f"--rank-table {named}: from RANK_TABLE_FILE in the environment; unset it to train without a rank table"
        given = Path(named)
    print_error(f"ms-codegeex {verb}: {note}")
    return given


def _finish(config: RunConfig, run_directory: RunDirectory, watch: Stopwatch, attempts: int) -> dict[str, Any]:
    """Compare the model, export it, sample from the exported model and write summary.json. `attempts`: of earlier
    commands."""
    result = read_json(run_directory.result)
    history = read_history(run_directory.path)
    log = history.log
    steps = [record for record in log if not record["compiling"]][-100:] or log[-100:]
    seconds = sum(record["step_seconds"] for record in steps)
    rate = sum(record["tokens_per_second"] * record["step_seconds"] for record in steps) / seconds if seconds else None
    mfu = sum(record["mfu"] * record["step_seconds"] for record in steps) / seconds if seconds else None
    summary = {**result, "tokens_per_second": rate, "mfu": mfu, "huggingface": None, "pytorch": None, "sample": None}
    summary |= {"attempts": len(history.attempts), "goodput": history.goodput, "parse_share": None, "parse_samples": 0}
    source = Path(result["checkpoint"])
    with watch.part("comparison"):
        left_out = [event["left_out"] for event in history.events if event["event"] == "rewind"]
        summary |= compared(config, source, result["validation_loss"], left_out)
    if config.checkpoint.export:
        write_json(run_directory.summary, {**summary, "exporting": True})  # the model card has its figures
        print_error("exporting the model directory and the PyTorch file …")
        with watch.part("export"):
            summary |= _exported(config, source, run_directory)
        if summary["huggingface"]:
            print_error("generating samples …")
            with watch.part("sample"):
                summary |= sampled(config, run_directory.huggingface, result["parameters"])
    summary["seconds"] = watch.training(history, attempts, result)
    write_json(run_directory.summary, summary)
    return summary


def _exported(config: RunConfig, source: Path, run_directory: RunDirectory) -> dict[str, str]:
    """Write the files for other programs; those that could be written, as the summary names them."""
    written = {}
    if config.lora.rank:
        write_peft(open_source(source), run_directory.adapter)
    for target, key, path in (
        ("hf", "huggingface", run_directory.huggingface),
        ("megatron", "pytorch", run_directory.pytorch(config.family)),
    ):
        try:
            written[key] = convert(source, target, path, progress=False, replace=True)["output"]
        except UserError as error:  # such as a file of the user's there; the trained checkpoint is safe
            print_error(f"not exported: {error}")
    return written


def _losses(summary: dict[str, Any]) -> Iterator[str]:
    """The losses of the model that the run leaves, and what they mean."""
    entropy, loss, shuffled = (summary[k] for k in ("unigram_entropy", "validation_loss", "shuffled_context_loss"))
    steps, start = summary["steps"], summary.get("validation_loss_before")
    kept = summary.get("evaluated_step", steps)  # missing from results of earlier versions
    if loss is None:
        yield f"{steps} steps; no validation loss: it is not finite"
        return
    if kept == 0 < steps:
        yield f"NO STEP WAS BETTER than the model that the run started from: after {steps} steps, that model is kept"
        yield f"  validation loss {loss:.3f} nats per token; try a lower training.schedule.learning_rate"
    else:
        of = f"after {steps} steps" if kept == steps else f"at step {kept}, the best of {steps}"
        yield f"validation loss {loss:.3f} nats per token {of}{'' if start is None else f', {start:.3f} before'}"
        if start is not None and loss > start:
            yield "  WORSE than the model that the run started from; try a lower training.schedule.learning_rate,"
            yield "  and training.patience, which keeps the best of all evaluations and of that model"
    gain = entropy - loss
    learnt = "the model is better" if gain > 0 else "the model is no better"
    yield f"  a table of token frequencies would have {entropy:.3f}, {_by(gain)}: {learnt}"
    if shuffled is None:
        return
    used = "so the context is used" if shuffled > loss else "so the context is not used"
    yield f"  with shuffled contexts the model has {shuffled:.3f}, {_by(shuffled - loss)}: {used}"


def _by(difference: float) -> str:
    return f"{abs(difference):.3f} {'more' if difference > 0 else 'less'}"


def _print_summary(summary: dict[str, Any], run_directory: RunDirectory, longer: str) -> None:
    """Print the figures, the sample, the artefacts' paths and what to try next; `longer` overrides the run's length."""
    print_out("\n" + "\n".join([*_losses(summary), *comparison(summary)]) + "\n")
    if summary["attempts"] > 1 and summary["goodput"] is not None:
        print_out(f"goodput {summary['goodput']:.0%} over {summary['attempts']} attempts\n")
    if summary["sample"] is not None:
        sample = "\n".join(f"  {line}" for line in summary["sample"].splitlines())
        print_out(f"how it continues three prompts:\n{sample}\n")
    print_out("artefacts:")
    shown = {
        "checkpoint": summary["checkpoint"],
        "model directory": summary["huggingface"],
        "PyTorch file": summary["pytorch"],
        "adapter (PEFT)": run_directory.adapter,
        "log": run_directory.log,
        "loss curve": run_directory.plot,
        "summary": run_directory.summary,
    }
    for name, path in shown.items():
        if path is not None and Path(path).exists():
            print_out(f"  {name:<16} {path}")
    print_out(f"\n{time_line(summary['seconds'])}")
    program = sys.argv[0] if Path(sys.argv[0]).name == "ms-codegeex" else "ms-codegeex"
    program = shlex.quote(os.path.relpath(program) if os.path.isabs(program) else program)
    run, config = shlex.quote(str(run_directory.path)), shlex.quote(str(run_directory.config))
    look = f"inspect {shlex.quote(summary['huggingface'])}" if summary["huggingface"] else f"checkpoint verify {run}"
    print_out(
        f'\ntry next:\n  {program} generate --model {run} --language Python --prompt "import os"\n'
        f"  {program} {look}\n"
        f"  {program} train --config {config} --resume auto {longer}"
    )
