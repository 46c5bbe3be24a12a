"""Choose between compiled operators and MindSpore's own for a training run."""

from __future__ import annotations

import ctypes
from pathlib import Path

from ms_codegeex.config import RunConfig
from ms_codegeex.kernels.compiling import find_library, library_path


def uses_compiled_operators(config: RunConfig) -> bool:
    """Return whether the run is to use the linear layers, attention, norms, activations and loss of
    `ms_codegeex/kernels` where a compiler can build them: in FP32 on a CPU, unless `parallel.fusion` chooses how
    attention and norms are computed."""
    fusion, training = config.parallel.fusion, config.training
    chosen = (fusion.attention, fusion.norm) != (None, None) or bool(fusion.graph_kernel)
    return config.device == "cpu" and training.precision == "fp32" and not config.partitioned and not chosen


def finds_compiled_operators(config: RunConfig) -> bool:
    """Return whether the run uses compiled operators on this machine. The first call builds them."""
    return uses_compiled_operators(config) and library_path() is not None


def missing_operators(config: RunConfig) -> str:
    return find_library()[1] if uses_compiled_operators(config) else ""


def operators_library(config: RunConfig, threads: int) -> Path | None:
    """Return the library of compiled operators for this number of threads, or None if the run uses MindSpore's own."""
    path = library_path() if uses_compiled_operators(config) else None
    if path is not None:
        ctypes.CDLL(str(path)).use_threads(ctypes.c_int64(threads))
    return path
