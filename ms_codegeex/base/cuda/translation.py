"""Kernels that NVIDIA's driver translates from PTX for chips newer than MindSpore's machine code. On an H100 the driver
loaded modules lazily, and still translated all of MindSpore's. Its kernel library imports no CUDA runtime, so it has
one of its own; if that is older than 11.7, it cannot load lazily. With the translations in the cache a process starts
in ten seconds; without them it took about seven minutes, on two of 16 cores."""

from __future__ import annotations

from collections.abc import Sequence

from ms_codegeex.base.cuda.driver import Gpu
from ms_codegeex.base.cuda.libraries import MACHINES, TRANSLATED, kernel_cache, translated_folder
from ms_codegeex.base.cuda.plugin import plugin_directory

MODULES = 407  # MindSpore 2.9.0's libcuda_ops.so.11 has as many; the cache has a file for each, and some more


def is_translated(gpu: Gpu) -> bool:
    return gpu.capability == TRANSLATED and translated_folder(plugin_directory("device: gpu", MACHINES)).is_dir()


def translation_note(gpus: Sequence[Gpu]) -> str:
    """That this start translates kernels and takes minutes; "" if it does not, by the number of files in the cache."""
    newer = next((gpu for gpu in gpus if gpu.kernels == "PTX" and not is_translated(gpu)), None)
    if newer is None or sum(path.is_file() for path in kernel_cache().rglob("*")) >= MODULES:
        return ""
    return (
        f"{newer.name} is newer than MindSpore's machine code: the driver has to translate {MODULES} modules once, "
        f"which takes several minutes, and keeps them in {kernel_cache()}"
    )
