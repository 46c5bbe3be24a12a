"""`ms-codegeex train`: train a model and leave everything in a run directory."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig
    from ms_codegeex.runs.node import Node
    from ms_codegeex.runs.run_directory import RunDirectory

SUMMARY = "train a model: prepares the corpus, trains on all devices, evaluates, exports and continues three prompts"
EXAMPLES = """  ms-codegeex train --config codegeex_tiny
  ms-codegeex train --config codegeex_tiny --devices 1 training.steps=40 output=runs/short
  ms-codegeex train --config codegeex_tiny output=runs/mine --corpus ~/src/my_project
  ms-codegeex train --config codegeex_tiny output=runs/half data.train=DATASET training.precision=fp16
  ms-codegeex train --config runs/half/config.yaml --resume auto --allow-change training.dropout training.dropout=0
  ms-codegeex train --config codegeex_13b --rank-table cluster.json --node-rank 0 --dry-run
  ms-codegeex train --config codegeex_13b --nodes 192 --node-rank 0 --master-addr 10.0.0.11:8118"""

OVERRIDE = re.compile(r"[a-z_]+(\.[a-z_0-9]+)*=")
SAMPLE_PROMPTS = ("def read_text(path):\n", "import os\n", "class Node:\n    def __init__(self):\n")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML file of the run, or a shipped name")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides, such as training.steps=40")
    parser.add_argument(
        "--devices",
        type=int,
        metavar="N",
        help="worker processes (default: the configuration's, otherwise 2 on a CPU with at least two cores)",
    )
    parser.add_argument(
        "--corpus",
        nargs="+",
        default=[],
        metavar="PATH",
        help="prepare the source code in these files and folders and train on it",
    )
    parser.add_argument(
        "--resume", metavar="auto|DIR", help="resume from the newest intact checkpoint of the run, or from DIR"
    )
    parser.add_argument(
        "--allow-change",
        action="append",
        default=[],
        metavar="KEY",
        help="resume although this key, or a key of this section, differs from the checkpoint's, such as "
        "training.schedule; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print summary.json on standard output at the end")
    cluster = parser.add_argument_group("on a cluster", "run the same command on every server (docs/cluster.md)")
    cluster.add_argument("--rank-table", type=Path, metavar="FILE", help="HCCL rank table of the job (Ascend)")
    cluster.add_argument("--node-rank", type=int, metavar="K", help="number of this server, from 0")
    cluster.add_argument("--nodes", type=int, metavar="N", help="number of servers, without a rank table (default: 1)")
    cluster.add_argument(
        "--master-addr", metavar="HOST:PORT", help="address where the servers meet server 0, without a rank table"
    )
    cluster.add_argument("--dry-run", action="store_true", help="print the processes that would be started")
    cluster.add_argument(
        "--job",
        choices=("slurm", "volcano"),
        help="print a job file that runs this command on the servers it needs",
    )


def _resolve_data(config: RunConfig, corpus: list[str], quiet: bool, servers: int = 1) -> RunConfig:
    """The configuration with absolute dataset paths; without any, a corpus is prepared next to the run."""
    from ms_codegeex.data.corpus.prepare import cached_corpus
    from ms_codegeex.data.corpus.settings import PrepareSettings
    from ms_codegeex.data.datasets.opening import absolute
    from ms_codegeex.errors import UserError
    from ms_codegeex.host import available_cores
    from ms_codegeex.models.registry import family

    given = "data.blend" if config.data.blend is not None else "data.train" if config.data.train is not None else None
    if corpus and given:
        raise UserError(f"--corpus: {given} is given too; choose one of them")
    if servers > 1 and not given:
        raise UserError(
            f"data.train: {servers} servers need the same prepared dataset; make it with `ms-codegeex prepare --input "
            "PATH --output DIR` where all of them can read it, and set data.train=DIR"
        )
    if not given:
        parent = Path(config.output).parent
        tokenizer = config.data.tokenizer or family(config.family).config.default_tokenizer(config.model.preset)
        directory = cached_corpus(
            [Path(p) for p in corpus] or None,
            parent,
            PrepareSettings(tokenizer=tokenizer),
            workers=available_cores(),
            progress=not quiet,
        )
        _say(f"corpus {directory} (delete it to search and prepare the sources afresh)")
        config = replace(config, data=replace(config.data, train=str(directory)))
    return replace(config, data=absolute(config.data))


def _check_data(config: RunConfig) -> None:
    """Find problems with the dataset once, before every worker does."""
    from ms_codegeex.data.datasets.opening import rounded_weights, training_data, validation_data

    model = config.model.sizes
    for data in (training_data(config), validation_data(config)):
        data.check_model(model.vocab_size, model.eos_token_id)
    if note := rounded_weights(config.data):
        _say(note)


def _configured(arguments: argparse.Namespace) -> tuple[RunConfig, list[str]]:
    """The run's configuration with all overrides of the command line, and the paths of its corpus."""
    from ms_codegeex.config import load_config

    # `--corpus a b key=value`: the last word is an override, not a path
    corpus = [word for word in arguments.corpus if Path(word).exists() or not OVERRIDE.match(word)]
    overrides = [*arguments.overrides, *(word for word in arguments.corpus if word not in corpus)]
    if arguments.devices is not None:
        overrides.append(f"devices={arguments.devices}")
    if arguments.resume is not None:
        overrides.append(f"checkpoint.resume={json.dumps(arguments.resume)}")
    return load_config(Path(arguments.config), overrides), corpus


