"""Start a run's workers, show their progress, end them together, and finish the run. Imports no engine."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from ms_codegeex.config import RunConfig
from ms_codegeex.config.values import flattened
from ms_codegeex.errors import RunFailure, UserError
from ms_codegeex.files import read_json, write_json
from ms_codegeex.formats.checkpoint import Checkpoint, step_name
from ms_codegeex.formats.checkpoint_folder import (
    DOUBTFUL,
    doubt,
    list_checkpoints,
    newest_sound,
    outcome,
    resolve,
    set_aside,
)
from ms_codegeex.runs.display import Display
from ms_codegeex.runs.node import Node, node_processes
from ms_codegeex.runs.processes import GRACE_SECONDS, Workers, reserved_port
from ms_codegeex.runs.rendezvous import Rendezvous
from ms_codegeex.runs.resume import Change
from ms_codegeex.runs.run_directory import RunDirectory

POLL_SECONDS = 0.1
DISK_SECONDS, DISK_ROOM = 2.0, 64 * 1024  # bytes; less than a few lines of a log and a block or two of metadata


def required_memory(config: RunConfig) -> int:
    """Bytes of host memory the run's CPU processes need, roughly.

    Fitted to resident sizes measured with the presets tiny, 25m and base (MindSpore 2.9.0, 512 to 4096 rows): within
    11 % of the first two, a quarter too high for the last. MindSpore's broadcast kernels keep buffers of their own,
    so an activation costs several times its size.
    """
    model, rows = config.model.sizes, config.micro_batch * config.seq_length
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
            f"model.preset: {config.model.sizes.parameter_count():,} parameters with training.micro_batch "
            f"{config.micro_batch} need about {needed / 1e9:.1f} GB on {config.devices} process(es), "
            f"{free / 1e9:.1f} GB are free; choose a smaller model.preset, training.micro_batch or --devices"
        )


@dataclass(frozen=True)
class Start:
    """Where a job begins: `checkpoint` (None: from scratch), and later ones that it passes over, by why."""

    checkpoint: Checkpoint | None = None
    passed_over: tuple[tuple[Path, str], ...] = ()


def starting_point(config: RunConfig, run: RunDirectory) -> Start:
    """The checkpoint to continue from, chosen once for all workers and hashed. Changes nothing.

    `UserError` if the output holds a run that nobody asked to continue, no sound checkpoint, or a later one than that
    to continue from. Why later ones are passed over is printed on standard error.
    """
    resume, existing = config.checkpoint.resume, list_checkpoints(run.checkpoints)
    if resume is None:
        if existing:
            raise UserError(
                f"output: {run.path} already holds a run; continue it with --resume auto, or choose another output"
            )
        return Start()
    if resume == "auto":
        return _newest_start(run, existing)
    checkpoint = resolve(Path(resume))
    checkpoint.verify()
    if later := [path for path in existing if path.name > step_name(checkpoint.step)]:
        raise UserError(
            f"output: {run.path} holds {later[-1].name}, later than {checkpoint.path.name} to continue from; "
            "choose another output"
        )
    return Start(checkpoint)


def _newest_start(run: RunDirectory, existing: list[Path]) -> Start:
    reasons: list[str] = []
    checkpoint = newest_sound(run.checkpoints, reasons)
    for reason in reasons:
        print(f"skipped: {reason}", file=sys.stderr, flush=True)
    later = [path for path in existing if checkpoint is None or path.name > checkpoint.path.name]
    passed_over = tuple((path, DOUBTFUL if outcome(path) == DOUBTFUL else "damaged") for path in later)
    if checkpoint is None and passed_over:
        doubtful = [path for path, why in passed_over if why == DOUBTFUL]
        way = f"go on from one of them all the same with --resume {doubtful[0]}, or " if doubtful else ""
        raise UserError(
            f"output: no checkpoint in {run.checkpoints} is {'free of doubt' if doubtful else 'sound'}; {way}choose "
            "another output"
        )
    return Start(checkpoint, passed_over)


@contextlib.contextmanager
def held_run(run: RunDirectory) -> Iterator[None]:
    """Hold the run directory against other jobs. What this made is removed again if the run is not opened."""
    made = [folder for folder in (run.path, *run.path.parents) if not folder.exists()]
    new = not (run.path / ".lock").exists()
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        lock = _locked(run.path / ".lock")
    except BlockingIOError:
        raise UserError(f"output: another job is running in {run.path}; wait for it or choose another output") from None
    except OSError as error:
        raise UserError(f"output: {run.path} cannot be made ({error.strerror}); choose another output") from None
    try:
        _note_not_finite(run)
        yield
    finally:
        with contextlib.suppress(OSError):  # somebody has removed it, or filled it
            if new and not run.config.exists():  # it was not opened
                (run.path / ".lock").unlink()
                for folder in made:
                    folder.rmdir()
        os.close(lock)


def _locked(path: Path) -> int:
    """A descriptor of the file at `path`, locked; `BlockingIOError` if another process holds it."""
    while True:
        lock = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):  # a job that failed early may have removed it
                if os.path.samestat(os.stat(path), os.fstat(lock)):
                    return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def open_run(config: RunConfig, run: RunDirectory, start: Start, changes: Sequence[Change] = ()) -> None:
    """Write what is known before the start; called while the run is held.

    An earlier run's checkpoints and log stay; checkpoints that `start` passes over are renamed.
    """
    try:
        for path, why in start.passed_over:
            set_aside(path, why)
        shutil.rmtree(run.logs, ignore_errors=True)
        run.summary.unlink(missing_ok=True)
        run.logs.mkdir(exist_ok=True)
        step = start.checkpoint.step if start.checkpoint else 0
        run.add_event("start", step=step, changed=[asdict(change) for change in changes])
    except OSError as error:
        raise UserError(
            f"output: {run.path} cannot be written ({error.strerror}); free some space or choose another output"
        ) from None
    run.write_config(config)
    run.write_environment()


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
    ours, theirs = flattened(config.to_dict()), flattened(run.read_config().to_dict())
    for key in sorted({*ours, *theirs}):
        if ours.get(key) != theirs.get(key):
            raise UserError(
                f"{key}: {ours.get(key)}, but server 0 runs with {theirs.get(key)}; give every server the same command"
            )


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


def _note_not_finite(run: RunDirectory) -> None:
    """If the last job ended because it was not finite, note which checkpoints that makes doubtful."""
    with contextlib.suppress(UserError):  # there is no error
        error = read_json(run.error)
        if error.get("not_finite") is not None and not error.get("noted"):
            doubt(run.checkpoints, error["since"], error["not_finite"])
            write_json(run.error, {**error, "noted": True})  # once, though both its end and the next start ask for it


def _worker_error(run: RunDirectory, node: Node) -> UserError | RunFailure:
    """What a worker left as its one-line error."""
    if node.rank == 0:
        _note_not_finite(run)
    error = read_json(run.error)
    return (UserError if error["user"] else RunFailure)(error["message"])


class _Disk:
    """Whether the run's disk is full, which its workers have no place left to say."""

    def __init__(self, folder: Path):
        self.folder, self.next_look, self.full = folder, 0.0, False

    def look(self) -> None:
        """Warn when it has become full."""
        if time.monotonic() < self.next_look:
            return
        self.next_look = time.monotonic() + DISK_SECONDS
        before, self.full = self.full, self._is_full()
        if self.full and not before:
            print(f"warning: the disk of {self.folder} is full; the log waits for room", file=sys.stderr, flush=True)

    def _is_full(self) -> bool:
        with contextlib.suppress(OSError):
            return shutil.disk_usage(self.folder).free < DISK_ROOM
        return False

    def reason(self) -> str:
        """For the end of an error message."""
        return f"\nthe disk of {self.folder} is full; free some space" if self._is_full() else ""


def _watch(workers: Workers, node: Node, run: RunDirectory, display: Display, others: Rendezvous | None) -> None:
    finished_at, error_at, count, disk = None, None, workers.count, _Disk(run.path)
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
                raise _worker_error(run, node)
        elif ended > done or launcher_ended:
            why = workers.failure() + disk.reason()
            raise RunFailure(f"a worker ended before its work was done, the others were ended: {why}")
        if others:
            others.beat()
        disk.look()
        time.sleep(POLL_SECONDS)
