"""Start a run's workers, show their progress, end them together, and finish the run. Imports no engine."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from ms_codegeex.config import RunConfig
from ms_codegeex.data.blend import mixed_before
from ms_codegeex.data.datasets import directories
from ms_codegeex.errors import RunFailure, UserError
from ms_codegeex.files import read_json
from ms_codegeex.formats.checkpoint import Checkpoint, list_checkpoints, newest_sound, resolve
from ms_codegeex.training.display import Display
from ms_codegeex.training.node import Node, node_processes
from ms_codegeex.training.processes import GRACE_SECONDS, Workers, reserved_port
from ms_codegeex.training.rendezvous import Rendezvous
from ms_codegeex.training.run_directory import RunDirectory

POLL_SECONDS = 0.1


def required_memory(config: RunConfig) -> int:
    """Bytes of host memory the run's CPU processes need, roughly.

    Fitted to resident sizes measured with the presets tiny, 25m and base (MindSpore 2.9.0, 512 to 4096 rows): within
    11 % of the first two, a quarter too high for the last. MindSpore's broadcast kernels keep buffers of their own,
    so an activation costs several times its size.
    """
    model, rows = config.model_config(), config.micro_batch * config.seq_length
    weights = (44 if config.local_batch > config.micro_batch else 40) * model.parameter_count()
    row = 48 * model.hidden_size + 16 * model.intermediate_size + 12 * model.num_heads * config.seq_length
    activations = 4 * rows * (model.num_layers + 1) * row
    logits = 4 * 4 * model.vocab_size * min(rows, config.loss_chunk or rows)
    return config.devices * (700_000_000 + weights + activations + logits)


def check_memory(config: RunConfig) -> None:
    """`UserError` if a CPU run cannot fit into the memory that is free now."""
    if config.device != "cpu":
        return
    needed, free = required_memory(config), psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"model.preset: {config.model_config().parameter_count():,} parameters with training.micro_batch "
            f"{config.micro_batch} need about {needed / 1e9:.1f} GB on {config.devices} process(es), "
            f"{free / 1e9:.1f} GB are free; choose a smaller model.preset, training.micro_batch or --devices"
        )


def starting_point(config: RunConfig, run: RunDirectory) -> Checkpoint | None:
    """The checkpoint to continue from, chosen once for all workers; None: from scratch.

    `UserError` if the output holds a run that nobody asked to continue, no sound checkpoint, or a later one than that
    to continue from; or if it is of another model. What was skipped as damaged is told on standard error.
    """
    resume, existing = config.checkpoint.resume, list_checkpoints(run.checkpoints)
    if resume is None:
        if existing:
            raise UserError(
                f"output: {run.path} already holds a run; continue it with --resume auto, or choose another output"
            )
        return None
    damage: list[str] = []
    checkpoint = newest_sound(run.checkpoints, damage) if resume == "auto" else resolve(Path(resume))
    for reason in damage:
        print(f"skipped: {reason}", file=sys.stderr, flush=True)
    if checkpoint is None:
        if existing:
            raise UserError(f"output: no checkpoint in {run.checkpoints} is sound; choose another output")
        return None
    if not damage and existing and Checkpoint(existing[-1]).step > checkpoint.step:
        raise UserError(
            f"output: {run.path} holds {existing[-1].name}, later than {checkpoint.path.name} to continue from; "
            "choose another output"
        )
    _check_equal(checkpoint, "model.", checkpoint.state["config"]["model"], config.to_dict()["model"])
    return checkpoint


def check_same_data(config: RunConfig, checkpoint: Checkpoint) -> None:
    """`UserError` unless the samples before the checkpoint's data position are the same in this configuration.

    Stages of a blend that begin at or behind it may differ, and a `data.train` may become the first stage of one.
    """
    old, samples = checkpoint.state["config"], checkpoint.state["samples"]
    before = {
        "data.seq_length": old["data"]["seq_length"] or old["model"]["max_position_embeddings"],
        "seed": old["seed"],
    }
    now = {"data.seq_length": config.seq_length, "seed": config.seed}
    key = "data.train" if config.data.blend is None else "data.blend"
    if old["data"].get("blend") is None and config.data.blend is None:
        before[key], now[key] = old["data"]["train"], config.data.train
    else:
        before[key] = mixed_before(samples, old["data"], old["training"]["global_batch"])
        now[key] = mixed_before(samples, asdict(config.data), config.training.global_batch)
    _check_equal(checkpoint, "", before, now)
    if recorded := checkpoint.state.get("tokenizer"):  # the same path may hold another dataset by now
        found = read_json(Path(directories(config.data)[0]) / "dataset.json").get("tokenizer")
        _check_equal(checkpoint, f"{key}: tokenizer ", recorded, found or {})


def _check_equal(checkpoint: Checkpoint, prefix: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for key in sorted({*before, *now} - {"preset"}):
        if before.get(key) != now.get(key):
            raise UserError(
                f"{prefix}{key}: {now.get(key)}, but {checkpoint.path} was trained with {before.get(key)}; "
                "choose another output, or give the same"
            )


@contextlib.contextmanager
def opened_run(config: RunConfig, run: RunDirectory, checkpoint: Checkpoint | None) -> Iterator[None]:
    """Make the run directory, hold it against other jobs, and write what is known before the start.

    An earlier run's checkpoints and log stay; checkpoints behind `checkpoint`, which are damaged, are renamed.
    """
    try:
        run.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output: {run.path} cannot be made ({error.strerror}); choose another output") from None
    with open(run.path / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"output: another job is running in {run.path}; wait for it or choose another output"
            ) from None
        for path in list_checkpoints(run.checkpoints) if checkpoint else ():
            if path.name > checkpoint.path.name:
                os.replace(path, path.with_name(f"damaged-{path.name}"))
        shutil.rmtree(run.logs, ignore_errors=True)
        run.summary.unlink(missing_ok=True)
        run.logs.mkdir()
        run.write_config(config)
        run.write_environment()
        yield


@contextlib.contextmanager
def meeting(run: RunDirectory, node: Node, checkpoint: Checkpoint | None = None) -> Iterator[Rendezvous | None]:
    """The other servers of the job, which learn the checkpoint from server 0; None if there are none."""
    if node.count == 1:
        yield None
        return
    path = str(checkpoint.path.absolute()) if checkpoint else None
    with Rendezvous(run.path / ".servers", node.rank, node.count, path) as others:
        yield others


def join_run(config: RunConfig, run: RunDirectory) -> None:
    """`UserError` unless server 0 has opened the run with this configuration: its workers read that one."""
    ours, theirs = dict(_flat(config.to_dict())), dict(_flat(run.read_config().to_dict()))
    for key in sorted({*ours, *theirs}):
        if ours.get(key) != theirs.get(key):
            raise UserError(
                f"{key}: {ours.get(key)}, but server 0 runs with {theirs.get(key)}; give every server the same command"
            )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _worker_arguments(launcher: str, checkpoint: Path | str | None) -> list[str]:
    """What follows the run directory on a worker's command line."""
    return [launcher, *([str(Path(checkpoint).absolute())] if checkpoint else [])]


