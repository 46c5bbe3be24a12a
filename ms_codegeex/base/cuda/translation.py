"""Tell whether NVIDIA's driver has to translate kernels from PTX, for chips newer than MindSpore's machine code.

On an H100 the driver translated all of MindSpore's modules although it loaded them lazily. MindSpore's kernel library
contains its own CUDA runtime, and one older than 11.7 cannot load lazily. With the translations in the cache a process
starts in ten seconds; without them, in about seven minutes, on two of 16 cores."""

from __future__ import annotations

from collections.abc import Sequence

from ms_codegeex.base.cuda.driver import Gpu
from ms_codegeex.base.cuda.libraries import MACHINES, TRANSLATED, kernel_cache, translated_folder
from ms_codegeex.base.cuda.plugin import plugin_directory

MODULES = 407  # in libcuda_ops.so.11 of MindSpore 2.9.0; the cache has a file for each, and a few more


def is_translated(gpu: Gpu) -> bool:
    return gpu.capability == TRANSLATED and translated_folder(plugin_directory("device: gpu", MACHINES)).is_dir()


def translation_note(gpus: Sequence[Gpu]) -> str:
    """Return a note that this start translates kernels for minutes; "" if not, by the number of cached files."""
    newer = next((gpu for gpu in gpus if gpu.kernels == "PTX" and not is_translated(gpu)), None)
    if newer is None or sum(path.is_file() for path in kernel_cache().rglob("*")) >= MODULES:
        return ""
    return (
        f"{newer.name} is newer than MindSpore's machine code: the driver has to translate {MODULES} modules once, "
        f"which takes several minutes, and keeps them in {kernel_cache()}"
    )
