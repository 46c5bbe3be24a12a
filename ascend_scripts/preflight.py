"""What this machine lacks before anything is installed: one line each, with how to get it.

Run by setup.sh with the interpreter it chose, so it uses the standard library only and stays readable by Python 3.7.
Exit status 0: nothing is missing; 2: the lines on standard error say what is. Where the kernel refuses the sandbox in
which `evaluate` judges programs, or the environment has NumPy 2, a line says so and the status stays 0. After
installation, `ms-codegeex doctor` reports more.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Callable

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from ms_codegeex.base import host  # noqa: E402  (python -I puts no directory on the path)


def check_venv(
    find_spec: Callable[[str], object] = importlib.util.find_spec, version: tuple = tuple(sys.version_info[:2])
) -> str | None:
    """Debian and Ubuntu ship Python without the modules that make a virtual environment."""
    missing = [name for name in ("venv", "ensurepip") if find_spec(name) is None]
    if not missing:
        return None
    name = f"python{version[0]}.{version[1]}"
    return f"{name} has no {' and '.join(missing)} module: `apt install {name}-venv` (Debian, Ubuntu)"


def missing(directory: str, disk: float, memory: float, new: bool) -> list[str]:
    """Every problem as one line; `disk` and `memory` in GB, `new` if the environment is yet to be made."""
    remedy = "free some, or name another place with MS_CODEGEEX_VENV=/path/to/venv"
    found = [
        host.check_python(),
        check_venv() if new else None,
        host.check_this_platform(),
        *(host.check_libraries() if platform.system() == "Linux" else []),
        host.check_disk(directory, int(disk * host.GB), remedy),
        host.check_memory(host.available_memory(), int(memory * host.GB)),
    ]
    return [line for line in found if line]


def check_sandbox(python: str = sys.executable) -> str | None:
    """What the strict sandbox lacks here, by its own report."""
    words = [python, "-S", "-B", "-m", "ms_codegeex.extras.evaluation.sandbox"]
    done = subprocess.run(words, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    lines = (done.stdout or done.stderr).strip().splitlines() or [f"status {done.returncode}"]
    return (
        "`evaluate` cannot judge programs in its strict sandbox here, and its tests are skipped; everything else "
        f"works ({lines[-1]})"
    )


def main(argv: list | None = None) -> int:
    """Print what is missing; the status is 2 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("directory", help="where the virtual environment is or will be")
    parser.add_argument("--disk", type=float, default=6, metavar="GB", help="free disk needed (default: 6)")
    parser.add_argument("--memory", type=float, default=2, metavar="GB", help="free memory needed (default: 2)")
    parser.add_argument("--new", action="store_true", help="the environment is yet to be made")
    arguments = parser.parse_args(argv)
    lines = missing(arguments.directory, arguments.disk, arguments.memory, arguments.new)
    for line in lines:
        print(f"preflight: {line}", file=sys.stderr)
    if lines:
        return 2
    numpy = None if arguments.new else host.check_numpy()  # the packages that set-up installs replace it
    refused = check_sandbox() if platform.system() == "Linux" else None
    for line in filter(None, (numpy, refused)):
        print(f"preflight: {line}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
