"""The files of this machine that programs see: the tool chains, and nothing of the user's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DIRECTORY, SCRATCH, SHARED_MEMORY = "/program", "/tmp", "/dev/shm"
SHARED_MEMORY_SIZE = 64 << 20
# not /dev/zero: shared mappings of it are memory that nobody counts
DEVICES = ("/dev/null", "/dev/random", "/dev/urandom")
# Only what tool chains read in /etc: no users, hosts or keys. The time zone is always UTC.
CONFIGURATION = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/ssl/openssl.cnf", "/etc/fonts")
SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
STREAMS = (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2"))


def homes(disk: int) -> list[tuple[str, int]]:
    """The directories where a program may write, each a file system in memory with a size in bytes."""
    return [(SHARED_MEMORY, SHARED_MEMORY_SIZE), (DIRECTORY, disk), (SCRATCH, disk)]


def system_view(readable: Mapping[str, str]) -> dict[str, Any]:
    """The description from which inside/rootfs.py makes a root file system.

    It has symbolic links (path, target), empty directories, files and directories of this machine (path inside,
    path here), and device nodes. `readable` maps further paths inside to paths here.
    """
    links = [(path, os.readlink(path)) for path in SYSTEM if os.path.islink(path)]
    links += [(f"/dev/{name}", f"/proc/self/fd{target}") for name, target in STREAMS]
    directories = [path for path in SYSTEM if os.path.isdir(path) and not os.path.islink(path)]
    java = sorted(str(path) for path in Path("/etc").glob("java*"))
    settings = [(path, os.path.realpath(path)) for path in (*CONFIGURATION, *java) if os.path.exists(path)]
    return {
        "links": links,
        "directories": [path for path, _ in homes(0)],
        "shown": [("/usr", "/usr"), *((path, path) for path in directories), *settings, *readable.items()],
        "devices": DEVICES,
    }
