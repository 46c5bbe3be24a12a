"""The peak FLOP/s of a device, the reference for MFU: published for an Ascend, otherwise measured."""

from __future__ import annotations

import contextlib
import platform
import time

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.base.reading import read_json
from ms_codegeex.config import RunConfig
from ms_codegeex.runs.run_directory import RunDirectory


def measure_matmul_peak(
    ranks: int = 1, size: int = 1024, seconds: float = 0.6, precision: str = "fp32", at_once: int = 1
) -> float:
    """FLOP/s of matrix products while all ranks measure at once: the reference for MFU on a CPU or GPU.

    The result is the best over `seconds`, since other programs only slow it down. It is measured after a barrier,
    because the ranks of one machine share its cores. With `at_once` above 1, that many products are started before the
    rank waits for the last of them. No result is copied from the device, which would take longer than the product.
    """
    import mindspore as ms
    import numpy as np
    from mindspore import Tensor, ops

    number = {"fp32": ms.float32, "fp16": ms.float16, "bf16": ms.bfloat16}[precision]
    a, matmul, times = Tensor(np.ones((size, size), np.float32), number), ops.MatMul(), []
    matmul(a, a).asnumpy()
    if ranks > 1:
        ops.AllReduce()(Tensor(np.zeros(1, np.float32))).asnumpy()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        for _ in range(at_once):
            product = matmul(a, a)
        if at_once == 1:
            product.asnumpy()
        else:
            ms.runtime.synchronize()
        times.append((time.perf_counter() - began) / at_once)
    return 2 * size**3 / min(times)


def matmul_peak(config: RunConfig) -> float:
    """Peak FLOP/s of a device in the precision of the run, the reference for MFU: published for an Ascend, otherwise
    measured."""
    from ms_codegeex.config.chosen_hardware import running_on

    precision = config.training.precision
    if config.device == "ascend":
        return running_on(config).peak(precision)
    if config.device == "gpu":
        return measure_matmul_peak(config.devices, size=8192, precision=precision, at_once=16)
    return measure_matmul_peak(config.devices)


def kept_peak(config: RunConfig, run: RunDirectory, rank: int, launcher: str | None) -> float:
    """The same, measured once for all attempts of a command.

    Either all ranks measure or none does, since they synchronise while measuring; so rank 0 writes the file only
    afterwards. On several servers, the file system may show it only to some ranks, so there each attempt measures.
    """
    if launcher is None or config.device == "ascend" or run.servers.is_dir():
        return matmul_peak(config)
    of = {"command": [platform.node(), launcher], "devices": config.devices, "precision": config.training.precision}
    with contextlib.suppress(UserError):
        if run.peak.is_file() and (kept := read_json(run.peak))["of"] == of:
            return kept["flops"]
    flops = matmul_peak(config)
    if rank == 0:
        with contextlib.suppress(UserError):  # a full disk
            write_json(run.peak, {"of": of, "flops": flops})
    return flops
