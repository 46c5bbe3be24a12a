"""`ms-codegeex train`: train a model and write everything into a run directory."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.extras import extra
from ms_codegeex.base.options import OptionGroup, declared, given, option
from ms_codegeex.base.printing import print_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ms_codegeex.config import RunConfig

SUMMARY = "train a model: prepares the corpus, trains on all devices, evaluates, exports and shows samples"
EXAMPLES = """  ms-codegeex train --config codegeex_tiny
  ms-codegeex train --config codegeex_tiny --devices 1 training.steps=40 output=runs/short
  ms-codegeex train --config codegeex_tiny output=runs/mine --corpus ~/src/my_project
  ms-codegeex train --corpus ~/src/my_project --validation ~/src/held_out --from runs/codegeex_tiny output=runs/mine
  ms-codegeex train --config codegeex_tiny_release output=runs/half data.train=DATASET training.precision=fp16
  ms-codegeex train --config runs/half/config.yaml --resume auto --allow-change training.dropout training.dropout=0
  ms-codegeex train --config codegen_350m_mono --from runs/codegen_350m_multi data.train=DATASET
  ms-codegeex train --config codegeex_base_8 --first-run
  ms-codegeex train --config codegeex_13b --rank-table cluster.json --node-rank 0 --dry-run
  ms-codegeex train --config codegeex_13b --nodes 192 --node-rank 0 --master-addr 10.0.0.11:8118"""
OVERRIDE = re.compile(r"[a-z_]+(\.[\w+-]+)*=")


@dataclass(frozen=True)
class TrainOptions:
    """The run to train."""

    config: str | None = option(
        "YAML file of the run, or a shipped name; not needed with model.weights, whose sizes and finetune_full's "
        "settings then count",
        "FILE",
    )
    overrides: tuple[str, ...] = option("overrides, such as training.steps=40", "key=value", (), positional=True)
    devices: int | None = option(
        "worker processes (default: the configuration's, otherwise 2 on a CPU with at least two cores)", "N"
    )
    corpus: tuple[str, ...] = option("prepare the source code in these files and folders and train on it", "PATH", ())
    validation: str | None = option(
        "your own source code for validation, a file or folder, in place of a share of the corpus; or a dataset "
        "(data.validation)",
        "PATH",
    )
    weights: str | None = option(
        "start a new run from the weights of a model directory, run or checkpoint (model.weights)", "DIR", flag="from"
    )
    json: bool = option("print summary.json on standard output at the end", default=False)


@dataclass(frozen=True)
class ResumingOptions:
    """How to continue a run of `train` or `finetune`, by hand or automatically."""

    resume: str | None = option("resume from the newest intact checkpoint of the run, or from DIR", "auto|DIR")
    allow_change: tuple[str, ...] = option(
        "resume although this key, or a key of this section, differs from the checkpoint's, such as "
        "training.schedule; may be repeated",
        "KEY",
        (),
        repeated=True,
    )
    restarts: int = option(
        "start again from the newest checkpoint when a worker dies or hangs, at most N times", "N", 0, ge=0
    )


@dataclass(frozen=True)
class ClusterOptions:
    """This server and the others of the run."""

    rank_table: Path | None = option(
        "HCCL rank table of the job (Ascend; default, without --nodes: RANK_TABLE_FILE in the environment)", "FILE"
    )
    node_rank: int | None = option("number of this server, from 0", "K")
    nodes: int | None = option("number of servers, without a rank table (default: 1)", "N")
    master_addr: str | None = option(
        "where the servers meet server 0 (default: with a rank table, port 8118 of its first server)", "HOST:PORT"
    )
    first_run: bool = option(
        "instead, try the device: its kernels, then ten steps of two blocks on one device, on this server, and with "
        "--nodes or --rank-table on several; writes first_run.json, to send back",
        default=False,
    )
    dry_run: bool = option("list the processes that would be started", default=False)
    script: bool = option("with --dry-run: instead, a shell script that starts the run from anywhere", default=False)
    job: Literal["slurm", "volcano", "acjob"] | None = option(
        "print a job file that runs this command on the servers it needs"
    )


OPTIONS = (
    TrainOptions,
    ResumingOptions,
    OptionGroup(ClusterOptions, title="on a cluster", text="run the same command on every server (docs/cluster.md)"),
)


def paths_and_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    overrides = [word for word in words if OVERRIDE.match(word) and not Path(word).exists()]
    return [word for word in words if word not in overrides], overrides


def overrides_of(arguments: argparse.Namespace) -> list[str]:
    """Return the configuration overrides that `--devices`, `--resume` and `--validation` stand for."""
    overrides = []
    if arguments.devices is not None:
        overrides.append(f"devices={arguments.devices}")
    if arguments.resume is not None:
        overrides.append(f"checkpoint.resume={json.dumps(arguments.resume, ensure_ascii=False)}")
    if arguments.validation is not None:
        overrides.append(f"data.validation={json.dumps(arguments.validation, ensure_ascii=False)}")
    return overrides


def words_of(kind: type, arguments: argparse.Namespace, without: Sequence[str] = ()) -> list[str]:
    """Return command-line words that give a dataclass's options their parsed values. Options named in `without`, and
    those that have no value or the default, are omitted."""
    words: list[str] = []
    for each in declared(kind):
        value = getattr(arguments, each.name, None)
        if each.name in without or value in (None, [], each.default):
            continue
        several = list(map(str, value if isinstance(value, list | tuple) else [value]))
        if each.option.positional:
            words += several
        elif value is True:
            words.append(each.flag)
        elif each.option.repeated:
            words += [word for one in several for word in (each.flag, one)]
        else:
            words += [each.flag, *several]
    return words


def run(arguments: argparse.Namespace) -> int | None:
    """Train, or print the job file or the processes that would be started."""
    from ms_codegeex.config.loading import load_config
    from ms_codegeex.runs.rank.weights import absolute_weights
    from ms_codegeex.runs.resume import check_allowed, since_moved
    from ms_codegeex.runs.servers.node import resolve_node
    from ms_codegeex.runs.servers.process_list import list_of_processes, processes_as_json, start_script
    from ms_codegeex.runs.training_job import rank_table_of, train

    options = given(ResumingOptions, arguments)
    corpus, words = paths_and_overrides(arguments.corpus or ())
    overrides = [*arguments.overrides, *words, *overrides_of(arguments)]
    if arguments.weights is not None:
        overrides.append(f"model.weights={json.dumps(arguments.weights, ensure_ascii=False)}")
    if arguments.config is None:
        arguments.config, sizes = _of_weights(overrides)
        arguments.overrides, overrides = [*sizes, *arguments.overrides], [*sizes, *overrides]
    overrides = [*since_moved(Path(arguments.config), overrides), *overrides]
    config = absolute_weights(load_config(Path(arguments.config), overrides))
    check_allowed(config, options.allow_change)
    arguments.rank_table = rank_table_of("train", arguments.rank_table, config.device, arguments.nodes)
    if arguments.job:
        _print_job(arguments, config)
        return None
    if arguments.first_run:
        return _first_run(arguments, config)
    if arguments.script and (arguments.json or not arguments.dry_run):
        raise UserError("--script: is a form of --dry-run; " + ("leave out --json" if arguments.dry_run else "add it"))
    servers = arguments.rank_table, arguments.node_rank, arguments.nodes, arguments.master_addr
    node = resolve_node(config, *servers, dry_run=arguments.dry_run)
    show = processes_as_json if arguments.json else list_of_processes
    if arguments.script:
        own = [word for kind in (TrainOptions, ResumingOptions) for word in words_of(kind, arguments)]
        own += words_of(ClusterOptions, arguments, ("node_rank", "dry_run", "script"))
        show = partial(start_script, own, node)
    train(
        config,
        node,
        corpus,
        allow_change=options.allow_change,
        restarts=options.restarts,
        dry_run=show if arguments.dry_run else None,
        as_json=arguments.json,
    )
    return None


def _first_run(arguments: argparse.Namespace, config: RunConfig) -> int:
    from ms_codegeex.base.shipped import shipped_names
    from ms_codegeex.runs.servers.rank_table import read_rank_table

    for name in ("resume", "corpus", "validation", "restarts", "dry_run", "script"):
        if getattr(arguments, name):
            raise UserError(f"--{name.replace('_', '-')}: has no meaning in a first run; leave it out")
    table = arguments.rank_table
    nodes = len(read_rank_table(table).servers) if table else arguments.nodes or 1
    words = words_of(ClusterOptions, arguments, ("first_run",)) if nodes > 1 else []
    name = arguments.config if arguments.config in shipped_names() else "one of its own"
    return extra("train --first-run", "ladder")(config, name, words, nodes, arguments.node_rank or 0, arguments.json)


def _of_weights(overrides: Sequence[str]) -> tuple[str, list[str]]:
    from ms_codegeex.config.values import parse_overrides
    from ms_codegeex.formats.sources import open_source
    from ms_codegeex.runs.finetune_choices import FULL, model_words

    weights = (parse_overrides(overrides).get("model") or {}).get("weights")
    if weights is None:
        raise UserError("--config: missing; name a configuration, such as --config codegeex_tiny")
    return FULL, model_words(open_source(Path(weights)))


def _print_job(arguments: argparse.Namespace, config: RunConfig) -> None:
    """Print the job file. `UserError` for an option that has no meaning in one."""
    jobs = extra("train --job", arguments.job)
    senseless = {
        "restarts": "the job file has its own; leave it out",
        "corpus": "the servers need the same prepared dataset; prepare it first and set data.train=DIR",
        "node_rank": "the job gives every server its own number; leave it out",
        "master_addr": "the job finds the address of server 0 itself; leave it out",
        "dry_run": "--job starts nothing; leave it out, or --job to see the processes of one server",
        "script": "--job is a script already; leave it out",
        "json": "the figures of a job are in summary.json of its run directory; leave it out",
    }
    for name, instead in senseless.items():
        value = getattr(arguments, name)
        if value not in (None, []) and value is not False and (name, value) != ("restarts", 0):  # --node-rank 0 counts
            raise UserError(f"--{name.replace('_', '-')}: has no meaning in a job file: {instead}")
    servers = jobs.servers_of(config, arguments.rank_table)
    if arguments.nodes not in (None, servers):
        these = f"{servers} server{'s' * (servers > 1)} of {config.parallel.server_devices} (parallel.server_devices)"
        remedy = "leave it out, or set devices or parallel.server_devices"
        raise UserError(f"--nodes: {arguments.nodes}, but devices: {config.devices} are {these}; {remedy}")
    words = words_of(TrainOptions, arguments) + words_of(ResumingOptions, arguments, ("resume",))
    print_out(jobs.job_file(arguments.job, config, words, arguments.rank_table), end="")
