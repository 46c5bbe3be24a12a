"""Supervise the workers of this server: start them, show their progress, and end all when one fails.

Imports no engine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.base.locks import take_lock
from ms_codegeex.base.printing import print_error
from ms_codegeex.config import RunConfig
from ms_codegeex.formats.checkpoint import Checkpoint
from ms_codegeex.runs.files.display import Display
from ms_codegeex.runs.files.hardware_reports import SilentCheckWatch
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.files.stopping import StopRequest, left_error, save_under_way, set_doubtful_checkpoints_aside
from ms_codegeex.runs.servers.hangs import HangWatch
from ms_codegeex.runs.servers.node import Node, node_processes
from ms_codegeex.runs.servers.rendezvous import Rendezvous
from ms_codegeex.runs.servers.workers import Workers, WorkerSpec

PORTS = range(21000, 31000)  # below the usual ephemeral range, so no outgoing connection can take one meanwhile
POLL_SECONDS = 0.1
GRACE_SECONDS = 5.0  # that a finished or failed worker has for exiting
DISK_SECONDS, DISK_ROOM = 2.0, 64 * 1024  # bytes for a few log lines and some metadata; with less, a disk is full


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """Yield a free local port, tested by binding it, and locked against other runs by a file during the block."""
    start = os.getpid() % len(PORTS)
    for offset in range(len(PORTS)):
        port = PORTS[(start + offset) % len(PORTS)]
        lock = take_lock(Path(tempfile.gettempdir()) / f"ms-codegeex-{os.getuid()}-port-{port}.lock", wait=False)
        if lock is None:
            continue
        try:
            if _is_free(port):
                yield port
                return
        finally:
            os.close(lock)
    raise RunFailure(f"no port from {PORTS.start} to {PORTS.stop - 1} is free; end a program that has one")


def _is_free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False


def program_of(config: RunConfig) -> str:
    from_model = config.model.weights is not None or config.lora.rank
    return f"ms_codegeex.runs.rank{'.from_model' if from_model else ''}"


def worker_command(
    config: RunConfig, run: RunDirectory, launcher: str, checkpoint: Path | str | None = None
) -> list[str]:
    since = [str(Path(checkpoint).absolute())] if checkpoint else []
    return ["-m", program_of(config), str(run.path), launcher, *since]


def planned_processes(
    config: RunConfig, run: RunDirectory, node: Node, checkpoint: Checkpoint | None
) -> list[WorkerSpec]:
    """Return the processes that `run_workers` would start here; `$$` stands for the launcher's process id."""
    command = worker_command(config, run, "$$", checkpoint and checkpoint.path)
    with reserved_port() if node.needs_port else contextlib.nullcontext() as port:
        return node_processes(config, node, run, command, port)


def run_workers(
    config: RunConfig, run: RunDirectory, checkpoint: Checkpoint | None, node: Node, others: Rendezvous | None = None
) -> None:
    """Run this server's workers to their end. If a worker dies here or on one of the `others`, all end at once, and
    `RunFailure` quotes the end of its log. Any other exception also ends all. After Ctrl-C (SIGINT), SIGTERM or SIGUSR1
    they save first, and `StopExit` is raised."""
    display, count = Display(run.progress, config.steps), len(node.ranks)
    stop = StopRequest(run, config.checkpoint.grace)
    silent = SilentCheckWatch(run) if config.cluster.silent_check and node.rank == 0 else None
    path = others.checkpoint if others else checkpoint and checkpoint.path
    try:
        where = f" on server {node.rank} of {node.count}" if node.count > 1 else ""
        display.status(f"starting {count} worker{'s' * (count > 1)}{where}")
        with contextlib.ExitStack() as stack:
            port = stack.enter_context(reserved_port()) if node.needs_port else None
            specs = node_processes(config, node, run, worker_command(config, run, str(os.getpid()), path), port)
            workers = stack.enter_context(Workers(specs))
            stack.enter_context(stop.listening())
            hang = HangWatch(workers, run.beats, run.logs, config.faults.hang, config.device != "cpu")
            _watch(workers, node, run, display, others, stop, hang, silent)
    finally:
        if silent:
            silent.look()
        if node.rank == 0:
            display.poll()
        display.close()
        if node.rank == 0:  # now no worker can publish another checkpoint
            set_doubtful_checkpoints_aside(run)


def _watch(
    workers: Workers,
    node: Node,
    run: RunDirectory,
    display: Display,
    others: Rendezvous | None,
    stop: StopRequest,
    hang: HangWatch,
    silent: SilentCheckWatch | None,
) -> None:
    """Return when all workers have finished their part. `UserError` or `RunFailure` if one has failed or hangs,
    `StopExit` if the grace period after a signal is over."""
    finished_at, error_at, count, disk = None, None, workers.count, _DiskWatch(run)
    # Servers of one job share the folder. With one server all marks are its own, whatever RANK_ID it inherited.
    mine = {f"done_{rank}.json" for rank in node.ranks} if node.count > 1 else None
    while True:
        if len(workers.workers) < count:  # searching for processes costs more than checking known ones
            workers.refresh()
        ended, launcher_ended = workers.ended(), workers.launcher_ended()
        # read after `ended`, because a worker leaves its mark before it ends
        done = sum(mine is None or mark.name in mine for mark in run.logs.glob("done_*.json"))
        if node.rank == 0:  # other servers would repeat the display
            display.poll()
        if done == count:
            finished_at = finished_at or time.monotonic()
            if others and others.state == "running":
                others.done()
            # a worker may hang in its exit handlers although its work is done
            here = ended == count or time.monotonic() - finished_at > GRACE_SECONDS
            if here and (others is None or others.all_finished()):
                return
        elif run.error.exists():
            error_at = error_at or time.monotonic()
            seconds = time.monotonic() - error_at
            saves = ended < count and seconds < stop.grace and save_under_way(run)
            if not saves and (ended or seconds > GRACE_SECONDS):
                raise left_error(run)
        elif ended > done or launcher_ended:
            why = workers.failure() + disk.reason()
            raise RunFailure(f"a worker ended before its work was done, so the others were stopped: {why}")
        if stop.since is not None:
            workers.resume_stopped()  # suspended workers must save too
        if at_fault := hang.stopped():
            raise RunFailure(at_fault)
        quiet = hang.quiet()
        if others:
            quiet = others.beat(quiet)
        if quiet:
            raise RunFailure(quiet)
        disk.check()
        if silent:
            silent.check()
        stop.check()
        time.sleep(POLL_SECONDS)


class _DiskWatch:
    """Notices when the run's disk is full, because its workers then have no room to report it."""

    def __init__(self, run: RunDirectory):
        self.folder, self.alive, self.next_check, self.full = run.path, run.progress, 0.0, False

    def check(self) -> None:
        """Print a warning when the disk becomes full."""
        if time.monotonic() < self.next_check:
            return
        self.next_check = time.monotonic() + DISK_SECONDS
        with contextlib.suppress(OSError):
            os.utime(self.alive)  # shows `monitor` that the run is alive, even while it compiles
        before, self.full = self.full, self._is_full()
        if self.full and not before:
            print_error(f"warning: the disk of {self.folder} is full; the log waits for room")

    def _is_full(self) -> bool:
        with contextlib.suppress(OSError):
            return shutil.disk_usage(self.folder).free < DISK_ROOM
        return False

    def reason(self) -> str:
        """Return the end of an error message that names a full disk as the probable reason, or ""."""
        return f"\nthe disk of {self.folder} is full; free some space" if self._is_full() else ""
