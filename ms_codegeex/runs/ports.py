"""Local ports at which the workers of a run meet."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ms_codegeex.errors import RunFailure

PORTS = range(21000, 31000)  # below the usual ephemeral range, so that no outgoing connection takes one in between


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A free local port that no other run takes while the block runs: one lock file per port, and a bind to test it."""
    start = os.getpid() % len(PORTS)
    for offset in range(len(PORTS)):
        port = PORTS[(start + offset) % len(PORTS)]
        with open(Path(tempfile.gettempdir()) / f"ms-codegeex-{os.getuid()}-port-{port}.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            yield port  # the lock file stays: if it were unlinked, two runs could lock two files of the same name
            return
    raise RunFailure(f"no free port between {PORTS.start} and {PORTS.stop - 1} on 127.0.0.1")
