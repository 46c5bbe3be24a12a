"""What this machine lacks before anything is installed: one line each, with how to get it.

Run by setup.sh with the interpreter it chose, so it uses the standard library only and stays readable by Python 3.7.
Exit status 0: nothing is missing; 2: the lines on standard error say what is. A line is also said, and the status is 0,
where the kernel refuses the sandbox that `evaluate` judges programs in: everything else works.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.util
import os
import platform
import shutil
import subprocess
import sys

GB = 10**9
HERE = os.path.dirname(os.path.abspath(__file__))
ARCHITECTURES = {"Linux": ("x86_64", "aarch64"), "Darwin": ("x86_64", "arm64")}
# What the MindSpore wheel links and a bare system may not have: library -> packages that carry it.
LIBRARIES = {
    "libgomp.so.1": "`apt install libgomp1` (Debian, Ubuntu) or `dnf install libgomp` (Fedora, RHEL, openEuler)",
    "libstdc++.so.6": "`apt install libstdc++6` (Debian, Ubuntu) or `dnf install libstdc++` (Fedora, RHEL, openEuler)",
}


def check_python(version=tuple(sys.version_info[:3]), executable: str = sys.executable) -> str | None:
    """MindSpore 2.9 has builds for Python 3.10 to 3.12 only."""
    if (3, 10) <= tuple(version[:2]) <= (3, 12):
        return None
    found = ".".join(str(part) for part in version)
    return (
        f"Python {found} ({executable}) is not supported: install Python 3.10, 3.11 or 3.12 (`apt install "
        "python3.11 python3.11-venv`, or python.org), or name one with PYTHON=/path/to/python3.11"
    )


def check_venv(find_spec=importlib.util.find_spec, version=tuple(sys.version_info[:2])) -> str | None:
    """Debian and Ubuntu ship Python without the modules that make a virtual environment."""
    missing = [name for name in ("venv", "ensurepip") if find_spec(name) is None]
    if not missing:
        return None
    name = f"python{version[0]}.{version[1]}"
    return f"{name} has no {' and '.join(missing)} module: `apt install {name}-venv` (Debian, Ubuntu)"


def check_platform(system: str, machine: str, libc: str) -> str | None:
    """MindSpore 2.9 has builds for glibc Linux and macOS on two architectures each."""
    if system not in ARCHITECTURES:
        return f"{system} is not supported: use Linux (on Windows: WSL 2) or macOS"
    if machine not in ARCHITECTURES[system]:
        return f"{system} on {machine} is not supported: use a machine with {' or '.join(ARCHITECTURES[system])}"
    if system == "Linux" and libc != "glibc":
        return "this Linux has no glibc (Alpine?): use a distribution or container with glibc, such as Debian or Ubuntu"
    return None


def check_libraries(load=ctypes.CDLL, libraries=LIBRARIES) -> list[str]:
    """Each library is really loaded: a file that is there but broken counts as missing."""
    missing = []
    for name, remedy in libraries.items():
        try:
            load(name)
        except OSError:
            missing.append(f"{name} is missing: {remedy}")
    return missing


def check_disk(free: int, needed: int, directory: str) -> str | None:
    """`free` and `needed` in bytes."""
    if free >= needed:
        return None
    return (
        f"{directory} has {free / GB:.1f} GB free and the installation needs {needed / GB:.0f} GB: free some, or "
        "name another place with MS_CODEGEEX_VENV=/path/to/venv"
    )


def check_memory(available: int | None, needed: int) -> str | None:
    """`available` (None when it cannot be told) and `needed` in bytes."""
    if available is None or available >= needed:
        return None
    return (
        f"{available / GB:.1f} GB of memory are available and {needed / GB:.0f} GB are needed: "
        "close other programs, or raise the container's limit"
    )


def available_memory(
    meminfo: str = "/proc/meminfo", limits=("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
):
    """Bytes this process may still take: the kernel's estimate, or the container's limit when that is lower."""
    found = []
    try:
        with open(meminfo) as lines:
            found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except OSError:  # macOS: the installed memory is the best the standard library can tell
        with contextlib.suppress(ValueError, OSError):
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in limits:
        try:
            with open(path) as limit:
                found.append(int(limit.read()))
        except (OSError, ValueError):  # no cgroup, or "max"
            continue
    return min(found) if found else None


def existing_parent(directory: str) -> str:
    """The nearest directory above (or at) `directory` that is already there."""
    directory = os.path.abspath(directory)
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    return directory


def missing(directory: str, disk: float, memory: float, new: bool) -> list[str]:
    """Every problem as one line; `disk` and `memory` in GB, `new` when the environment has yet to be made."""
    place = existing_parent(directory)
    system = platform.system()
    found = [
        check_python(),
        check_venv() if new else None,
        check_platform(system, platform.machine(), platform.libc_ver()[0]),
        *(check_libraries() if system == "Linux" else []),
        check_disk(shutil.disk_usage(place).free, int(disk * GB), place),
        check_memory(available_memory(), int(memory * GB)),
    ]
    return [line for line in found if line]


def check_sandbox(python: str = sys.executable, root: str = os.path.dirname(HERE)) -> str | None:
    """Asked of the sandbox itself, which says what it lacks in a line."""
    words = [python, "-S", "-B", "-m", "ms_codegeex.evaluation.sandbox"]
    done = subprocess.run(words, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    lines = (done.stdout or done.stderr).strip().splitlines() or [f"status {done.returncode}"]
    return (
        "`evaluate` cannot judge programs in its strict sandbox here, and the tests of that are skipped; everything "
        f"else works ({lines[-1]})"
    )


def main(argv=None) -> int:
    """Print what is missing; the status is 2 when anything is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("directory", help="where the virtual environment is or will be")
    parser.add_argument("--disk", type=float, default=6, metavar="GB", help="free disk needed (default: 6)")
    parser.add_argument("--memory", type=float, default=4, metavar="GB", help="free memory needed (default: 4)")
    parser.add_argument("--new", action="store_true", help="the environment has yet to be made")
    arguments = parser.parse_args(argv)
    lines = missing(arguments.directory, arguments.disk, arguments.memory, arguments.new)
    for line in lines:
        print(f"preflight: {line}", file=sys.stderr)
    if lines:
        return 2
    refused = check_sandbox() if platform.system() == "Linux" else None
    if refused:
        print(f"preflight: {refused}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
