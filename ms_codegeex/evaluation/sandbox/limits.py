"""What a program may use."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Of one command: `wall` and `cpu` in seconds, sizes in bytes; memory, disk and processes are those of the whole
    program, with everything it started. Threads count as processes."""

    wall: float = 10.0
    cpu: float | None = None  # None: all CPUs as long as the wall clock
    memory: int = 2048 * MIB
    disk: int = 256 * MIB  # everything below its working directory and /tmp
    file_size: int = 64 * MIB
    processes: int = 128
    open_files: int = 256
    output: int = 1 * MIB  # of standard output, and of standard error
