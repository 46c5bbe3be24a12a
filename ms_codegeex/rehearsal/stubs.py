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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ms_codegeex.errors import RunFailure, UserError
from ms_codegeex.files import atomic_directory, user_cache
from ms_codegeex.locks import take_lock

MACHINES = ("x86_64", "aarch64")
PLUGIN, KERNELS = "lib/plugin/libmindspore_gpu.so.11.6", "lib/plugin/gpu/libcuda_ops.so.11"
DRIVER = "libcuda.so.1"
NVCC = "#!/bin/sh\necho 'Cuda compilation tools, release 11.6, V11.6.55'\n"  # all MindSpore asks of the CUDA compiler
RUNTIME, RUNTIME_VERSION = "libcudart.so.11.0", "libcudart.so.11.6.55"  # MindSpore reads the version from this name
FOREIGN_LIBRARY = re.compile(r"lib(cu|nvrtc)")
FOREIGN_SYMBOL = re.compile(r"cu[a-zA-Z]|__cuda|nvrtc")
COMPILE_SECONDS = 300


def simulation_environment(rank: int, world: int) -> dict[str, str]:
    """Variables with which a new process compiles as rank `rank` of `world` devices; add them to `os.environ`.

    Builds the stub libraries if this user has none yet. Raises `UserError` where simulation is impossible.
    """
    return {**loader_environment(), **rank_environment(rank, world)}


def loader_environment() -> dict[str, str]:
    """The part of `simulation_environment` that the dynamic loader reads when a process starts."""
    libraries = stub_libraries()
    before = os.environ.get("LD_LIBRARY_PATH")
    return {
        "CUDA_HOME": str(libraries.parent),
        "LD_LIBRARY_PATH": f"{libraries}{os.pathsep}{before}" if before else str(libraries),
        "GLOG_v": "3",
    }


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
    plugin = _mindspore_directory() / PLUGIN
    directory = user_cache() / f"stubs-{_fingerprint(plugin)}"
    if not directory.is_dir():
        with _locked(directory.with_suffix(".lock")):
            if not directory.is_dir():
                with atomic_directory(directory) as temporary:
                    build(plugin, plugin.parents[2] / KERNELS, temporary)
    if not os.access(directory / "bin" / "nvcc", os.X_OK):  # MindSpore would wait for nvcc for ever
        raise UserError(
            f"{directory}: programs in this folder may not be executed; set XDG_CACHE_HOME to a folder on a file "
            "system that is not mounted with noexec"
        )
    return directory / "lib64"


def build(plugin: Path, kernels: Path, directory: Path) -> None:
    """Make `directory/lib64/*` and `directory/bin/nvcc` for the plugin and the kernel library of MindSpore's wheel."""
    wanted = undefined_symbols(plugin)
    symbols = {version: names for version, names in wanted.items() if FOREIGN_LIBRARY.match(version)}
    loose = {name for name in wanted[""] | undefined_symbols(kernels)[""] if FOREIGN_SYMBOL.match(name)}
    source, versions, library = directory / "stubs.c", directory / "stubs.map", directory / "stubs.so"
    source.write_text("".join(f"int {name}(void) {{ return 0; }}\n" for name in sorted(loose.union(*symbols.values()))))
    versions.write_text(
        "".join(
            f"{version} {{ global: {' '.join(f'{n};' for n in sorted(symbols[version]))} }};\n" for version in symbols
        )
    )
    _compile(source, versions, library)
    (directory / "lib64").mkdir()
    # Copies, not links: the loader and ldd treat files with one inode as one library.
    for name in sorted({*_foreign_libraries(plugin), DRIVER, RUNTIME, RUNTIME_VERSION}):
        shutil.copy(library, directory / "lib64" / name)
    library.unlink()
    (directory / "bin").mkdir()
    (directory / "bin" / "nvcc").write_text(NVCC)
    (directory / "bin" / "nvcc").chmod(0o755)


