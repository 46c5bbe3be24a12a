"""Load the CUDA libraries that MindSpore's GPU plugin is linked to, from NVIDIA's packages on PyPI or from the system.
`prepare` readies a process for importing MindSpore with its GPU back end, without LD_LIBRARY_PATH or a CUDA toolkit.
The libraries are loaded before the plugin and by their full paths. Otherwise the loader could pick libraries of the
same name elsewhere, such as those of a newer /usr/local/cuda."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from ms_codegeex.base.cache import user_cache
from ms_codegeex.base.cuda.plugin import (
    DRIVER,
    KERNELS,
    PLUGIN,
    RUNTIME,
    RUNTIME_VERSION,
    cuda_folder,
    plugin_directory,
    plugin_environment,
)
from ms_codegeex.base.errors import RunFailure, UserError

MACHINES = ("x86_64",)  # with NVIDIA's packages, and a tested GPU back end in the wheel
INSTALL = "pip install 'ms-codegeex[gpu]' (in a checkout: bash ascend_scripts/setup.sh --gpu)"
CUDNN_VERSION = "libcudnn.so.8.9"  # MindSpore reads cuDNN's version from this name
# Compute capability for which set-up translates kernels: the newest that CUDA 11.8 can assemble for.
TRANSLATED = (9, 0)
KERNEL_CACHE_BYTES = 4_000_000_000  # cache limit for translated kernels; MindSpore's own value


@dataclass(frozen=True)
class CudaLibrary:
    """A library: its soname, and the folder in `nvidia/` into which NVIDIA's package installs it."""

    soname: str
    folder: str


# In dependency order. cuDNN opens its parts itself, from its own folder.
LIBRARIES = (
    CudaLibrary(RUNTIME, "cuda_runtime"),
    CudaLibrary("libnvrtc.so.11.2", "cuda_nvrtc"),
    CudaLibrary("libcublasLt.so.11", "cublas"),
    CudaLibrary("libcublas.so.11", "cublas"),
    CudaLibrary("libcudnn.so.8", "cudnn"),
    CudaLibrary("libcurand.so.10", "curand"),
    CudaLibrary("libcufft.so.10", "cufft"),
    CudaLibrary("libcusparse.so.11", "cusparse"),
    CudaLibrary("libcusolver.so.11", "cusolver"),
)


@dataclass(frozen=True)
class LoadedLibrary:
    """The result of loading a library: its path, or what is wrong with it."""

    library: CudaLibrary
    path: Path | None
    problem: str = ""


def prepare() -> None:
    """Prepare this process and its children for `device: gpu`. Call it before MindSpore is imported. Raises `UserError`
    if a library or the driver is missing, or if MindSpore has no GPU back end here; `RunFailure` if MindSpore has
    already been imported without it."""
    directory = plugin_directory("device: gpu", MACHINES)
    loaded = load_libraries()
    check_loaded(loaded)
    if problem := load(DRIVER):
        raise UserError(f"device: gpu: no NVIDIA driver ({problem}); install it, or choose the device cpu")
    environment = cuda_environment({one.library.soname: one.path for one in loaded if one.path})
    if "mindspore" in sys.modules and os.environ.get("CUDA_HOME") != environment["CUDA_HOME"]:
        wrong = "MindSpore was imported before the CUDA libraries were loaded"
        remedy = "start the program with `python -m ms_codegeex.base.cuda PROGRAM`"
        raise RunFailure(f"device: gpu: {wrong}; call ms_codegeex.base.cuda.libraries.prepare() first, or {remedy}")
    os.environ.update(environment)
    translated = translated_folder(directory)
    if translated.is_dir() and (problem := load(translated / PLUGIN)):
        raise UserError(f"device: gpu: {translated / PLUGIN} cannot be loaded ({problem}); remove {translated}")


def check_loaded(loaded: list[LoadedLibrary]) -> None:
    """Raise `UserError` if a library has a problem; the message names the libraries and the remedy."""
    wrong = [one for one in loaded if one.problem]
    if wrong:
        every = len(wrong) == len(loaded)
        names = "the CUDA libraries" if every else ", ".join(one.library.soname for one in wrong)
        raise UserError(f"device: gpu: {names} cannot be loaded ({wrong[0].problem}); run {INSTALL}")


def load_libraries() -> list[LoadedLibrary]:
    """Load all of `LIBRARIES` into this process and return the results."""
    loaded = []
    for library in LIBRARIES:
        path = packaged(f"{library.folder}/lib/{library.soname}")
        problem = load(path or library.soname)
        loaded.append(LoadedLibrary(library, path or (None if problem else _mapped(library.soname)), problem))
    return loaded


def load(library: str | Path) -> str:
    """Load a shared library into this process. Return what is wrong with it, "" for nothing."""
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error)
    return ""


def packaged(name: str) -> Path | None:
    """Return the path of file `name` in one of NVIDIA's packages, or None if it is not installed."""
    spec = importlib.util.find_spec("nvidia")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(location) / name
        if path.is_file():
            return path
    return None


def _mapped(soname: str) -> Path | None:
    paths = (Path(mapped.path) for mapped in psutil.Process().memory_maps())
    # the mapped file's name may have a longer version: libcublas.so.11.10.1.25
    return next((path for path in paths if path.name == soname or path.name.startswith(f"{soname}.")), None)


def cuda_environment(paths: Mapping[str, Path]) -> dict[str, str]:
    """Return the variables for a process that computes on GPUs with the libraries at `paths`, keyed by soname. Creates
    the CUDA folder that they refer to. A kernel cache that the user has chosen is kept."""
    size = os.environ.get("CUDA_CACHE_MAXSIZE", str(KERNEL_CACHE_BYTES))
    key = hashlib.sha256("\0".join(f"{name}={path}" for name, path in sorted(paths.items())).encode()).hexdigest()
    links = cuda_folder(f"cuda-{key[:16]}", "links to the CUDA libraries", lambda folder: _fill(folder, paths))
    return {**plugin_environment(links), "CUDA_CACHE_PATH": str(kernel_cache()), "CUDA_CACHE_MAXSIZE": size}


def kernel_cache() -> Path:
    return Path(os.environ.get("CUDA_CACHE_PATH") or user_cache() / "cuda-kernels")


def translated_folder(directory: Path) -> Path:
    """Return the folder in which set-up puts MindSpore's kernels with machine code for `TRANSLATED`
    (`ascend_scripts/translate_kernels.py`): links to the libraries in MindSpore's `directory`, and a translated copy of
    `KERNELS`. The plugin looks for its kernels next to the path from which it is first loaded. MindSpore later loads it
    by another path, but gets the copy that is already loaded."""
    of = f"{importlib.metadata.version('mindspore')} {(directory / KERNELS).stat().st_size} {directory}"
    return user_cache() / f"cuda-translated-{hashlib.sha256(of.encode()).hexdigest()[:16]}"


def _fill(directory: Path, paths: Mapping[str, Path]) -> None:
    libraries = directory / "lib64"
    libraries.mkdir()
    versions = {RUNTIME: RUNTIME_VERSION, "libcudnn.so.8": CUDNN_VERSION}
    for soname, path in paths.items():
        for name in (soname, f"{soname.partition('.so')[0]}.so", versions.get(soname)):
            if name:
                (libraries / name).symlink_to(path)
