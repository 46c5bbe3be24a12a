"""Empty CUDA libraries, so that MindSpore's GPU plugin loads for simulation on a machine without a GPU.

MindSpore partitions a training graph for any rank of any cluster under `MS_SIMULATION_LEVEL=0`, but only for a device
target whose plugin loads. The GPU plugin of the PyPI wheel does as soon as the CUDA 11.6 libraries it is linked to are
found. Nothing in them is ever called, so functions that return 0 suffice: their names are read from the plugin itself,
one small library with all of them is compiled, and copied under the name of each NVIDIA library.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np

from ms_codegeex.base.cuda import plugin as cuda_plugin
from ms_codegeex.base.errors import RunFailure, UserError

MACHINES = ("x86_64", "aarch64")
FOREIGN_LIBRARY = re.compile(r"lib(cu|nvrtc)")
FOREIGN_SYMBOL = re.compile(r"cu[a-zA-Z]|__cuda|nvrtc")
C_FUNCTION = re.compile(r"^\w[\w ]*[ *](\w+)\(", re.MULTILINE)
COMPILE_SECONDS = 300


def simulation_environment(rank: int, world: int) -> dict[str, str]:
    """Variables with which a new process compiles as rank `rank` of `world` devices; add them to `os.environ`.

    Builds the stub libraries if this user has none yet. Raises `UserError` where simulation is impossible.
    """
    return {**loader_environment(), **rank_environment(rank, world)}


def loader_environment() -> dict[str, str]:
    return {**cuda_plugin.plugin_environment(stub_libraries().parent), "GLOG_v": "3"}


def rank_environment(rank: int, world: int) -> dict[str, str]:
    """The part of `simulation_environment` that MindSpore reads when its communication is initialised."""
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} of {world}")
    return {
        "OMPI_COMMAND": "python",  # the GPU plugin takes its rank from MPI's variables, or insists on a scheduler
        "PMIX_RANK": "0",
        "MS_SIMULATION_LEVEL": "0",
        "RANK_SIZE": str(world),
        "RANK_ID": str(rank),
    }


def stub_libraries() -> Path:
    """The folder with the stub libraries for the installed MindSpore, made on the first call; safe to call from many
    processes at once."""
    plugin = cuda_plugin.plugin_directory("rehearsal", MACHINES) / cuda_plugin.PLUGIN
    fill = partial(build, plugin, plugin.parents[2] / cuda_plugin.KERNELS)
    name = f"stubs-{fingerprint(plugin, cuda_plugin.__file__)}"
    return cuda_plugin.cuda_folder(name, "the stub CUDA libraries", fill) / "lib64"


def build(plugin: Path, kernels: Path, directory: Path, functions: str = "") -> None:
    """Make `directory/lib64/*` for the plugin and the kernel library of MindSpore's wheel.

    `functions`: C code with functions that are to do something; the others return 0.
    """
    wanted = undefined_symbols(plugin)
    symbols = {version: names for version, names in wanted.items() if FOREIGN_LIBRARY.match(version)}
    loose = {name for name in wanted[""] | undefined_symbols(kernels)[""] if FOREIGN_SYMBOL.match(name)}
    source, versions, library = directory / "stubs.c", directory / "stubs.map", directory / "stubs.so"
    idle = loose.union(*symbols.values()) - set(C_FUNCTION.findall(functions))
    source.write_text(functions + "".join(f"int {name}(void) {{ return 0; }}\n" for name in sorted(idle)))
    exported = {version: " ".join(f"{name};" for name in sorted(names)) for version, names in symbols.items()}
    versions.write_text("".join(f"{version} {{ global: {names} }};\n" for version, names in exported.items()))
    compile_library(source, library, "the stub CUDA libraries", versions)
    (directory / "lib64").mkdir()
    runtime = (cuda_plugin.DRIVER, cuda_plugin.RUNTIME, cuda_plugin.RUNTIME_VERSION)
    # Copies, not links: the loader and ldd treat files with one inode as one library.
    for name in sorted({*_foreign_libraries(plugin), *runtime}):
        shutil.copy(library, directory / "lib64" / name)
    library.unlink()


def undefined_symbols(path: Path) -> dict[str, set[str]]:
    """The undefined symbols of an ELF file by required version ("" if none is required)."""
    from elftools.elf.elffile import ELFFile

    by_version: dict[str, set[str]] = defaultdict(set)
    with open(path, "rb") as stream:
        file = ELFFile(stream)
        needed, numbers = file.get_section_by_name(".gnu.version_r"), file.get_section_by_name(".gnu.version")
        version = {}
        if needed is not None:
            for _, parts in needed.iter_versions():
                version.update({part["vna_other"]: part.name for part in parts})
        symbols = file.get_section_by_name(".dynsym")
        sections = np.frombuffer(symbols.data(), np.uint8).reshape(-1, symbols["sh_entsize"])[:, 6:8]  # st_shndx
        for index in np.flatnonzero(~sections.any(axis=1)).tolist():  # undefined: no section
            if name := symbols.get_symbol(index).name:
                number = numbers.get_symbol(index)["ndx"] if version else 0
                by_version[version.get(number, "")].add(name)
    return by_version


def needed_libraries(path: Path) -> list[str]:
    """The names of the libraries that an ELF file is linked to."""
    from elftools.elf.elffile import ELFFile

    with open(path, "rb") as stream:
        return [tag.needed for tag in ELFFile(stream).get_section_by_name(".dynamic").iter_tags("DT_NEEDED")]


def _foreign_libraries(plugin: Path) -> list[str]:
    ours = {path.name for path in plugin.parent.glob("gpu*/*")}
    return [name for name in needed_libraries(plugin) if FOREIGN_LIBRARY.match(name) and name not in ours]


def compilers() -> list[list[str]]:
    """The C compilers of this machine as commands, the preferred one first."""
    commands = [[path] for path in map(shutil.which, ("cc", "gcc", "clang")) if path]
    if importlib.util.find_spec("ziglang") is not None:
        commands.append([sys.executable, "-m", "ziglang", "cc"])
    return commands


def compile_library(source: Path, library: Path, what: str, versions: Path | None = None) -> None:
    """Compile a shared library next to its source, with the symbol versions of a linker script. `what` it is, for an
    error message."""
    choice = compilers()
    if not choice:
        raise UserError(
            f"rehearsal: no C compiler (cc, gcc or clang on PATH, or Python's ziglang) to build {what} "
            "with; run `pip install ziglang`"
        )
    command = [*choice[0], "-w", "-shared", "-fPIC", "-O1", "-fno-builtin", "-nostdlib"]
    command += [f"-Wl,--version-script={versions.name}"] if versions else []
    command += ["-o", library.name, source.name]
    cache = dict.fromkeys(("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"), str(source.parent / "zig"))
    how = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": COMPILE_SECONDS}
    result = subprocess.run(command, cwd=source.parent, env={**os.environ, **cache}, check=False, **how)
    shutil.rmtree(source.parent / "zig", ignore_errors=True)
    if result.returncode or not library.is_file():
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise RunFailure(
            f"{' '.join(choice[0])}: could not compile {what} ({reason}); run `pip install ziglang` "
            "and take this compiler off PATH, or repair it"
        )


def fingerprint(plugin: Path, *modules: str) -> str:
    """A name that changes with MindSpore's plugin, the machine and the code that makes a folder of stubs for it: these
    files, and this one."""
    digest = hashlib.sha256(b"".join(Path(module).read_bytes() for module in (__file__, *modules)))
    digest.update(f"{importlib.metadata.version('mindspore')} {platform.machine()} {plugin.stat().st_size}".encode())
    return digest.hexdigest()[:16]
