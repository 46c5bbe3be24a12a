"""Selects what runs a model (the compiled operators on a CPU, or MindSpore on any device) and checks its memory.
MindSpore is imported only where it is needed."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.host import available_memory, hide_rank_table
from ms_codegeex.base.printing import print_error
from ms_codegeex.generation.device_shares import DeviceExchange, SharedWeights
from ms_codegeex.generation.kernels.library import Library
from ms_codegeex.generation.kernels.network import KernelNetwork, without_operators
from ms_codegeex.generation.loading import Adapter
from ms_codegeex.generation.matrices import Weights
from ms_codegeex.generation.rows import Network, SlotSizes
from ms_codegeex.kernels.compiling import find_library
from ms_codegeex.kernels.levels import AUTO
from ms_codegeex.models.registry import Family

MAX_SLOTS = 16
TARGETS = {"cpu": "CPU", "gpu": "GPU", "ascend": "Ascend"}  # MindSpore's names
# device files in /dev; without any of these, MindSpore can only choose the CPU
ACCELERATORS = ("nvidia[0-9c]*", "dxg", "davinci*")


def device_target(devices: Path = Path("/dev")) -> str:
    """Return MindSpore's name for the kind of device that this process computes on. Unless it is
    imported already, MindSpore is asked only if the machine may have an accelerator."""
    if "mindspore" not in sys.modules and not any(any(devices.glob(each)) for each in ACCELERATORS):
        return "CPU"
    import mindspore as ms

    return ms.get_context("device_target")


def open_network(
    family: Family,
    config: Any,
    weights: Weights,
    sizes: SlotSizes,
    meeting: DeviceExchange | None = None,
    adapters: Sequence[Adapter] = (),
) -> Network:
    """Build a model's network in this process: with the compiled operators if they are requested and available,
    otherwise with MindSpore's. Raises `UserError` for `sizes` that it does not support."""
    library, slower = compiled_library(sizes.threads, sizes.cpu_level)
    if library is not None and (missing := without_operators(config)):
        prepare_mindspore()
        library, slower = None, f"none was compiled for {', '.join(missing)} of the family {family.name}"
    _check(weights, library is not None, sizes)
    if meeting is not None:
        weights = SharedWeights(weights, meeting.share)
        adapters = [adapter.part(weights) for adapter in adapters]
    if library is not None:
        return KernelNetwork(library, config, weights, sizes, meeting, adapters)
    from ms_codegeex.generation.network import LocalNetwork  # takes seconds to import

    return LocalNetwork(family.model, config, weights, sizes, meeting, adapters, slower)


def _check(weights: Weights, compiled: bool, sizes: SlotSizes) -> None:
    if sizes.cache_bits not in (32, 16):
        raise UserError(f"cache bits: {sizes.cache_bits}; choose 32 or 16")
    if sizes.activation_bits == 8 and weights.bits not in (8, 4):
        raise UserError("--fast: the model has no 8-bit or 4-bit weights; give one made by 'ms-codegeex quantize'")
    if not compiled and sizes.activation_bits == 8:
        raise UserError(
            "--fast: needs compiled operators; leave out --threads 0 and --device, or install g++ or 'ziglang'"
        )


def warn_if_slower(network: Network) -> None:
    """Print a warning to standard error if the network lacks the compiled operators that were requested."""
    if network.slower:
        print_error(f"warning: MindSpore's own operators decode, which takes several times as long: {network.slower}")


def compiled_library(threads: int, level: str = AUTO) -> tuple[Library | None, str]:
    """Return the compiled operators, or None with the reason why they are unavailable ("" if they were not requested).
    Raises `UserError` if they are missing although a `level` was given."""
    if threads < 1 or device_target() != "CPU":
        library, reason, said = None, "", "--threads 0, or a device that is not a CPU"
    else:
        path, reason = find_library(level)
        try:
            library = None if path is None else Library(path, threads)
        except OSError as error:  # e.g. the cache is on a noexec mount, or the library is from another machine
            library, reason = None, str(error)
        said = reason
    if library is None and level != AUTO:
        raise UserError(f"--cpu-level: {level}, but MindSpore's own operators compute ({said}); leave it out")
    return library, reason


def use_device(name: str, count: int = 1) -> None:
    """Make MindSpore compute on the kind of device `name`, a key of `TARGETS`. Raises `UserError` if it finds none, or
    fewer GPUs than `count`. To use GPUs, call `cuda.libraries.prepare` before MindSpore is imported."""
    target = TARGETS[name]
    if target == "CPU" == device_target():
        return
    import mindspore as ms

    logging.disable(logging.CRITICAL)  # MindSpore logs every library that it looks for
    try:
        available = ms.hal.is_available(target)
    finally:
        logging.disable(logging.NOTSET)
    if not available:
        raise UserError(
            f"--device: MindSpore finds no {name} here; run `ms-codegeex doctor` for details, or use --device cpu"
        )
    if name == "gpu":
        from ms_codegeex.base.cuda.driver import query_driver_in_subprocess
        from ms_codegeex.base.cuda.translation import translation_note

        driver = query_driver_in_subprocess()
        driver.check()
        if not (gpus := len(driver.gpus)):
            raise UserError(f"--device: {driver.problem}; run `ms-codegeex doctor` for details, or use --device cpu")
        if count > gpus:
            raise UserError(f"--devices: {count}, but {gpus} GPUs are here; check CUDA_VISIBLE_DEVICES, or give {gpus}")
        if note := translation_note(driver.gpus[:count]):
            print_error(note)
    ms.set_device(target)


def prepare_mindspore() -> None:
    """Select MindSpore's graph mode and hide a rank table. On a CPU without `grep` or `sed`, also run a first operator
    with standard error silenced: MindSpore calls both then to read the CPU's clock rate. It works without them, but the
    shell's complaint would appear in the middle of an answer."""
    import mindspore as ms

    ms.set_context(mode=ms.GRAPH_MODE)
    hide_rank_table()
    if ms.get_context("device_target") != "CPU" or all(map(shutil.which, ("grep", "sed"))):
        return
    sys.stderr.flush()
    shown = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        (ms.Tensor([1.0]) + 1).asnumpy()
    finally:
        os.dup2(shown, 2)
        os.close(shown)


def check_memory(needed: int) -> None:
    """Raise `UserError` if this process computes on a GPU with less than `needed` bytes free."""
    if device_target() == "GPU" and (free := free_memory()) is not None and needed > free:
        wrong = f"the model and its cache need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB of the GPU are free"
        raise UserError(f"--device: {wrong}; give fewer slots, --devices N, or --device cpu")


def free_memory() -> int | None:
    """Return the free bytes of the first GPU if MindSpore computes on GPUs, otherwise of the host; None if unknown."""
    if device_target() != "GPU":
        return available_memory()
    from ms_codegeex.base.cuda.driver import query_driver_in_subprocess

    return next((gpu.free for gpu in query_driver_in_subprocess().gpus), None)


def affordable_slots(each: int, weights: int) -> int:
    """Return how many slots of `each` bytes fit into half of the memory left by `weights`: 1 to `MAX_SLOTS`."""
    memory = free_memory()
    return MAX_SLOTS if memory is None else max(1, min(MAX_SLOTS, (memory - weights) // 2 // each))
