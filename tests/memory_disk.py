"""Temporary files of the tests lie in memory where there is room for them: a plugin of pytest.

A fsync takes 7 ms on a disk and nothing in memory, and the tests do thousands. TMPDIR counts if the user has set it.
`disk_path` is a directory on a real file system, for a test of what fsync is for.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

MEMORY = Path("/dev/shm")
ROOM = 6 << 30  # bytes; the default tests leave about 1 GB, and the machine needs memory for its processes too


def roomy_memory(folder: Path = MEMORY) -> bool:
    """Whether a memory file system is there that can be written to, runs programs and has room."""
    try:
        system = os.statvfs(folder)
    except OSError:
        return False
    in_memory = any(
        part.mountpoint == str(folder) and part.fstype == "tmpfs" for part in psutil.disk_partitions(all=True)
    )
    usable = os.access(folder, os.W_OK | os.X_OK) and not system.f_flag & os.ST_NOEXEC
    return in_memory and usable and min(system.f_bavail * system.f_frsize, psutil.virtual_memory().available) > ROOM


def pytest_configure(config: pytest.Config) -> None:
    """In the process that the user starts, before pytest makes its directories; all others inherit the variable."""
    if not hasattr(config, "workerinput") and "TMPDIR" not in os.environ and roomy_memory():
        os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="msc-", dir=MEMORY)  # the names of sockets are short
        os.chmod(os.environ["TMPDIR"], 0o1777)  # like /tmp: some tests run programs as another user
        tempfile.tempdir = None
        config.add_cleanup(_clear)


def _clear() -> None:
    """Give the memory back. What failed tests leave is kept by `--basetemp DIR` or TMPDIR."""
    shutil.rmtree(os.environ.pop("TMPDIR"), ignore_errors=True)
    tempfile.tempdir = None


@pytest.fixture
def disk_path(request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty directory on the file system of the checkout, removed after the test."""
    cache = request.config.cache.mkdir("disk")
    with tempfile.TemporaryDirectory(dir=cache) as name:
        yield Path(name)
