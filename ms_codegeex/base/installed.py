"""Find MindSpore's folder without importing it, versions of packages, and a way to import without PyTorch."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ms_codegeex.base.errors import UserError


def mindspore_directory(purpose: str, machines: Sequence[str], required: Sequence[str], advice: str) -> Path:
    """Return MindSpore's folder. Raises `UserError` unless this is Linux on one of `machines`, or if MindSpore or one
    of the `required` files of its wheel is missing. `purpose` starts the message; `advice` says what a wheel without
    such a file lacks, and what to do."""
    if sys.platform != "linux" or platform.machine() not in machines:
        wrong = f"needs Linux on {' or '.join(machines)}, this is {sys.platform} on {platform.machine()}"
        raise UserError(f"{purpose}: {wrong}; use such a machine or a container")
    spec = importlib.util.find_spec("mindspore")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{purpose}: MindSpore is not installed; run `pip install -r requirements.txt`")
    directory = Path(spec.submodule_search_locations[0])
    for file in required:
        if not (directory / file).is_file():
            version = importlib.metadata.version("mindspore")
            raise UserError(f"{directory / file}: missing, MindSpore {version} {advice}")
    return directory


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those `packages` that are installed."""
    found = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@contextlib.contextmanager
def without_torch() -> Iterator[None]:
    """Hide PyTorch while importing tensorboardX, which would spend seconds on it for types that scalars do not need."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment] # tensorboardX handles the ImportError
    try:
        yield
    finally:
        del sys.modules["torch"]
