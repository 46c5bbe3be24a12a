"""Which compiled operators a run trains with."""

from __future__ import annotations

import ctypes
from pathlib import Path

from ms_codegeex.config import RunConfig
from ms_codegeex.kernels.compiling import find_library, library_path


def uses_compiled_operators(config: RunConfig) -> bool:
    """Whether linear layers, attention, norms, activations and loss of this run are those of `ms_codegeex/kernels`
    where a compiler can build them: FP32 on a CPU, unless `parallel.fusion` says what attention and norms are made
    of."""
    fusion, training = config.parallel.fusion, config.training
    chosen = (fusion.attention, fusion.norm) != (None, None) or bool(fusion.graph_kernel)
    return config.device == "cpu" and training.precision == "fp32" and not config.partitioned and not chosen


def finds_compiled_operators(config: RunConfig) -> bool:
    """Whether a run trains with them on this machine, which builds them on first use."""
    return uses_compiled_operators(config) and library_path() is not None


def missing_operators(config: RunConfig) -> str:
    return find_library()[1] if uses_compiled_operators(config) else ""


def operators_library(config: RunConfig, threads: int) -> Path | None:
    """The library of these operators, which run on this many threads; None if the run uses MindSpore's own."""
    path = library_path() if uses_compiled_operators(config) else None
    if path is not None:
        ctypes.CDLL(str(path)).use_threads(ctypes.c_int64(threads))
    return path
