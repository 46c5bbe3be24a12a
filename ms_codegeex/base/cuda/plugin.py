"""Locate MindSpore's GPU plugin, and build the CUDA folder that it looks for. MindSpore asks `$CUDA_HOME/bin/nvcc` for
its version to choose a plugin, and takes CUDA's own version from the name of a file next to `libcudart.so.11.0`. To
MindSpore, a folder with these file names is a CUDA installation. With NVIDIA's libraries (`libraries.py`) it can
compute; with empty ones (`extras/cluster/rehearsal/stubs.py`) it can only partition graphs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ms_codegeex.base.cache import cached_folder
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.installed import mindspore_directory

PLUGIN, KERNELS = "lib/plugin/libmindspore_gpu.so.11.6", "lib/plugin/gpu/libcuda_ops.so.11"
DRIVER = "libcuda.so.1"
RUNTIME = "libcudart.so.11.0"
RUNTIME_VERSION = "libcudart.so.11.6.55"  # MindSpore reads CUDA's version from this name
NVCC = "#!/bin/sh\necho 'Cuda compilation tools, release 11.6, V11.6.55'\n"  # all MindSpore asks of the CUDA compiler


def plugin_directory(purpose: str, machines: Sequence[str]) -> Path:
    """Return MindSpore's folder, which has the GPU plugin. Raises `UserError` as `mindspore_directory` does."""
    advice = "came without the GPU plugin; install the wheel from PyPI (requirements.txt)"
    return mindspore_directory(purpose, machines, (PLUGIN, KERNELS), advice)


def cuda_folder(name: str, what: str, fill: Callable[[Path], None]) -> Path:
    """Return the CUDA folder `name` in the user's cache, created by `cached_folder`; `fill` must create `lib64`."""

    def with_nvcc(folder: Path) -> None:
        fill(folder)
        (folder / "bin").mkdir()
        (folder / "bin" / "nvcc").write_text(NVCC)
        (folder / "bin" / "nvcc").chmod(0o755)

    directory = cached_folder(name, what, with_nvcc)
    if not os.access(directory / "bin" / "nvcc", os.X_OK):  # MindSpore would wait for ever for nvcc
        remedy = "set XDG_CACHE_HOME to a folder on a file system that is not mounted with noexec"
        raise UserError(f"{directory}: programs in this folder may not be executed; {remedy}")
    return directory


def plugin_environment(directory: Path) -> dict[str, str]:
    """Return the variables by which a process finds the CUDA folder `directory` and the libraries in its `lib64`."""
    libraries, before = str(directory / "lib64"), os.environ.get("LD_LIBRARY_PATH", "")
    paths = [libraries, *(path for path in before.split(os.pathsep) if path not in ("", libraries))]
    return {"CUDA_HOME": str(directory), "LD_LIBRARY_PATH": os.pathsep.join(paths)}
