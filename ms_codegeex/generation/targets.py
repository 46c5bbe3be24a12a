"""The kind of device that computes, and its memory."""

from __future__ import annotations

import logging
import os
import shutil
import sys

import mindspore as ms

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.host import available_memory, hide_rank_table
from ms_codegeex.base.printing import print_error
from ms_codegeex.cuda.driver import query_driver_in_subprocess
from ms_codegeex.cuda.translation import translation_note

MAX_SLOTS = 16
TARGETS = {"cpu": "CPU", "gpu": "GPU", "ascend": "Ascend"}  # MindSpore's names


def use_device(name: str, count: int = 1) -> None:
    """Compute on devices of this kind, a key of `TARGETS`. `UserError` if MindSpore finds none, or fewer GPUs than
    `count`. A process that is to use GPUs is prepared before it imports MindSpore (`cuda.libraries.prepare`)."""
    target = TARGETS[name]
    if ms.get_context("device_target") == target == "CPU":
        return
    logging.disable(logging.CRITICAL)  # MindSpore prints at length which libraries it has looked for
    try:
        available = ms.hal.is_available(target)
    finally:
        logging.disable(logging.NOTSET)
    if not available:
        raise UserError(
            f"--device: MindSpore finds no {name} here; run `ms-codegeex doctor` for details, or use --device cpu"
        )
    if name == "gpu":
        driver = query_driver_in_subprocess()
        driver.check()
        if not (gpus := len(driver.gpus)):
            raise UserError(f"--device: {driver.problem}; run `ms-codegeex doctor` for details, or use --device cpu")
        if count > gpus:
            raise UserError(f"--devices: {count}, but {gpus} GPUs are here; check CUDA_VISIBLE_DEVICES, or give {gpus}")
        if note := translation_note(driver.gpus[:count]):
            print_error(note)
    ms.set_device(target)


def prepare_engine() -> None:
    """Hide a rank table; and on a CPU run a first operator where it would print: MindSpore then reads the clock of the
    CPU with `grep` and `sed`, and does without if they are missing, but the shell complains in the middle of an answer.
    """
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
    """`UserError` if the GPU that computes has less than `needed` bytes free."""
    if ms.get_context("device_target") == "GPU" and (free := free_memory()) is not None and needed > free:
        wrong = f"the model and its cache need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB of the GPU are free"
        raise UserError(f"--device: {wrong}; give fewer slots, --devices N, or --device cpu")


def free_memory() -> int | None:
    """Bytes available to a model on its device: the free ones of the first GPU, otherwise the host's."""
    if ms.get_context("device_target") != "GPU":
        return available_memory()
    return next((gpu.free for gpu in query_driver_in_subprocess().gpus), None)


def affordable_slots(each: int, weights: int) -> int:
    """The number of slots of `each` bytes that fit into half of the memory left by `weights`: 1 to `MAX_SLOTS`."""
    memory = free_memory()
    return MAX_SLOTS if memory is None else max(1, min(MAX_SLOTS, (memory - weights) // 2 // each))
