"""What the benchmarks share: a description of the machine, and the format of results."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def versions(*packages: str) -> str:
    """One line for RESULTS.md: machine, cores, Python, packages."""
    found = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return ", ".join([platform.machine(), f"{os.cpu_count()} cores", f"Python {platform.python_version()}", *found])


def spread(values: Sequence[float]) -> str:
    """`median (lowest to highest of n)`."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g} of {len(values)})"


def print_command() -> None:
    """Print the command line, so that a pasted result shows how it was produced."""
    print("$ python " + " ".join([str(Path(sys.argv[0])), *sys.argv[1:]]))
