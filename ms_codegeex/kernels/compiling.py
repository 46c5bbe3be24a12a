"""Find or compile the library of CPU operators for decoding (`generation/kernels`) and training (`models/compiled.py`),
for the level of this CPU. A platform wheel contains it; otherwise an installed compiler builds it once."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ms_codegeex.base.cache import user_cache
from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.files import atomic_file
from ms_codegeex.base.progress import Progress
from ms_codegeex.kernels.levels import AUTO, LEVELS, cpu_level

SOURCES = (
    *("operators.cc", "vector.h", "pool.h", "numbers.h", "matrix.h", "integers.h", "linear.h", "norm.h"),
    *("attention.h", "choice.h", "exchange.h", "adapters.h", "held.h", "block.h"),
    *("activation.h", "tiles.h", "whole_attention.h", "products.h", "entropy.h", "adamw.h", "muon.h"),
)
COMPILE_SECONDS = 600
# -fno-exceptions to -nostdinc++ avoid the C++ standard library, which zig would compile first
FLAGS = (
    *("-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"),
    *("-pthread", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics", "-nostdinc++", "-w"),
)


def cxx_compilers() -> list[list[str]]:
    """Return the commands of this machine's C++ compilers, the preferred one first."""
    compilers = [[path] for path in map(shutil.which, ("g++", "clang++", "c++")) if path]
    if importlib.util.find_spec("ziglang") is not None:
        compilers.append([sys.executable, "-m", "ziglang", "c++"])
    return compilers


def level_flags(level: str, zig: bool) -> list[str]:
    """Return the compiler flags of a level. zig spells names with underscores, and links a C++ library by default."""
    names = LEVELS[level]
    if zig:
        return ["-nostdlib++", *([f"-mcpu={'+'.join(names).replace('-', '_')}"] if names else [])]
    return [f"-m{name}" for name in (f"arch={names[0]}", *names[1:])] if names else []


def build_command(level: str, compiler: list[str]) -> list[str]:
    return [*compiler, *FLAGS, *level_flags(level, "ziglang" in compiler)]


def library_file(directory: Path, level: str, command: list[str]) -> Path:
    """Return the path of the library that `command` compiles from the current sources."""
    digest = hashlib.sha256(repr((platform.machine(), command)).encode())
    for name in SOURCES:
        digest.update((Path(__file__).parent / name).read_bytes())
    return directory / f"kernels-{level}-{digest.hexdigest()[:16]}.so"


def compile_library(directory: Path, level: str, compiler: list[str], *extra: str) -> Path:
    """Return the path of the shared library in `directory`, after compiling it if it does not exist. It is written
    atomically. `RunFailure`, with the compiler's last line, if compilation fails."""
    source, command = Path(__file__).parent, [*build_command(level, compiler), *extra]
    target = library_file(directory, level, command)
    if target.is_file():
        return target
    slow = Progress(None, "compiling operators for this CPU, once", leave=False)
    with atomic_file(target) as temporary, tempfile.TemporaryDirectory() as scratch, slow:
        try:
            result = subprocess.run(
                [*command, str(source / SOURCES[0]), "-o", str(temporary.absolute())],
                env={**os.environ, "ZIG_GLOBAL_CACHE_DIR": scratch, "ZIG_LOCAL_CACHE_DIR": scratch},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=COMPILE_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RunFailure(f"{' '.join(compiler)}: could not compile the operators ({error})") from None
        if result.returncode or not temporary.stat().st_size:
            reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
            raise RunFailure(f"{' '.join(compiler)}: could not compile the operators ({reason})")
    return target


def prebuilt_file(machine: str, level: str, sources: Path = Path(__file__).parent) -> Path:
    digest = hashlib.sha256(repr(FLAGS).encode() + b"".join((sources / name).read_bytes() for name in SOURCES))
    return sources / "prebuilt" / f"kernels_{machine}_{level}_{digest.hexdigest()[:16]}.so"


def find_library(level: str = AUTO) -> tuple[Path | None, str]:
    """Return the library of a level and "": the one that came with the package, else one in the user's cache. If no C++
    compiler here can build it, return None and the reason. `UserError` if this CPU cannot run the level."""
    level = cpu_level(level)
    if (shipped := prebuilt_file(platform.machine(), level)).is_file():
        return shipped, ""
    reasons = []
    for compiler in cxx_compilers():
        try:
            return compile_library(user_cache() / "kernels", level, compiler), ""
        except (RunFailure, UserError) as error:
            reasons.append(str(error))
    return None, "; ".join(reasons) or "there is no C++ compiler; install g++, or run `pip install ziglang`"


def library_path(level: str = AUTO) -> Path | None:
    return find_library(level)[0]
