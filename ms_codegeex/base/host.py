"""What this machine offers a process, and what it lacks. Each gap is one line that says how to close it.
`ascend_scripts/preflight.py` imports this module before anything is installed, `ms-codegeex doctor` afterwards. It
therefore uses only the standard library, and syntax that Python 3.7 can read."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import shutil
import sys
from collections.abc import Callable

GB = 10**9
ARCHITECTURES = {"Linux": ("x86_64", "aarch64"), "Darwin": ("x86_64", "arm64")}
# Libraries that the MindSpore wheel links and a minimal system may lack -> packages that contain them.
LIBRARIES = {
    "libgomp.so.1": "`apt install libgomp1` (Debian, Ubuntu) or `dnf install libgomp` (Fedora, RHEL, openEuler)",
    "libstdc++.so.6": "`apt install libstdc++6` (Debian, Ubuntu) or `dnf install libstdc++` (Fedora, RHEL, openEuler)",
}
# CPU flags of /proc/cpuinfo, widest instruction set first.
INSTRUCTION_SETS = dict(avx512f="AVX-512", avx2="AVX2", avx="AVX", sse4_2="SSE 4.2", sve="SVE", asimd="NEON")


def check_python(version: tuple = tuple(sys.version_info[:3]), executable: str = sys.executable) -> str | None:
    """Return an error line unless this is Python 3.10 to 3.12, the only versions with builds of MindSpore 2.9."""
    if (3, 10) <= tuple(version[:2]) <= (3, 12):
        return None
    dotted = ".".join(str(part) for part in version)
    return (
        f"Python {dotted} ({executable}) is not supported: install Python 3.10, 3.11 or 3.12 (`apt install "
        "python3.11 python3.11-venv`, or python.org), or name one with PYTHON=/path/to/python3.11"
    )


def check_platform(system: str, machine: str, libc: str) -> str | None:
    """Return an error line unless MindSpore 2.9 has builds for it: glibc Linux or macOS, two architectures each."""
    if system not in ARCHITECTURES:
        return f"{system} is not supported: use Linux (on Windows: WSL 2) or macOS"
    if machine not in ARCHITECTURES[system]:
        return f"{system} on {machine} is not supported: use a machine with {' or '.join(ARCHITECTURES[system])}"
    if system == "Linux" and libc != "glibc":
        return "this Linux has no glibc (Alpine?): use a distribution or container with glibc, such as Debian or Ubuntu"
    return None


def check_this_platform() -> str | None:
    return check_platform(platform.system(), platform.machine(), platform.libc_ver()[0])


def check_numpy() -> str | None:
    """Return an error line if NumPy 2 is installed. MindSpore's wheels are compiled against NumPy 1, although the
    requirements of 2.10 allow NumPy 2."""
    with contextlib.suppress(ImportError):  # no NumPy, or Python 3.7, which lacks importlib.metadata
        from importlib.metadata import version

        if int(version("numpy").partition(".")[0]) >= 2:
            found = f"NumPy {version('numpy')}, with which MindSpore's first operation on a number or an array fails"
            return f"{found}: pip install 'numpy<2'"
    return None


def check_libraries(load: Callable[[str], object] = ctypes.CDLL, libraries: dict = LIBRARIES) -> list[str]:
    """Return one line for each library that cannot be loaded. A file that exists but is broken counts as missing."""
    missing = []
    for name, remedy in libraries.items():
        try:
            load(name)
        except OSError:
            missing.append(f"{name} is missing: {remedy}")
    return missing


def check_disk(directory: str, needed: int, remedy: str, free: int | None = None) -> str | None:
    """Return a line if the file system of `directory`, which may not exist yet, has fewer than `needed` free bytes."""
    parent = existing_parent(directory)
    free = shutil.disk_usage(parent).free if free is None else free
    if free >= needed:
        return None
    return f"{parent} has {free / GB:.1f} GB free and {needed / GB:.0f} GB are needed: {remedy}"


def check_memory(available: int | None, needed: int) -> str | None:
    """Return a line if fewer than `needed` bytes are `available` (None: unknown)."""
    if available is None or available >= needed:
        return None
    return (
        f"{available / GB:.1f} GB of memory are available and {needed / GB:.0f} GB are needed: "
        "close other programs, or raise the container's limit"
    )


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory(
    meminfo: str = "/proc/meminfo",
    limits: tuple = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"),
) -> int | None:
    """Return the bytes that this process may still take: the smaller of the kernel's estimate and what the container's
    limit leaves. None if unknown."""
    bounds = []
    try:
        with open(meminfo) as lines:
            bounds += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except OSError:  # macOS: the standard library knows only the installed memory
        with contextlib.suppress(ValueError, OSError):
            bounds.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in limits:
        try:
            with open(path) as limit:
                bounds.append(max(0, int(limit.read()) - _used(os.path.dirname(path))))
        except (OSError, ValueError):  # no cgroup, or no limit ("max")
            continue
    return min(bounds) if bounds else None


def _used(directory: str) -> int:
    """Return the bytes that a cgroup uses and cannot free at once, without cached files. 0 if unknown."""
    used = 0
    for name in ("memory.current", "memory.usage_in_bytes"):  # cgroup v2, v1
        with contextlib.suppress(OSError, ValueError), open(os.path.join(directory, name)) as figure:
            used = int(figure.read())
    with contextlib.suppress(OSError, ValueError), open(os.path.join(directory, "memory.stat")) as lines:
        given_back = ("inactive_file", "total_inactive_file")
        sizes = [int(line.split()[1]) for line in lines if line.split()[:1] and line.split()[0] in given_back]
        used -= max(sizes) if sizes else 0
    return max(0, used)


def hide_rank_table() -> None:
    """Hide `RANK_TABLE_FILE` from MindSpore 2.9, which would otherwise change the compiler's level and refuse to start
    workers. Code that needs the table has read it already."""
    os.environ.pop("RANK_TABLE_FILE", None)


def instruction_set(cpuinfo: str = "/proc/cpuinfo") -> str | None:
    """Return the CPU's widest vector instruction set, such as "AVX2"; None if unknown."""
    try:
        with open(cpuinfo) as lines:
            line = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    except OSError:
        return None
    flags = line.split()
    return next((name for flag, name in INSTRUCTION_SETS.items() if flag in flags), None)


def existing_parent(directory: str) -> str:
    """Return the nearest existing directory at or above `directory`."""
    directory = os.path.abspath(directory)
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    return directory
