"""The compiled operators of a CPU, for decoding (`generation/kernels`) and for training (`models/compiled.py`): one
library for this CPU's level. A wheel for one platform brings it; elsewhere an installed compiler makes it once."""

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

AUTO = "auto"  # the best level that this CPU can run
# an architecture, and the features that the level adds
LEVELS = {"vnni": ("x86-64-v4", "avx512vnni"), "avx512": ("x86-64-v4",), "avx2": ("x86-64-v3",), "plain": ()}
_AVX2 = {"avx2", "bmi1", "bmi2", "fma", "f16c", "movbe", "abm"}
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
NEEDED = {  # of the flags in /proc/cpuinfo
    "vnni": _AVX512 | {"avx512_vnni"},
    "avx512": _AVX512,
    "avx2": _AVX2,
    "plain": set(),
}
SOURCES = (
    *("operators.cc", "vector.h", "pool.h", "numbers.h", "matrix.h", "integers.h", "linear.h", "norm.h"),
    *("attention.h", "choice.h", "exchange.h", "adapters.h", "held.h"),
    *("activation.h", "tiles.h", "whole_attention.h", "adamw.h", "muon.h"),
)
COMPILE_SECONDS = 600
# -fno-exceptions to -nostdinc++: no C++ standard library is needed, which zig would compile first
FLAGS = (
    *("-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"),
    *("-pthread", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics", "-nostdinc++", "-w"),
)


def possible_levels(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Those of `LEVELS` that this CPU can run, the best first."""
    flags: set[str] = set()
    if platform.machine() == "x86_64" and cpuinfo.is_file():
        line = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
        flags = set(line.split())
    return [level for level, needed in NEEDED.items() if needed <= flags]


def cpu_level(name: str = AUTO) -> str:
    """The level of this name, or the best that this CPU can run. `UserError` if it cannot run it."""
    possible = possible_levels()
    if name != AUTO and name not in possible:
        raise UserError(f"--cpu-level: this CPU cannot run {name}; choose {AUTO} or one of {', '.join(possible)}")
    return possible[0] if name == AUTO else name


def cxx_compilers() -> list[list[str]]:
    """The C++ compilers of this machine as commands, the one to use first."""
    compilers = [[path] for path in map(shutil.which, ("g++", "clang++", "c++")) if path]
    if importlib.util.find_spec("ziglang") is not None:
        compilers.append([sys.executable, "-m", "ziglang", "c++"])
    return compilers


def level_flags(level: str, zig: bool) -> list[str]:
    """The compiler flags of a level. zig spells names with underscores, and links a C++ library unless forbidden."""
    names = LEVELS[level]
    if zig:
        return ["-nostdlib++", *([f"-mcpu={'+'.join(names).replace('-', '_')}"] if names else [])]
    return [f"-m{name}" for name in (f"arch={names[0]}", *names[1:])] if names else []


def build_command(level: str, compiler: list[str]) -> list[str]:
    """The command that compiles a level, without files."""
    return [*compiler, *FLAGS, *level_flags(level, "ziglang" in compiler)]


def library_file(directory: Path, level: str, command: list[str]) -> Path:
    """The path of the library that `command` makes from these sources."""
    digest = hashlib.sha256(repr((platform.machine(), command)).encode())
    for name in SOURCES:
        digest.update((Path(__file__).parent / name).read_bytes())
    return directory / f"kernels-{level}-{digest.hexdigest()[:16]}.so"


def compile_library(directory: Path, level: str, compiler: list[str], *extra: str) -> Path:
    """The path of the shared library in `directory`, compiled unless it exists; it is written atomically.

    Raises `RunFailure` with the compiler's last line if it fails.
    """
    source, command = Path(__file__).parent, [*build_command(level, compiler), *extra]
    target = library_file(directory, level, command)
    if target.is_file():
        return target
    with atomic_file(target) as temporary, tempfile.TemporaryDirectory() as scratch:
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
    """Where the package has the library of a level, if it came with it; named by a digest of `sources` and flags."""
    digest = hashlib.sha256(repr(FLAGS).encode() + b"".join((sources / name).read_bytes() for name in SOURCES))
    return sources / "prebuilt" / f"kernels_{machine}_{level}_{digest.hexdigest()[:16]}.so"


def library_path(level: str = AUTO) -> Path | None:
    """The library of a level: the one that came with the package, else one in the user's cache; None on a machine
    without a C++ compiler that can build it. `UserError` if this CPU cannot run the level."""
    level = cpu_level(level)
    if (shipped := prebuilt_file(platform.machine(), level)).is_file():
        return shipped
    for compiler in cxx_compilers():
        try:
            return compile_library(user_cache() / "kernels", level, compiler)
        except (RunFailure, UserError):
            continue  # the next compiler, or MindSpore's own operators
    return None
