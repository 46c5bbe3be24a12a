"""File locks between processes. The system releases a lock when its process ends, in whatever way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CREATE = os.O_RDWR | os.O_CREAT


def take_lock(path: Path, *, wait: bool, flags: int = CREATE) -> int | None:
    """Return a descriptor that holds the lock of the file or directory `path` until it is closed. `path` is opened with
    `flags`; by default a missing file is created. While another process has the lock, `wait` for it, or return None.
    Raises `OSError` if `path` cannot be opened or its file system has no locks."""
    import fcntl

    while True:
        descriptor = os.open(path, flags, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:  # removed by the process that held it
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # `path` was replaced: this is the lock of the old file


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for the lock of the file `path`, which is created if missing, and hold it during the block."""
    descriptor = take_lock(path, wait=True)
    try:
        yield
    finally:
        os.close(descriptor)  # type: ignore[arg-type]
