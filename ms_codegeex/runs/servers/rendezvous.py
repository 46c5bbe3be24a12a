"""Let the servers of one job find and watch each other, through small files in their shared run directory.

Server 0 opens the run and names the checkpoint; the others join it. Each server keeps incrementing a counter in its own
file. If a file stops changing, its server is dead; a file left by an earlier job never changes. So no clocks are
compared and no locks are needed. Server 0 watches all others, and they watch only server 0, so one failure ends every
server within seconds.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.base.reading import read_json
from ms_codegeex.formats.checkpoint import Checkpoint
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.files.stopping import StopExit
from ms_codegeex.runs.servers.hangs import STANDS_OUT
from ms_codegeex.runs.servers.node import Node

BEAT_SECONDS = 2.0
SILENT_SECONDS = 120.0  # network file systems may show a change only after a minute
JOIN_SECONDS = 1800.0
MESSAGE_CHARACTERS = 2000


class Rendezvous:
    """One server's view of the job in `folder`. Leaving the context tells the other servers how this one ended.
    `checkpoint`: the path to continue from, given on server 0 and read by the others on entering. Entering raises
    `RunFailure` if server 0 does not start a job in time."""

    def __init__(self, folder: Path, rank: int, count: int, checkpoint: str | None = None):
        self.folder, self.rank, self.count, self.checkpoint = folder, rank, count, checkpoint
        self.job, self.beats, self.next_beat = "", 0, 0.0
        self.state = "running"
        self.seen: dict[int, tuple[Any, float]] = {}  # a server's last beat, and when it last changed
        self.finished: set[int] = set()
        self.quiet = ""  # report on this server's ranks, while all are quiet
        self.quiet_servers: dict[int, str] = {}  # the same for other servers

    def _file(self, rank: int) -> Path:
        return self.folder / f"{rank:06d}.json"

    def _read(self, rank: int) -> dict[str, Any] | None:
        try:
            content = read_json(self._file(rank))
        except UserError:
            return None
        return content if isinstance(content, dict) else None

    def _write(self, message: str = "") -> None:
        self.beats += 1
        self.next_beat = time.monotonic() + BEAT_SECONDS
        content = {"job": self.job, "beat": self.beats, "state": self.state, "message": message[:MESSAGE_CHARACTERS]}
        content["quiet"] = self.quiet[:MESSAGE_CHARACTERS]
        write_json(self._file(self.rank), {**content, "checkpoint": self.checkpoint})

    def __enter__(self) -> Rendezvous:
        if self.rank == 0:
            self.job = secrets.token_hex(8)
        else:
            first, deadline = self._read(0), time.monotonic() + JOIN_SECONDS
            while (now := self._read(0)) is None or now == first or now["state"] != "running":
                if time.monotonic() > deadline:
                    wrong = f"server 0 opened no job in {self.folder.parent} within {JOIN_SECONDS:.0f} s"
                    remedy = "give all servers the same `output` on a shared file system"
                    raise RunFailure(f"{wrong}; start it with --node-rank 0, and {remedy}")
                time.sleep(min(0.2, BEAT_SECONDS / 4))
            self.job, self.checkpoint = now["job"], now["checkpoint"]
        self._write()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if self.state == "done" and kind is not None and issubclass(kind, StopExit):
            return  # this server's workers have saved and ended
        if kind is not None:
            self.state = "failed"
            with contextlib.suppress(UserError):  # a full disk must not hide what happened
                known = isinstance(error, UserError | RunFailure)
                self._write(str(error) if known else f"interrupted ({kind.__name__})")
        elif self.state == "running":
            self.done()

    def done(self) -> None:
        self.state = "done"
        self._write()

    def beat(self, quiet: str = "") -> str:
        """Report that this server is alive and check the others. `RunFailure` if one has failed or gone silent.
        `quiet`: the report on this server's ranks if all are quiet. On server 0, if the ranks of every server are
        quiet, return all reports; otherwise "", because quiet ranks may be waiting for others."""
        if time.monotonic() < self.next_beat:
            return ""
        self.quiet = quiet
        with contextlib.suppress(UserError):  # a transient file-system error; if it lasts, this server goes silent
            self._write()
        for rank in range(1, self.count) if self.rank == 0 else (0,):
            if rank not in self.finished:
                self._check(rank)
        running = {rank for rank in range(1, self.count) if rank not in self.finished}
        own = quiet or self.state == "done"
        if self.rank or not own or not running or not all(self.quiet_servers.get(rank) for rank in running):
            return ""
        each = {**({0: quiet} if quiet else {}), **{rank: self.quiet_servers[rank] for rank in sorted(running)}}
        odd = {rank: text for rank, text in each.items() if STANDS_OUT in text}
        return "; ".join(f"server {rank}: {text}" for rank, text in (odd or each).items())

    def _check(self, rank: int) -> None:
        content, now = self._read(rank), time.monotonic()
        if content is None or content["job"] != self.job:
            if rank == 0 and content is not None:
                raise RunFailure("server 0 has begun another job in this run directory, so this ends; start it again")
            # A server may join late, but not after this server's workers are done, which need that server's workers.
            if rank == 0 or rank in self.seen or self.state == "done":
                self._silent(rank, self.seen.get(rank, (None,))[0], now)
            return
        if content["state"] == "failed":
            raise RunFailure(f"server {rank} ended, so this one was stopped too; its message: {content['message']}")
        if content["state"] == "done":
            self.finished.add(rank)
            return
        self.quiet_servers[rank] = content.get("quiet", "")
        self._silent(rank, content["beat"], now)

    def _silent(self, rank: int, beat: Any, now: float) -> None:
        last, since = self.seen.get(rank, (None, now))
        if rank not in self.seen or beat != last:
            self.seen[rank] = (beat, now)
        elif now - since > SILENT_SECONDS:
            wrong = f"server {rank} has shown no sign of life for {SILENT_SECONDS:.0f} s, so this one was stopped too"
            raise RunFailure(f"{wrong}; check that machine and start again with --resume auto")

    def all_finished(self) -> bool:
        return self.rank > 0 or len(self.finished) == self.count - 1


@contextlib.contextmanager
def meeting(run: RunDirectory, node: Node, checkpoint: Checkpoint | None = None) -> Iterator[Rendezvous | None]:
    """Meet the other servers of the job, which learn the checkpoint from server 0. Yields None if there are none."""
    if node.count == 1:
        yield None
        return
    path = str(checkpoint.path.absolute()) if checkpoint else None
    with Rendezvous(run.servers, node.rank, node.count, path) as others:
        yield others
