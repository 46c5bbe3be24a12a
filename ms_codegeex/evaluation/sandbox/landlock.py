"""Landlock: the kernel's access rules for files and TCP, in addition to what is mounted."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

CREATE_RULESET, VERSION_FLAG = 444, 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_CHAR, MAKE_BLOCK = 1 << 6, 1 << 11
FIRST_RIGHTS = (1 << 13) - 1  # ABI 1
REFER, TRUNCATE, IOCTL_DEVICE = 1 << 13, 1 << 14, 1 << 15  # ABI 2, 3, 5
TCP, SCOPES = 0b11, 0b11  # ABI 4: bind and connect; ABI 6: abstract UNIX sockets and signals
READ = EXECUTE | READ_FILE | READ_DIR
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEVICE


def abi() -> int:
    """The Landlock ABI version of this kernel, 0 without Landlock."""
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(ctypes.c_long(CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint(VERSION_FLAG))
    return max(0, version)


def rules(version: int, readable: Iterable[str], writable: Iterable[str], devices: Iterable[str]) -> dict[str, Any]:
    """The description from which the supervisor makes a ruleset: everything is denied except reading `readable`,
    everything but device nodes in `writable`, and reading and writing the files `devices`."""
    handled = FIRST_RIGHTS
    for since, right in ((2, REFER), (3, TRUNCATE), (5, IOCTL_DEVICE)):
        handled |= right if version >= since else 0
    everything = handled & ~(MAKE_CHAR | MAKE_BLOCK | IOCTL_DEVICE)
    rights = ((readable, READ), (writable, everything), (devices, (READ_FILE | WRITE_FILE | TRUNCATE) & handled))
    return {
        "size": 8 if version < 4 else 16 if version < 6 else 24,
        "fs": handled,
        "net": TCP if version >= 4 else 0,
        "scoped": SCOPES if version >= 6 else 0,
        "of_files": OF_FILES & handled,
        "paths": [(path, allowed) for paths, allowed in rights for path in paths],
    }