def run(arguments: argparse.Namespace) -> int:
    """Check everything that can be checked, then train, export and sample."""
    from ms_codegeex.runs.host_memory import check_memory
    from ms_codegeex.runs.node import resolve_node
    from ms_codegeex.runs.opening import held_run, open_run
    from ms_codegeex.runs.rendezvous import meeting
    from ms_codegeex.runs.resume import changes_since, check_allowed, is_finished
    from ms_codegeex.runs.run_directory import RunDirectory
    from ms_codegeex.runs.starting_point import starting_point
    from ms_codegeex.runs.supervision import run_workers, shell_script

    config, corpus = _configured(arguments)
    check_allowed(config, arguments.allow_change)
    if arguments.job:
        return _print_job(arguments, config)
    config = replace(config, output=str(Path(config.output).absolute()))
    node = resolve_node(config, arguments.rank_table, arguments.node_rank, arguments.nodes, arguments.master_addr)
    run_directory = RunDirectory(Path(config.output))
    check_memory(config)
    if node.rank > 0 and not arguments.dry_run:
        return _help_out(config, corpus, run_directory, node)
    if arguments.dry_run:
        checkpoint = starting_point(config, run_directory).checkpoint
        _say(f"nothing is started, prepared or written; {run_directory.config} would hold the resolved configuration")
        print(shell_script(config, run_directory, node, checkpoint))
        return 0
    with held_run(run_directory):
        start = starting_point(config, run_directory)
        config = _resolve_data(config, corpus, arguments.json, node.count)
        _check_data(config)
        changes = changes_since(config, start.checkpoint, arguments.allow_change) if start.checkpoint else []
        open_run(config, run_directory, start, changes)
        _say(f"run directory {run_directory.path}")
        for change in changes:
            _say(f"changed since {start.checkpoint.path.name}: {change.key} from {change.before} to {change.now}")
        if start.checkpoint and is_finished(config, start.checkpoint):
            longer = "training.tokens=…" if config.training.tokens else "training.steps=…"
            _say(f"already at step {start.checkpoint.step}: nothing left to train (more: {longer})")
        with meeting(run_directory, node, start.checkpoint) as others:
            run_workers(config, run_directory, start.checkpoint, node, others)
        summary = _finish(config, run_directory)
    if arguments.json:
        print(json.dumps(summary))
    else:
        tokens = config.training.tokens
        longer = f"training.tokens={2 * tokens}" if tokens else f"training.steps={2 * summary['steps']}"
        _print_summary(summary, run_directory, longer)
    return 0


def _help_out(config: RunConfig, corpus: list[str], run_directory: RunDirectory, node: Node) -> int:
    """On a server other than 0, run its workers in the run that server 0 has opened."""
    from ms_codegeex.runs.opening import join_run
    from ms_codegeex.runs.rendezvous import meeting
    from ms_codegeex.runs.supervision import run_workers

    config = _resolve_data(config, corpus, True, node.count)
    _check_data(config)
    _say(f"waiting for server 0 to open {run_directory.path}")
    with meeting(run_directory, node) as others:
        join_run(config, run_directory)
        run_workers(config, run_directory, None, node, others)
    return 0


