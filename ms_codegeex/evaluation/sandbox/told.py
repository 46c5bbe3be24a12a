"""Limits as the supervisor is told them: what the kernel enforces for each process, what is watched for all of them."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

from ms_codegeex.evaluation.sandbox.limits import Limits

FILES, SOCKETS = 100_000, 1024  # in the program's directories, and open at a time
COUNTS_BY_NAMESPACE = (5, 14)  # the first Linux whose RLIMIT_NPROC counts a user namespace's processes apart


def limits_of(limits: Limits, crowd: int) -> dict[str, Any]:
    """Limits as the supervisor sets and watches them.

    RLIMIT_DATA rather than RLIMIT_AS: the virtual machines of Java, JavaScript and Go reserve far more addresses than
    they use. Twice the memory, so that a program that really uses too much is ended by the watch, as MEMORY, and
    only a single senseless request fails inside the program. RLIMIT_CORE is 1: with 0 the kernel still feeds a dump to
    a program of the machine's, if core_pattern names one (core(5)). `crowd` is added to RLIMIT_NPROC, see `crowd`.
    """
    cpu = math.ceil(limits.wall * (os.cpu_count() or 1) if limits.cpu is None else limits.cpu)
    rlimits = [
        ("RLIMIT_CPU", cpu, cpu + 1),
        ("RLIMIT_DATA", 2 * limits.memory, 2 * limits.memory),
        ("RLIMIT_FSIZE", limits.file_size, limits.file_size),
        ("RLIMIT_NPROC", limits.processes + crowd, limits.processes + crowd),
        ("RLIMIT_NOFILE", limits.open_files, limits.open_files),
        ("RLIMIT_CORE", 1, 1),
        ("RLIMIT_MSGQUEUE", 0, 0),
        ("RLIMIT_MEMLOCK", 1 << 16, 1 << 16),
    ]
    watched = {"memory": limits.memory, "disk": limits.disk, "files": FILES, "sockets": SOCKETS}
    return {"rlimits": rlimits, "wall": limits.wall, "cpu": cpu, "processes": limits.processes, **watched}


def crowd(user: int, namespaces: bool, release: str | None = None) -> int:
    """How many threads of this user the kernel counts that are none of the program's: all of the machine's, where there
    are no user namespaces or they are not counted apart."""
    version = tuple(int(part) for part in re.findall(r"\d+", release or os.uname().release)[:2])
    if namespaces and version >= COUNTS_BY_NAMESPACE:
        return 0
    found = 0
    for directory in Path("/proc").iterdir():
        try:
            if directory.name.isdigit() and directory.stat().st_uid == user:
                found += len(os.listdir(directory / "task"))
        except OSError:
            continue  # it has gone
    return found
