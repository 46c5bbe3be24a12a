"""NVIDIA's packages and driver without a GPU: empty libraries of the right names, a driver that reports devices."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from ms_codegeex.base.cuda.libraries import LIBRARIES
from ms_codegeex.extras.cluster.rehearsal.stubs import compilers

DRIVER_SOURCE = Path(__file__).with_name("driver.c")


def compile_library(source: Path, library: Path) -> None:
    """Compile a shared library whose soname is its file name; skips the test without a C compiler."""
    commands = compilers()
    if not commands:
        pytest.skip("no C compiler")
    library.parent.mkdir(parents=True, exist_ok=True)
    words = [*commands[0], "-w", "-shared", "-fPIC", f"-Wl,-soname,{library.name}", "-o", str(library), str(source)]
    cache = str(Path(tempfile.gettempdir()) / "zig")  # by default in the home directory, which there may be none of
    caches = {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
    subprocess.run(words, check=True, capture_output=True, env={**os.environ, **caches})


def fake_packages(directory: Path) -> Path:
    """A folder for PYTHONPATH with an empty library in place of each of NVIDIA's: one, compiled once, under each of
    their sonames."""
    source, empty = directory / "empty.c", directory / ("x" * 60)
    source.write_text("int nothing(void) { return 0; }\n")
    compile_library(source, empty)
    name = empty.name.encode()
    for library in LIBRARIES:
        path = directory / "nvidia" / library.folder / "lib" / library.soname
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(empty.read_bytes().replace(name, library.soname.encode().ljust(len(name), b"\0")))
    return directory


def fake_driver(directory: Path) -> Path:
    """A folder for LD_LIBRARY_PATH with the driver of driver.c."""
    compile_library(DRIVER_SOURCE, directory / "libcuda.so.1")
    return directory


def environment_with(packages: Path | None = None, driver: Path | None = None, **settings: str) -> dict[str, str]:
    """All variables of a process that finds these libraries, and no driver of this machine's by LD_LIBRARY_PATH."""
    root = str(Path(__file__).resolve().parents[3])
    python_path = os.pathsep.join(filter(None, [root, str(packages) if packages else ""]))
    return {**os.environ, "PYTHONPATH": python_path, "LD_LIBRARY_PATH": str(driver or ""), **settings}
