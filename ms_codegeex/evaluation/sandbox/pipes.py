"""A program's standard streams: a pipe for each output, and its whole standard input in advance."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

CHUNK = 1 << 16  # bytes that are read at a time


class OutputPipe:
    """A program's standard output or error, of which `cap` bytes are kept. On exit, ends that are still open are
    closed. `owner` may open it again as /dev/stdout."""

    def __init__(self, owner: int, cap: int) -> None:
        self.owner, self.cap = owner, cap
        self.data, self.over = bytearray(), False

    def __enter__(self) -> OutputPipe:
        self.read, self.write = os.pipe()
        os.fchown(self.write, self.owner, -1)
        return self

    def close_write(self) -> None:
        """Close our writing end: only the program writes."""
        if self.write >= 0:
            os.close(self.write)
        self.write = -1

    def take(self) -> bool:
        """Read what is available; False at the end. Bytes beyond the cap are dropped, and `over` is set."""
        chunk = os.read(self.read, CHUNK)
        room = self.cap - len(self.data)
        self.over |= len(chunk) > room
        self.data += chunk[:room]
        return bool(chunk)

    def __exit__(self, *_: object) -> None:
        self.close_write()
        os.close(self.read)


@contextmanager
def standard_input(data: bytes, owner: int) -> Iterator[int]:
    """A descriptor from which standard input is read, -1 if it is empty.

    What has been read from a pipe is gone, so a secret that a judge's harness reads first cannot be read again.
    Only data that does not fit into a pipe is passed as a file.
    """
    if not data:
        yield -1
        return
    descriptor = filled_pipe(data, owner)
    if descriptor < 0:
        descriptor = sealed_file(data)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def filled_pipe(data: bytes, owner: int) -> int:
    """The reading end of a pipe that contains the data and then ends, -1 if the data does not fit."""
    read, write = os.pipe()
    try:
        os.fchown(read, owner, -1)
        os.set_blocking(write, False)
        if len(data) <= fcntl.fcntl(write, fcntl.F_GETPIPE_SZ) and os.write(write, data) == len(data):
            return read
    except BlockingIOError:
        pass
    finally:
        os.close(write)
    os.close(read)
    return -1


def sealed_file(data: bytes) -> int:
    """A nameless file that can no longer be written: otherwise a program could hide memory in it."""
    descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    every = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, every)
    return descriptor
