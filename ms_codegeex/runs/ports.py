"""Local ports at which the workers of a run meet."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.base.locks import take_lock

PORTS = range(21000, 31000)  # below the usual ephemeral range, so that no outgoing connection takes one in between


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A free local port that no other run takes while the block runs: one lock file per port, and a bind to test it."""
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
    raise RunFailure(f"no free port between {PORTS.start} and {PORTS.stop - 1} on 127.0.0.1")


def _is_free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False
