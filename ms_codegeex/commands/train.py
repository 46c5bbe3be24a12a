"""`ms-codegeex train`: train a model and write everything into a run directory."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ms_codegeex.base.printing import print_out
from ms_codegeex.commands import training_job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ms_codegeex.config import RunConfig
    from ms_codegeex.runs.node import Node
    from ms_codegeex.runs.process_list import Form

SUMMARY = "train a model: prepares the corpus, trains on all devices, evaluates, exports and continues three prompts"
EXAMPLES = """  ms-codegeex train --config codegeex_tiny
  ms-codegeex train --config codegeex_tiny --devices 1 training.steps=40 output=runs/short
  ms-codegeex train --config codegeex_tiny output=runs/mine --corpus ~/src/my_project
  ms-codegeex train --config codegeex_tiny output=runs/half data.train=DATASET training.precision=fp16
  ms-codegeex train --config runs/half/config.yaml --resume auto --allow-change training.dropout training.dropout=0
  ms-codegeex train --config codegen_350m_mono --from runs/codegen_350m_multi data.train=DATASET
  ms-codegeex train --config codegeex_13b --rank-table cluster.json --node-rank 0 --dry-run
  ms-codegeex train --config codegeex_13b --nodes 192 --node-rank 0 --master-addr 10.0.0.11:8118"""


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
        "--from",
        dest="weights",
        metavar="DIR",
        help="start a new run from this model's weights: a model directory, a run or a checkpoint (model.weights)",
    )
    training_job.configure_resuming(parser)
    parser.add_argument("--json", action="store_true", help="print summary.json on standard output at the end")
    cluster = parser.add_argument_group("on a cluster", "run the same command on every server (docs/cluster.md)")
    cluster.add_argument(
        "--rank-table",
        type=Path,
        metavar="FILE",
        help="HCCL rank table of the job (Ascend; default: RANK_TABLE_FILE in the environment)",
    )
    cluster.add_argument("--node-rank", type=int, metavar="K", help="number of this server, from 0")
    cluster.add_argument("--nodes", type=int, metavar="N", help="number of servers, without a rank table (default: 1)")
    cluster.add_argument(
        "--master-addr",
        metavar="HOST:PORT",
        help="address where the servers meet server 0 (default: with a rank table, port 8118 of its first server)",
    )
    cluster.add_argument("--dry-run", action="store_true", help="list the processes that would be started")
    cluster.add_argument("--script", action="store_true", help="with --dry-run: as a shell script that starts them")
    cluster.add_argument(
        "--job",
        choices=("slurm", "volcano"),
        help="print a job file that runs this command on the servers it needs",
    )


def _words(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    """All overrides of the command line, and the paths of the corpus."""
    from ms_codegeex.commands.training_job import paths_and_overrides

    corpus, further = paths_and_overrides(arguments.corpus)
    overrides = [*arguments.overrides, *further]
    if arguments.devices is not None:
        overrides.append(f"devices={arguments.devices}")
    if arguments.resume is not None:
        overrides.append(f"checkpoint.resume={json.dumps(arguments.resume)}")
    if arguments.weights is not None:
        overrides.append(f"model.weights={json.dumps(arguments.weights)}")
    return overrides, corpus


def run(arguments: argparse.Namespace) -> int:
    """Train, or print the processes that would be started."""
    from ms_codegeex.commands.staged_training import train_stages
    from ms_codegeex.commands.training_job import rank_table_of, train
    from ms_codegeex.config.loading import load_config, load_stages
    from ms_codegeex.runs.node import resolve_node
    from ms_codegeex.runs.resume import check_allowed
    from ms_codegeex.runs.weights import absolute_weights

    overrides, corpus = _words(arguments)
    staged = load_stages(Path(arguments.config), overrides)
    if staged is None:
        configs = [absolute_weights(load_config(Path(arguments.config), overrides))]
    else:
        configs = [stage.config for stage in staged.stages]
    for config in configs:
        check_allowed(config, arguments.allow_change)
    arguments.rank_table = rank_table_of("train", arguments.rank_table, configs[0].device)
    if arguments.job:
        named = configs if staged is None else [replace(config, output=str(staged.output)) for config in configs]
        return _print_job(arguments, named)

    def node_of(config: RunConfig) -> Node:
        cluster = (arguments.rank_table, arguments.node_rank, arguments.nodes, arguments.master_addr)
        return resolve_node(config, *cluster)

    common = {"allow_change": arguments.allow_change, "dry_run": _form(arguments)}
    common |= {"restarts": training_job.restarts_of(arguments), "as_json": arguments.json}
    if staged is None:
        return train(configs[0], node_of(configs[0]), corpus, **common)
    return train_stages(staged, node_of, corpus, **common)


def _form(arguments: argparse.Namespace) -> Form | None:
    """How the processes are printed; None without --dry-run."""
    from ms_codegeex.base.errors import UserError

    if arguments.script and (arguments.json or not arguments.dry_run):
        raise UserError("--script: is a form of --dry-run; " + ("leave out --json" if arguments.dry_run else "add it"))
    form: Form = "script" if arguments.script else "json" if arguments.json else "list"
    return form if arguments.dry_run else None


def _print_job(arguments: argparse.Namespace, configs: Sequence[RunConfig]) -> int:
    """Print the job file; a `UserError` for an option without meaning in a job file, or for stages of unequal sizes."""
    from ms_codegeex.base.errors import UserError
    from ms_codegeex.runs.job_files import job_file, servers_of

    senseless = {
        "restarts": "the job file has its own; leave it out",
        "min_devices": "its servers are fixed; leave it out",
        "corpus": "the servers need the same prepared dataset; prepare it first and set data.train=DIR",
        "node_rank": "the job gives every server its own number; leave it out",
        "master_addr": "the job finds the address of server 0 itself; leave it out",
        "dry_run": "--job starts nothing; leave it out, or --job to see the processes of one server",
        "script": "--job is a script already; leave it out",
        "json": "the figures of a job are in summary.json of its run directory; leave it out",
    }
    for name, remedy in senseless.items():
        value = getattr(arguments, name)
        if (
            value not in (None, []) and value is not False and (name, value) != ("restarts", 0)
        ):  # a number 0 is given too
            raise UserError(f"--{name.replace('_', '-')}: has no meaning in a job file: {remedy}")
    config, servers = configs[0], servers_of(configs[0], arguments.rank_table)
    if any(servers_of(other, arguments.rank_table) != servers for other in configs):
        raise UserError("--job: the stages need unequal numbers of servers; make a job for each, with stage=NAME")
    if arguments.nodes not in (None, servers):
        raise UserError(
            f"--nodes: {arguments.nodes}, but devices: {config.devices} are {servers} server{'s' * (servers > 1)} of "
            f"{config.parallel.server_devices} (parallel.server_devices); leave it out, or set devices or "
            "parallel.server_devices"
        )
    words = ["--config", arguments.config, *arguments.overrides]
    if arguments.devices is not None:
        words += ["--devices", str(arguments.devices)]
    if arguments.weights is not None:
        words += ["--from", arguments.weights]
    for key in arguments.allow_change:
        words += ["--allow-change", key]
    print_out(job_file(arguments.job, config, words, arguments.rank_table), end="")
    return 0
