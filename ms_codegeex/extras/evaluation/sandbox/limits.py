"""Resource limits: what a program may use, and how the supervisor enforces it."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 1 << 20
FILES, SOCKETS = 100_000, 1024  # files in the program's directories, sockets open at a time
SPARE = 512  # threads: a job of several ranks that starts at the same moment has hundreds
COUNTS_BY_NAMESPACE = (5, 14)  # the first Linux whose RLIMIT_NPROC counts per user namespace


@dataclass(frozen=True)
class ResourceLimits:
    """The limits of one command, in seconds and bytes. Memory, disk and processes are those of the whole program,
    including everything it started. Threads count as processes."""

    wall: float = 10.0
    cpu: float | None = None  # None: all CPUs for the time of the wall clock
    memory: int = 2048 * MIB
    disk: int = 256 * MIB  # everything below its working directory and /tmp
    file_size: int = 64 * MIB
    processes: int = 128
    open_files: int = 256
    output: int = 1 * MIB  # each of standard output and standard error


def limits_of(limits: ResourceLimits, others: int) -> dict[str, Any]:
    """The limits that the supervisor sets for each process (`rlimits`) and those that it watches for the whole program.

    RLIMIT_DATA rather than RLIMIT_AS: the virtual machines of Java, JavaScript and Go reserve far more address space
    than they use. It is twice the memory limit: the supervisor ends a program that uses too much, as MEMORY, and only
    one excessive request fails inside the program. RLIMIT_CORE is 1: with 0 the kernel still pipes a dump to the
    program in core_pattern (core(5)). `others` is added to RLIMIT_NPROC, see `foreign_threads`."""
    cpu = math.ceil(limits.wall * (os.cpu_count() or 1) if limits.cpu is None else limits.cpu)
    rlimits = [
        ("RLIMIT_CPU", cpu, cpu + 1),
        ("RLIMIT_DATA", 2 * limits.memory, 2 * limits.memory),
        ("RLIMIT_FSIZE", limits.file_size, limits.file_size),
        ("RLIMIT_NPROC", limits.processes + others, limits.processes + others),
        ("RLIMIT_NOFILE", limits.open_files, limits.open_files),
        ("RLIMIT_CORE", 1, 1),
        ("RLIMIT_MSGQUEUE", 0, 0),
        ("RLIMIT_MEMLOCK", 1 << 16, 1 << 16),
    ]
    watched = {"memory": limits.memory, "disk": limits.disk, "files": FILES, "sockets": SOCKETS}
    return {"rlimits": rlimits, "wall": limits.wall, "cpu": cpu, "processes": limits.processes, **watched}


def foreign_threads(user: int, namespaces: bool, release: str | None = None) -> int:
    """The number of this user's threads that the kernel counts against a program's RLIMIT_NPROC but that are not its
    own: all on the machine without user namespaces, or where the kernel does not count those separately. `SPARE` more
    may start before the program does; the supervisor still counts the program's own."""
    version = tuple(int(part) for part in re.findall(r"\d+", release or os.uname().release)[:2])
    if namespaces and version >= COUNTS_BY_NAMESPACE:
        return 0
    threads = 0
    for directory in Path("/proc").iterdir():
        try:
            if directory.name.isdigit() and directory.stat().st_uid == user:
                threads += len(os.listdir(directory / "task"))
        except OSError:
            continue  # it has ended
    return threads + SPARE
