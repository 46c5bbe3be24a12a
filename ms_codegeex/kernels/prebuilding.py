"""Build the operator libraries of wheels, for releases, and list those on this machine, for `doctor`."""

from __future__ import annotations

import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ms_codegeex.base.cache import user_cache
from ms_codegeex.kernels.compiling import build_command, compile_library, cxx_compilers, library_file, prebuilt_file
from ms_codegeex.kernels.levels import LEVELS, cpu_level

# machine -> zig's name of its wheels' platform, with the oldest glibc, and its levels
TARGETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "x86_64": ("x86_64-linux-gnu.2.17", tuple(LEVELS)),
    "aarch64": ("aarch64-linux-gnu.2.17", ("plain",)),
}


def prebuild(machine: str, package: Path) -> list[Path]:
    """Compile all levels for `machine`, one of `TARGETS`, with zig, into the wheel's folder `package`. Any machine can
    compile for any other, and equal sources give equal bytes. `RunFailure` if a compilation fails."""
    target, levels = TARGETS[machine]
    zig = [sys.executable, "-m", "ziglang", "c++", "-target", target]
    files = [prebuilt_file(machine, level, package / "kernels") for level in levels]
    with ThreadPoolExecutor(len(levels)) as pool:
        compiled = [pool.submit(compile_library, files[0].parent, level, zig, "-s") for level in levels]
        for one, file in zip(compiled, files, strict=True):
            one.result().rename(file)
    return files


def shipped_library() -> Path | None:
    path = prebuilt_file(platform.machine(), cpu_level())
    return path if path.is_file() else None


def built_libraries() -> dict[str, Path | None]:
    paths = {
        " ".join(compiler): library_file(user_cache() / "kernels", cpu_level(), build_command(cpu_level(), compiler))
        for compiler in cxx_compilers()
    }
    return {name: path if path.is_file() else None for name, path in paths.items()}