def _print_job(arguments: argparse.Namespace, config: RunConfig) -> int:
    """Print the job file; a `UserError` for an option that has no meaning in one."""
    from ms_codegeex.errors import UserError
    from ms_codegeex.runs.job_files import job_file, servers_of

    senseless = {
        "corpus": "the servers need the same prepared dataset; prepare it first and set data.train=DIR",
        "node_rank": "the job gives every server its own number; leave it out",
        "master_addr": "the job finds the address of server 0 itself; leave it out",
        "dry_run": "--job starts nothing; leave it out, or --job to see the processes of one server",
        "json": "the figures of a job are in summary.json of its run directory; leave it out",
    }
    for name, remedy in senseless.items():
        value = getattr(arguments, name)
        if value not in (None, []) and value is not False:  # a number 0 is given too
            raise UserError(f"--{name.replace('_', '-')}: has no meaning in a job file: {remedy}")
    servers = servers_of(config, arguments.rank_table)
    if arguments.nodes not in (None, servers):
        raise UserError(
            f"--nodes: {arguments.nodes}, but devices: {config.devices} are {servers} server{'s' * (servers > 1)} of "
            f"{config.parallel.server_devices} (parallel.server_devices); leave it out, or set devices or "
            "parallel.server_devices"
        )
    words = ["--config", arguments.config, *arguments.overrides]
    if arguments.devices is not None:
        words += ["--devices", str(arguments.devices)]
    for key in arguments.allow_change:
        words += ["--allow-change", key]
    print(job_file(arguments.job, config, words, arguments.rank_table), end="")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _finish(config: RunConfig, run_directory: RunDirectory) -> dict[str, Any]:
    """Export the checkpoint, sample from the exported model and write summary.json."""
    from ms_codegeex.errors import UserError
    from ms_codegeex.files import read_json, write_json
    from ms_codegeex.runs.callbacks import read_log

    result = read_json(run_directory.result)
    log = read_log(run_directory.log)
    steps = [record for record in log if not record["compiling"]][-100:] or log[-100:]
    seconds = sum(record["step_seconds"] for record in steps)
    rate = sum(record["tokens_per_second"] * record["step_seconds"] for record in steps) / seconds if seconds else None
    mfu = sum(record["mfu"] * record["step_seconds"] for record in steps) / seconds if seconds else None
    summary = {**result, "tokens_per_second": rate, "mfu": mfu, "huggingface": None, "pytorch": None, "sample": None}
    if config.checkpoint.export:
        from ms_codegeex.formats.convert import convert

        _say("exporting the model directory and the PyTorch file …")
        source = Path(result["checkpoint"])
        for target, key, path in (
            ("hf", "huggingface", run_directory.huggingface),
            ("megatron", "pytorch", run_directory.pytorch(config.family)),
        ):
            try:
                summary[key] = convert(source, target, path, progress=False, replace=True)["output"]
            except UserError as error:  # such as a file of the user's there; the trained checkpoint is safe
                _say(f"not exported: {error}")
        if summary["huggingface"]:
            _say("generating a sample …")
            try:
                summary["sample"] = _sample(run_directory.huggingface, config.seed)
            except UserError as error:  # such as a context shorter than the prompts
                _say(f"no sample: {error}")
    write_json(run_directory.summary, summary)
    return summary


def _sample(model: Path, seed: int) -> str:
    """The model's continuation of each of `SAMPLE_PROMPTS`, after Python's tag line, which is not shown."""
    from ms_codegeex.data.languages import tag_text
    from ms_codegeex.generation.engine import Generator
    from ms_codegeex.generation.sampling import SamplingSettings

    generator, tag = Generator(model), tag_text("Python")
    settings = SamplingSettings(max_new_tokens=48, temperature=0.7, top_p=0.9, seed=seed)
    texts = (prompt + generator.generate(f"{tag}\n{prompt}", settings) for prompt in SAMPLE_PROMPTS)
    return "\n\n".join(text.rstrip() for text in texts)


def _print_summary(summary: dict[str, Any], run_directory: RunDirectory, longer: str) -> None:
    """Print the figures, the sample, where things are and what to try next; `longer`: an override for a longer run."""
    entropy, loss, shuffled = (summary[k] for k in ("unigram_entropy", "validation_loss", "shuffled_context_loss"))
    if loss is None:
        print(f"\n{summary['steps']} steps; not evaluated, which MindSpore cannot in a pipeline\n")
    else:
        print(
            f"\nvalidation loss {loss:.3f} nats per token after {summary['steps']} steps\n"
            f"  a table of token frequencies would have {entropy:.3f}: {entropy - loss:+.3f} better\n"
            f"  with shuffled contexts it has {shuffled:.3f}: {shuffled - loss:+.3f} worse, so the context is used\n"
        )
    if summary["sample"] is not None:
        print(
            "how it continues three prompts:\n"
            + "\n".join(f"  {line}" for line in summary["sample"].splitlines())
            + "\n"
        )
    print("artefacts:")
    shown = {
        "checkpoint": summary["checkpoint"],
        "model directory": summary["huggingface"],
        "PyTorch file": summary["pytorch"],
        "log": run_directory.log,
        "loss curve": run_directory.plot,
        "summary": run_directory.summary,
    }
    for name, path in shown.items():
        if path is not None and Path(path).exists():
            print(f"  {name:<16} {path}")
    program = sys.argv[0] if Path(sys.argv[0]).name == "ms-codegeex" else "ms-codegeex"
    program = shlex.quote(os.path.relpath(program) if os.path.isabs(program) else program)
    run, config = shlex.quote(str(run_directory.path)), shlex.quote(str(run_directory.config))
    look = f"inspect {shlex.quote(summary['huggingface'])}" if summary["huggingface"] else f"checkpoint verify {run}"
    print(
        f'\ntry next:\n  {program} generate --model {run} --language Python --prompt "import os"\n'
        f"  {program} {look}\n"
        f"  {program} train --config {config} --resume auto {longer}"
    )