def undefined_symbols(path: Path) -> dict[str, set[str]]:
    """The undefined symbols of an ELF file by required version ("" if none is required)."""
    from elftools.elf.elffile import ELFFile

    found: dict[str, set[str]] = defaultdict(set)
    with open(path, "rb") as stream:
        file = ELFFile(stream)
        needed, numbers = file.get_section_by_name(".gnu.version_r"), file.get_section_by_name(".gnu.version")
        version = {}
        if needed is not None:
            for _, parts in needed.iter_versions():
                version.update({part["vna_other"]: part.name for part in parts})
        for index, symbol in enumerate(file.get_section_by_name(".dynsym").iter_symbols()):
            if symbol["st_shndx"] == "SHN_UNDEF" and symbol.name:
                number = numbers.get_symbol(index)["ndx"] if version else 0
                found[version.get(number, "")].add(symbol.name)
    return found


def _foreign_libraries(plugin: Path) -> list[str]:
    """The names of NVIDIA's libraries that the plugin is linked to."""
    from elftools.elf.elffile import ELFFile

    with open(plugin, "rb") as stream:
        needed = [tag.needed for tag in ELFFile(stream).get_section_by_name(".dynamic").iter_tags("DT_NEEDED")]
    ours = {path.name for path in plugin.parent.glob("gpu*/*")}
    return [name for name in needed if FOREIGN_LIBRARY.match(name) and name not in ours]


def compilers() -> list[list[str]]:
    """The C compilers of this machine as commands, the preferred one first."""
    found = [[path] for path in map(shutil.which, ("cc", "gcc", "clang")) if path]
    if importlib.util.find_spec("ziglang") is not None:
        found.append([sys.executable, "-m", "ziglang", "cc"])
    return found


def _compile(source: Path, versions: Path, library: Path) -> None:
    choice = compilers()
    if not choice:
        raise UserError(
            "rehearsal: no C compiler (cc, gcc or clang on PATH, or Python's ziglang) to build stub CUDA libraries "
            "with; run `pip install ziglang`"
        )
    command = [
        *choice[0],
        *("-w", "-shared", "-fPIC", "-O1", "-fno-builtin", "-nostdlib"),
        f"-Wl,--version-script={versions.name}",
        *("-o", library.name, source.name),
    ]
    cache = {"ZIG_GLOBAL_CACHE_DIR": str(source.parent / "zig"), "ZIG_LOCAL_CACHE_DIR": str(source.parent / "zig")}
    result = subprocess.run(
        command,
        cwd=source.parent,
        env={**os.environ, **cache},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMPILE_SECONDS,
        check=False,
    )
    shutil.rmtree(source.parent / "zig", ignore_errors=True)
    if result.returncode or not library.is_file():
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise RunFailure(
            f"{' '.join(choice[0])}: could not compile the stub CUDA libraries ({reason}); run `pip install ziglang` "
            "and take this compiler off PATH, or repair it"
        )


def _mindspore_directory() -> Path:
    """Where MindSpore is installed, without importing it; a `UserError` if its wheel cannot simulate a cluster."""
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        raise UserError(
            f"rehearsal: needs Linux on {' or '.join(MACHINES)}, this is {sys.platform} on {platform.machine()}; "
            "use such a machine or a container"
        )
    spec = importlib.util.find_spec("mindspore")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("rehearsal: MindSpore is not installed; run `pip install -r requirements.txt`")
    directory = Path(spec.submodule_search_locations[0])
    for file in (PLUGIN, KERNELS):
        if not (directory / file).is_file():
            raise UserError(
                f"{directory / file}: missing, MindSpore {importlib.metadata.version('mindspore')} came without the "
                "GPU plugin, which simulates a cluster; install the wheel from PyPI (requirements.txt)"
            )
    return directory


def _fingerprint(plugin: Path) -> str:
    """A name that changes with MindSpore, the machine and this file."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update(f"{importlib.metadata.version('mindspore')} {platform.machine()} {plugin.stat().st_size}".encode())
    return digest.hexdigest()[:16]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for the lock file `path` and hold it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = take_lock(path, wait=True)
    except OSError as error:
        raise UserError(
            f"{path.parent}: the stub CUDA libraries cannot be stored here ({error.strerror}); set XDG_CACHE_HOME to a "
            "folder you can write to"
        ) from error
    try:
        yield
    finally:
        os.close(lock)