def shell_script(config: RunConfig, run: RunDirectory, node: Node, checkpoint: Checkpoint | None) -> str:
    """What `run_workers` would start on this server, as a shell script."""
    arguments = _worker_arguments("$$", checkpoint and checkpoint.path)
    with reserved_port() if node.needs_port else contextlib.nullcontext() as port:
        specs = node_processes(config, node, run, arguments, port)
    return "\n".join([*(spec.shell() for spec in specs), "wait"])


def run_workers(
    config: RunConfig,
    run: RunDirectory,
    checkpoint: Checkpoint | None,
    node: Node,
    others: Rendezvous | None = None,
) -> None:
    """Run this server's workers to their end.

    A dead one, here or on one of the `others`, ends the job at once with its log's last lines (`RunFailure`); any
    exception here, Ctrl-C too, ends all.
    """
    display, count = Display(run.progress, config.steps), len(node.ranks)
    path = others.checkpoint if others else checkpoint and checkpoint.path
    try:
        where = f" on server {node.rank} of {node.count}" if node.count > 1 else ""
        display.status(f"starting {count} worker{'s' * (count > 1)}{where}")
        with contextlib.ExitStack() as stack:
            port = stack.enter_context(reserved_port()) if node.needs_port else None
            specs = node_processes(config, node, run, _worker_arguments(str(os.getpid()), path), port)
            workers = stack.enter_context(Workers(specs))
            _watch(workers, node, run, display, others)
    finally:
        if node.rank == 0:
            display.poll()
        display.close()


def _watch(workers: Workers, node: Node, run: RunDirectory, display: Display, others: Rendezvous | None) -> None:
    finished_at, error_at, count = None, None, workers.count
    # Several servers share the folder. On one, whatever RANK_ID the environment had before does not matter.
    mine = {f"done_{rank}.json" for rank in node.ranks} if node.count > 1 else None
    while True:
        if len(workers.workers) < count:  # looking for processes costs more than looking at known ones
            workers.refresh()
        ended, launcher_ended = workers.ended(), workers.launcher_ended()
        # read after `ended`: a worker leaves its mark before it ends
        done = sum(mine is None or mark.name in mine for mark in run.logs.glob("done_*.json"))
        if node.rank == 0:  # the others would repeat what server 0 shows
            display.poll()
        if done == count:
            finished_at = finished_at or time.monotonic()
            if others and others.state == "running":
                others.done()
            # a worker may hang in its exit handlers: what is done is done
            here = ended == count or time.monotonic() - finished_at > GRACE_SECONDS
            if here and (others is None or others.all_finished()):
                return
        elif run.error.exists():
            error_at = error_at or time.monotonic()
            if ended or time.monotonic() - error_at > GRACE_SECONDS:
                error = read_json(run.error)
                raise (UserError if error["user"] else RunFailure)(error["message"])
        elif ended > done or launcher_ended:
            raise RunFailure(f"a worker ended before its work was done, the others were ended: {workers.failure()}")
        if others:
            others.beat()
        time.sleep(POLL_SECONDS)
