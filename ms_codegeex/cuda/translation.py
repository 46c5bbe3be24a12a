"""Kernels that NVIDIA's driver translates from PTX for chips newer than MindSpore's machine code.

MindSpore's kernel library is linked to CUDA 11.6's runtime statically, which loads all modules at the first kernel
(loading only what is used came with 11.7, so CUDA_MODULE_LOADING does not help). An H100 with the translations in its
cache starts in ten seconds; without them it took seven minutes on a machine with 16 cores, of which the translation
used two.
"""

from __future__ import annotations

from collections.abc import Sequence

from ms_codegeex.cuda.driver import Gpu
from ms_codegeex.cuda.libraries import kernel_cache

MODULES = 407  # of libcuda_ops.so.11 in MindSpore 2.9.0; the cache has a file for each, and a few of other libraries


def translation_note(gpus: Sequence[Gpu]) -> str:
    """That this start translates kernels and takes minutes; "" if it does not, by the number of files in the cache."""
    newer = next((gpu for gpu in gpus if gpu.kernels == "PTX"), None)
    if newer is None or sum(path.is_file() for path in kernel_cache().rglob("*")) >= MODULES:
        return ""
    return (
        f"{newer.name} is newer than MindSpore's machine code: the driver has to translate {MODULES} modules once, "
        f"which takes several minutes, and keeps them in {kernel_cache()}"
    )
